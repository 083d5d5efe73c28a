"""`llmaas keys`: making, listing, revoking and rotating API keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmaas.cli import output
from llmaas.cli.parameters import JsonFlag, duration_ms, name, words
from llmaas.cli.place import Place, at_place
from llmaas.cli.projects import require_project
from llmaas.domain.keys import Key, Permission
from llmaas.domain.projects import DEFAULT_PROJECT
from llmaas.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from llmaas.app import Installation

commands = typer.Typer(help="API keys: create, list, revoke, rotate.", no_args_is_help=True)
KeyArgument = Annotated[str, typer.Argument(metavar="ID", help="The key's id, or a leaked key itself.")]


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
    as_json: JsonFlag = False,
) -> None:
    """Make a key. It is printed once and cannot be shown again."""
    name(key_name, "--name")
    lifetime_ms = duration_ms(expires, "--expires") if expires else None
    wanted = words(models)
    if models is not None and not wanted:
        raise typer.BadParameter("names no model", param_hint="--models")

    async def work(installation: Installation) -> tuple[str, Key]:
        return await installation.create_key(
            project_id=project,
            name=key_name,
            expires_ms=installation.clock.now_ms() + lifetime_ms if lifetime_ms else None,
            allowed_models=await _resolve(installation, wanted),
            permissions=frozenset(permission or [Permission.INFERENCE_USE]),
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
def revoke(place: Place, *, key_id: KeyArgument) -> None:
    """Stop a key now. Running servers refuse it within a second."""

    async def work(installation: Installation) -> Key:
        return await installation.keys.revoke(_kid(key_id), installation.clock.now_ms())

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
    """Make a successor with the same rights, and stop the old key after the overlap."""
    overlap_ms = duration_ms(overlap, "--overlap", at_least_s=0)

    async def work(installation: Installation) -> tuple[str, Key]:
        old = await installation.keys.get(_kid(key_id))
        if old is None:
            raise NotFound(f"There is no key `{_kid(key_id)}`.", param="key")
        return await installation.rotate_key(old, overlap_ms=overlap_ms)

    _print_new(*place.run(work), as_json=as_json)
    output.note(f"{_kid(key_id)} stops working {'in ' + overlap if overlap_ms else 'now'}")


async def _resolve(installation: Installation, wanted: Sequence[str]) -> frozenset[str]:
    """The ids that names and aliases mean."""
    catalogue = await installation.catalogue.load()
    found = {name: catalogue.resolve(name) for name in wanted}
    unknown = [name for name, entry in found.items() if entry is None]
    if unknown:
        known = ", ".join(entry.model.id for entry in catalogue.listed()) or "none yet"
        text = ", ".join(f"`{name}`" for name in unknown)
        raise InvalidRequest(f"There is no model {text}. Known models: {known}.", param="models")
    return frozenset(entry.model.id for entry in found.values() if entry is not None)


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
    }


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
