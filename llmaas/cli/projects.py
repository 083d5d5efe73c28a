"""`llmaas projects`: the tenants, their tiers and their credit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmaas.cli import output
from llmaas.cli.actor import operator
from llmaas.cli.parameters import JsonFlag, amount_nano, name
from llmaas.cli.place import Place, at_place
from llmaas.domain.credit import Balance, CreditEntry, CreditKind
from llmaas.domain.prices import format_amount
from llmaas.domain.projects import Project, unknown_project, valid_id
from llmaas.errors import Conflict, NotFound

if TYPE_CHECKING:
    from llmaas.datadir import Installation

commands = typer.Typer(help="Projects, which own keys and usage: create, list, set, credit.", no_args_is_help=True)
_NONE = "none"
_SHOWN_ENTRIES = 20
ProjectArgument = Annotated[str, typer.Argument(metavar="ID", help="The project's id.")]
Warn = Annotated[
    str | None, typer.Option("--low-credit", metavar="AMOUNT", help="Alert when the credit falls below this.")
]


@commands.command()
@at_place
def create(
    place: Place,
    *,
    project_id: Annotated[str, typer.Argument(metavar="ID", help="Lower-case letters, digits, dots and dashes.")],
    shown_name: Annotated[str | None, typer.Option("--name", help="What people call it; default: the id.")] = None,
    tier: Annotated[str | None, typer.Option(help="The tier that it is on; default: none, so no limits.")] = None,
    low_credit: Warn = None,
) -> None:
    """Make a project."""
    if not valid_id(project_id):
        form = "1 to 64 lower-case letters, digits, dots, dashes and underscores"
        raise typer.BadParameter(f"must be {form}, with a letter or digit at both ends", param_hint="ID")
    shown = project_id if shown_name is None else name(shown_name, "--name")
    warn_at = None if low_credit is None else amount_nano(low_credit, "--low-credit")

    async def work(installation: Installation) -> None:
        now_ms = installation.clock.now_ms()
        project = Project(project_id, shown, now_ms, tier_id=tier, low_credit_nano=warn_at)
        await installation.projects.add(project, by=operator())

    place.run(work)
    print(f"created project {project_id}")


@commands.command("list")
@at_place
def list_projects(place: Place, *, as_json: JsonFlag = False) -> None:
    """List projects."""

    async def work(installation: Installation) -> list[Project]:
        return await installation.projects.list()

    projects = place.run(work)
    if as_json:
        output.json_list(
            {"id": p.id, "name": p.name, "tier": p.tier_id, "created": output.moment(p.created_ms)} for p in projects
        )
    else:
        rows = [[p.id, p.name, p.tier_id, output.day_and_time(p.created_ms)] for p in projects]
        output.table(["id", "name", "tier", "created"], rows)


@commands.command("set")
@at_place
def set_project(
    place: Place,
    *,
    project_id: ProjectArgument,
    shown_name: Annotated[str | None, typer.Option("--name", help="What people call it.")] = None,
    tier: Annotated[str | None, typer.Option(help=f"The tier that it is on from now; `{_NONE}`: no limits.")] = None,
    low_credit: Warn = None,
    below_zero: Annotated[
        bool, typer.Option("--below-zero", help="Let it pay from its credit although it has spent more than that.")
    ] = False,
) -> None:
    """Change a project. What is not given stays."""
    changes: dict[str, Any] = {}
    if shown_name is not None:
        changes["name"] = name(shown_name, "--name")
    if tier is not None:
        changes["tier_id"] = None if tier == _NONE else tier
    if low_credit is not None:
        changes["low_credit_nano"] = None if low_credit == _NONE else amount_nano(low_credit, "--low-credit")
    if not changes:
        raise typer.BadParameter("give --name, --tier or --low-credit", param_hint="--tier")

    async def work(installation: Installation) -> None:
        project = await installation.projects.get(project_id)
        if project is None:
            raise unknown_project(project_id)
        await installation.projects.change(
            project, dataclasses.replace(project, **changes), by=operator(), below_zero=below_zero
        )

    place.run(work)
    print(f"changed project {project_id}")


@commands.command()
@at_place
def credit(
    place: Place,
    *,
    project_id: ProjectArgument,
    add: Annotated[str | None, typer.Option(metavar="AMOUNT", help="Put so much in, for example 200.00.")] = None,
    take: Annotated[str | None, typer.Option(metavar="AMOUNT", help="Take so much out.")] = None,
    kind: Annotated[CreditKind | None, typer.Option(help="What it is; default: top-up, or correction.")] = None,
    note: Annotated[str, typer.Option(help="What for.")] = "",
    once: Annotated[
        str | None, typer.Option(metavar="WORD", help="A second command with the same word adds nothing.")
    ] = None,
    below_zero: Annotated[bool, typer.Option("--below-zero", help="Take even more than the project has left.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show a project's credit, or change it by an entry."""
    if add is not None and take is not None:
        raise typer.BadParameter("give one of --add and --take", param_hint="--add")
    text, option = (add, "--add") if add is not None else (take, "--take")
    nano = None if text is None else amount_nano(text, option)
    if nano == 0:
        raise typer.BadParameter("must be more than nothing", param_hint=option)
    if note:
        name(note, "--note")
    usual = CreditKind.CORRECTION if take is not None else CreditKind.TOP_UP

    async def work(installation: Installation) -> tuple[Balance, Sequence[CreditEntry]]:
        if await installation.projects.get(project_id) is None:
            raise unknown_project(project_id)
        if nano is not None:
            actor = operator()
            entry = CreditEntry(
                id=f"credit-{installation.ids.uuid7()}",
                project_id=project_id,
                created_ms=installation.clock.now_ms(),
                amount_nano=nano if take is None else -nano,
                kind=kind or usual,
                note=note,
                actor=f"{actor.kind}:{actor.id}",
                idempotency_key=once,
            )
            await _add(installation, entry, below_zero=below_zero)
        store = installation.credit
        return await store.balance(project_id), await store.page(project_id, limit=_SHOWN_ENTRIES)

    _print_credit(project_id, *place.run(work), as_json=as_json)


async def _add(installation: Installation, entry: CreditEntry, *, below_zero: bool) -> None:
    """Raises Conflict, which names the option that allows what is refused."""
    try:
        await installation.credit.add(entry, by=operator(), below_zero=below_zero)
    except Conflict as error:
        if error.param != "below_zero":
            raise
        balance = await installation.credit.balance(entry.project_id)
        left = format_amount(balance.left_nano)
        if balance.held_nano:
            left = f"{left}, of which requests hold {format_amount(balance.held_nano)}"
        said = f"That is more than `{entry.project_id}` has left ({left}). Take less, or give --below-zero."
        raise Conflict(said, param=error.param) from error


def _print_credit(project_id: str, balance: Balance, entries: Sequence[CreditEntry], *, as_json: bool) -> None:
    amounts = {
        "credited": format_amount(balance.credited_nano),
        "spent": format_amount(balance.spent_nano),
        "left": format_amount(balance.left_nano),
    }
    if as_json:
        shown = [
            {
                "id": e.id,
                "created": output.moment(e.created_ms),
                "amount": format_amount(e.amount_nano),
                "kind": str(e.kind),
                "note": e.note,
                "actor": e.actor,
            }
            for e in entries
        ]
        output.json_object({"project": project_id, **amounts, "entries": shown})
        return
    print(", ".join(f"{amount} {word}" for word, amount in amounts.items()))
    rows = [[output.day_and_time(e.created_ms), format_amount(e.amount_nano), str(e.kind), e.note] for e in entries]
    if rows:
        output.table(["created", "amount", "kind", "note"], rows)


async def require_project(installation: Installation, project_id: str) -> None:
    """Raises NotFound."""
    if project_id not in {p.id for p in await installation.projects.list()}:
        raise NotFound(f"There is no project `{project_id}`.", param="project")
