"""`llmaas keys`: making, showing, changing, revoking and rotating API keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmaas.cli import output
from llmaas.cli.actor import operator
from llmaas.cli.parameters import JsonFlag, duration_ms, name, words
from llmaas.cli.place import Place, at_place
from llmaas.cli.projects import require_project
from llmaas.domain.access import model_ids
from llmaas.domain.addresses import parse_network
from llmaas.domain.budgets import DAY_MS, budget_ids, day_name
from llmaas.domain.keys import Key, Permission
from llmaas.domain.limits import UNLIMITED, Limits
from llmaas.domain.prices import format_amount, parse_amount
from llmaas.domain.projects import DEFAULT_PROJECT
from llmaas.errors import NotFound

if TYPE_CHECKING:
    from llmaas.datadir import Installation

commands = typer.Typer(help="API keys: create, list, show, change, revoke, rotate.", no_args_is_help=True)
_LIMITS = "Limits"
_ANYTHING = "any"
_COUNTS = tuple(field.name for field in dataclasses.fields(Limits) if not field.name.startswith("budget_"))
_BUDGETS = {"total": "budget_total", "month": "budget_per_month", "day": "budget_per_day"}
Period = Literal["total", "month", "day"]
KeyArgument = Annotated[str, typer.Argument(metavar="ID", help="The key's id, or a leaked key itself.")]


def _count(text: str) -> Any:
    return typer.Option(min=1, max=10**12, metavar="N", help=text, rich_help_panel=_LIMITS)


RequestsPerMinute = Annotated[int | None, _count("Most requests in a minute.")]
TokensPerMinute = Annotated[int | None, _count("Most tokens in a minute, input and output.")]
ConcurrentRequests = Annotated[int | None, _count("Most requests at once.")]
OutputTokensPerHour = Annotated[int | None, _count("Most output tokens in an hour (UTC).")]
OutputTokensPerDay = Annotated[int | None, _count("Most output tokens in a day (UTC).")]
Budget = Annotated[
    str | None, typer.Option(metavar="AMOUNT", help="Most money, for example 5.00.", rich_help_panel=_LIMITS)
]
BudgetPeriod = Annotated[
    Period, typer.Option(help="What the budget is for: ever, a month or a day (UTC).", rich_help_panel=_LIMITS)
]
Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--network", metavar="CIDR", help="It works from here only; may be repeated.", rich_help_panel=_LIMITS
    ),
]


@commands.command()
@at_place
def create(
    place: Place,
    *,
    key_name: Annotated[str, typer.Option("--name", help="What the key is for.")],
    project: Annotated[str, typer.Option(help="The project that the key belongs to.")] = DEFAULT_PROJECT,
    models: Annotated[str | None, typer.Option(metavar="A,B", help="The only models that it may use.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="TIME", help="How long it works, for example 30d.")] = None,
    permission: Annotated[
        list[Permission] | None, typer.Option(help="What it may do; may be repeated. Default: inference:use.")
    ] = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    concurrent_requests: ConcurrentRequests = None,
    output_tokens_per_hour: OutputTokensPerHour = None,
    output_tokens_per_day: OutputTokensPerDay = None,
    budget: Budget = None,
    budget_period: BudgetPeriod = "total",
    network: Networks = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key. It is printed once and cannot be shown again."""
    name(key_name, "--name")
    counts = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent_requests": concurrent_requests,
        "output_tokens_per_hour": output_tokens_per_hour,
        "output_tokens_per_day": output_tokens_per_day,
    }
    limits, networks = _limits(UNLIMITED, counts, budget, budget_period), _networks(network)
    lifetime_ms = duration_ms(expires, "--expires") if expires else None
    wanted = words(models)
    if models is not None and not wanted:
        raise typer.BadParameter("names no model", param_hint="--models")

    async def work(installation: Installation) -> tuple[str, Key]:
        return await installation.create_key(
            project_id=project,
            name=key_name,
            expires_ms=installation.clock.now_ms() + lifetime_ms if lifetime_ms else None,
            allowed_models=model_ids(await installation.present_catalogue(), wanted),
            permissions=frozenset(permission or [Permission.INFERENCE_USE]),
            limits=limits,
            networks=networks,
            by=operator(),
        )

    _print_new(*place.run(work), as_json=as_json)


@commands.command("list")
@at_place
def list_keys(
    place: Place,
    *,
    project: Annotated[str | None, typer.Option(help="Only the keys of this project.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List keys with their state."""

    async def work(installation: Installation) -> tuple[list[Key], int]:
        if project is not None:
            await require_project(installation, project)
        return await installation.keys.list(project), installation.clock.now_ms()

    keys, now_ms = place.run(work)
    if as_json:
        output.json_list(_record(key, now_ms) for key in keys)
    elif keys:
        columns = ["id", "project", "name", "state", "created", "expires", "models", "permissions"]
        output.table(columns, [_row(key, now_ms) for key in keys])
    else:
        output.note("no keys yet: llmaas keys create --name NAME")


@commands.command()
@at_place
def show(place: Place, *, key_id: KeyArgument, as_json: JsonFlag = False) -> None:
    """Show a key, what it may, its limits and what is spent of its budgets. The key itself is nowhere."""

    async def work(installation: Installation) -> tuple[Key, int, dict[str, int]]:
        key, now_ms = await _find(installation, key_id), installation.clock.now_ms()
        return key, now_ms, await _spent(installation, key, now_ms)

    key, now_ms, spent = place.run(work)
    values = {**_record(key, now_ms), "spent": {name: format_amount(amount) for name, amount in spent.items()}}
    if as_json:
        output.json_object(values)
    else:
        limits = values.pop("limits")
        for name in values.pop("spent"):
            left = max(0, getattr(key.limits, name) - spent[name])
            limits[name] += f", {format_amount(spent[name])} spent, {format_amount(left)} left"
        if key.revoked_ms is not None and key.revoked_ms > now_ms:
            values = {"stops" if what == "revoked" else what: value for what, value in values.items()}
        shown = {**values, **limits}
        output.table(["what", "value"], [[what, value] for what, value in shown.items() if value not in (None, [])])


@commands.command()
@at_place
def change(
    place: Place,
    *,
    key_id: KeyArgument,
    key_name: Annotated[str | None, typer.Option("--name", help="What the key is for.")] = None,
    models: Annotated[
        str | None, typer.Option(metavar="A,B", help=f"The only models that it may use; {_ANYTHING}: all.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long it works from now, for example 30d; never: for ever.")
    ] = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    concurrent_requests: ConcurrentRequests = None,
    output_tokens_per_hour: OutputTokensPerHour = None,
    output_tokens_per_day: OutputTokensPerDay = None,
    budget: Budget = None,
    budget_period: BudgetPeriod = "total",
    network: Networks = None,
    no_limit: Annotated[
        list[str] | None,
        typer.Option(metavar="LIMIT", help="Lift this limit, or network; may be repeated.", rich_help_panel=_LIMITS),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Change a key. What is not named stays as it is. Running servers follow within a second."""
    counts = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent_requests": concurrent_requests,
        "output_tokens_per_hour": output_tokens_per_hour,
        "output_tokens_per_day": output_tokens_per_day,
    }
    lifted = _lifted(no_limit)
    named = (key_name, models, expires, budget, network, no_limit, *counts.values())
    if all(value is None or value == [] for value in named):
        raise typer.BadParameter("nothing to change: name at least one option")
    changes: dict[str, Any] = {} if key_name is None else {"name": name(key_name, "--name")}
    if network is not None or "networks" in lifted:
        changes["networks"] = _networks(network)
    lifetime_ms = duration_ms(expires, "--expires") if expires not in (None, "never") and expires else None

    async def work(installation: Installation) -> tuple[Key, int]:
        seen, now_ms = await _find(installation, key_id), installation.clock.now_ms()
        if models is not None:
            wanted = [] if models == _ANYTHING else words(models)
            catalogue = await installation.present_catalogue()
            changes["allowed_models"] = model_ids(catalogue, wanted, kept=seen.allowed_models)
        if expires is not None:
            changes["expires_ms"] = None if lifetime_ms is None else now_ms + lifetime_ms
        cleared = dataclasses.replace(seen.limits, **dict.fromkeys(lifted - {"networks"}))
        changes["limits"] = _limits(cleared, counts, budget, budget_period)
        return await installation.keys.change(seen, changes, by=operator()), now_ms

    key, now_ms = place.run(work)
    if as_json:
        output.json_object(_record(key, now_ms))
    else:
        print(f"changed {key.id} ({key.name})")


@commands.command()
@at_place
def revoke(place: Place, *, key_id: KeyArgument) -> None:
    """Stop a key now. Running servers refuse it within a second."""

    async def work(installation: Installation) -> Key:
        return await installation.keys.revoke(_kid(key_id), installation.clock.now_ms(), by=operator())

    key = place.run(work)
    print(f"revoked {key.id} ({key.name})")


@commands.command()
@at_place
def rotate(
    place: Place,
    *,
    key_id: KeyArgument,
    overlap: Annotated[str, typer.Option(metavar="TIME", help="How long the old key goes on working.")] = "24h",
    as_json: JsonFlag = False,
) -> None:
    """Make a successor with the same rights and limits, and stop the old key after the overlap.

    Of a total budget the successor gets what is left now; until the old key stops, both have theirs.
    """
    overlap_ms = duration_ms(overlap, "--overlap", at_least_s=0)

    async def work(installation: Installation) -> tuple[str, Key]:
        return await installation.rotate_key(await _find(installation, key_id), overlap_ms=overlap_ms, by=operator())

    _print_new(*place.run(work), as_json=as_json)
    output.note(f"{_kid(key_id)} stops working {'in ' + overlap if overlap_ms else 'now'}")


async def _spent(installation: Installation, key: Key, now_ms: int) -> dict[str, int]:
    """Of each budget that the key has, in its present day or month or ever, together with the keys of its rotation."""
    total, month, day, *_ = budget_ids(key.limits_id, key.project_id, day_name(now_ms // DAY_MS))
    ids = {"budget_total": total, "budget_per_month": month, "budget_per_day": day}
    ids = {name: budget_id for name, budget_id in ids.items() if getattr(key.limits, name) is not None}
    standing = await installation.budgets.standing(list(ids.values())) if ids else {}
    return {name: standing[budget_id].spent_nano for name, budget_id in ids.items()}


async def _find(installation: Installation, key_id: str) -> Key:
    key = await installation.keys.get(_kid(key_id))
    if key is None:
        raise NotFound(f"There is no key `{_kid(key_id)}`.", param="key")
    return key


def _limits(present: Limits, counts: Mapping[str, int | None], budget: str | None, period: Period) -> Limits:
    """The present limits with those that are given over them."""
    given: dict[str, Any] = {limit: count for limit, count in counts.items() if count is not None}
    if budget is None and period != "total":
        raise typer.BadParameter("says nothing without --budget", param_hint="--budget-period")
    if budget is not None:
        try:
            given[_BUDGETS[period]] = parse_amount(budget)
        except ValueError as error:
            raise typer.BadParameter(f"{budget!r} {error}", param_hint="--budget") from None
    return dataclasses.replace(present, **given)


def _networks(texts: Sequence[str] | None) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for text in texts or ():
        try:
            found[parse_network(text)] = None
        except ValueError as error:
            raise typer.BadParameter(f"{text!r} {error}", param_hint="--network") from None
    return tuple(found)


def _lifted(names: Sequence[str] | None) -> set[str]:
    known = {**{name.replace("_", "-"): name for name in _COUNTS}, "network": "networks"}
    known.update({f"budget-{period}": field for period, field in _BUDGETS.items()})
    for text in names or ():
        if text not in known:
            raise typer.BadParameter(f"{text!r} is none of {', '.join(known)}", param_hint="--no-limit")
    return {known[text] for text in names or ()}


def _kid(text: str) -> str:
    """The id within a whole or masked key (`llmaas_<id>_…`), or the text itself."""
    brand, _, rest = text.partition("_")
    return rest.partition("_")[0] if brand == "llmaas" and rest else text


def _print_new(token: str, key: Key, *, as_json: bool) -> None:
    if as_json:
        output.json_object({"key": token, "id": key.id})
        return
    print(token)
    until = f" until {output.day_and_time(key.expires_ms)}" if key.expires_ms is not None else ""
    output.note(f"key {key.id} of project {key.project_id} works{until}; it is shown only now")


def _record(key: Key, now_ms: int) -> dict[str, Any]:
    return {
        "id": key.id,
        "project": key.project_id,
        "name": key.name,
        "state": key.state_at(now_ms),
        "created": output.moment(key.created_ms),
        "expires": output.moment(key.expires_ms),
        "revoked": output.moment(key.revoked_ms),
        "models": sorted(key.allowed_models),
        "permissions": sorted(key.permissions),
        "rotated_from": key.rotated_from,
        "owner": key.owner_id,
        "networks": list(key.networks),
        "limits": limits_record(key.limits),
    }


def limits_record(limits: Limits) -> dict[str, int | str]:
    """Those that are set; money as decimals."""
    given = {name: value for name, value in dataclasses.asdict(limits).items() if value is not None}
    return {name: format_amount(value) if name.startswith("budget_") else value for name, value in given.items()}


def _row(key: Key, now_ms: int) -> list[object]:
    ends = min((ms for ms in (key.expires_ms, key.revoked_ms) if ms is not None), default=None)
    return [
        key.id,
        key.project_id,
        key.name,
        key.state_at(now_ms),
        output.day_and_time(key.created_ms),
        output.day_and_time(ends),
        sorted(key.allowed_models) or "all",
        sorted(key.permissions),
    ]
