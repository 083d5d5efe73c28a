"""`llmaas ledger`: whether the usage rows are what they must be, and putting right what one costs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmaas.cli import output
from llmaas.cli.actor import operator
from llmaas.cli.parameters import amount_nano, name
from llmaas.cli.place import Place, at_place
from llmaas.cli.reconcile import rebuild, reconcile
from llmaas.domain.prices import format_amount
from llmaas.domain.usage import UsageRow
from llmaas.domain.values import printable
from llmaas.errors import Unavailable

if TYPE_CHECKING:
    from llmaas.datadir import Installation

commands = typer.Typer(help="The ledger of usage: check, correct, reconcile, rebuild.", no_args_is_help=True)
commands.command()(reconcile)
commands.command()(rebuild)


@commands.command()
@at_place
def check(place: Place) -> None:
    """Check the database, every row and all sums; prints `ok`, or each fault on its line and leaves with 1."""

    async def work(installation: Installation) -> tuple[int, list[str], int, list[Path]]:
        now_ms, faults = installation.clock.now_ms(), 0
        parts = _parts(installation, now_ms)
        for number, (what, found) in enumerate(parts, 1):
            output.progress(f"{number}/{len(parts)} {what}")
            try:
                async for fault in found:
                    output.progress("")
                    print(printable(fault))
                    faults += 1
            except Unavailable as error:
                output.progress("")
                print(printable(f"{what}: {(error.hint or error.message).splitlines()[0]}"))
                faults += 1
        output.progress("")
        overdrawn = [] if faults else await installation.ledger_check.overdrawn(now_ms)
        return faults, overdrawn, installation.count_spooled(), installation.unreadable_spools()

    faults, overdrawn, spooled, unreadable = place.run(work)
    for line in overdrawn:
        output.note(printable(line))
    if spooled:
        output.note(f"{spooled} rows wait in the spool; a running server moves them to the database, so start one")
    for path in unreadable:
        output.note(f"usage rows that could not be read or stored are in {path}")
    if faults:
        raise typer.Exit(1)
    print("ok")


@commands.command()
@at_place
def correct(
    place: Place,
    *,
    row_id: Annotated[str, typer.Argument(metavar="ID", help="The id of the answer.")],
    cost: Annotated[str, typer.Option(metavar="AMOUNT", help="What the request is to cost, for example 0.25.")],
    note: Annotated[str, typer.Option(help="Why, for the audit log.")],
) -> None:
    """Change what a request costs. Its row stays as it is; a new row holds the difference."""
    cost_nano = amount_nano(cost, "--cost")
    name(note, "--note")

    async def work(installation: Installation) -> UsageRow:
        return await installation.corrections.correct(
            row_id,
            cost_nano,
            note=note,
            correction_id=f"correction-{installation.ids.uuid7()}",
            now_ms=installation.clock.now_ms(),
            by=operator(),
        )

    row = place.run(work)
    print(f"corrected {row_id} by {format_amount(row.cost_nano)} {row.currency}: {row.id}")


def _parts(installation: Installation, now_ms: int) -> list[tuple[str, AsyncIterator[str]]]:
    """What is checked, each with its faults."""
    return [
        ("the database itself", _damage(installation)),
        ("each row", _rows(installation)),
        ("rows, hours and budgets", installation.ledger_check.faults(now_ms)),
        ("hours, days and months", installation.rollups.faults()),
        ("sums by end user", installation.end_users.faults()),
    ]


async def _damage(installation: Installation) -> AsyncIterator[str]:
    for fault in await installation.database.faults():
        yield f"database {installation.settings.database_shown} is damaged: {fault}; move it away and restore a backup"


async def _rows(installation: Installation) -> AsyncIterator[str]:
    async for fault in installation.usage.faults(await installation.catalogue.price_versions()):
        yield fault
