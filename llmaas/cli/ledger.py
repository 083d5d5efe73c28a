"""`llmaas ledger`: whether the usage rows are what they must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from llmaas.cli import output
from llmaas.cli.place import Place, at_place
from llmaas.domain.values import printable

if TYPE_CHECKING:
    from llmaas.app import Installation

commands = typer.Typer(help="The ledger of usage: check.", no_args_is_help=True)


@commands.callback()
def _group() -> None:
    """Keep `check` a command of its own while it is the only one."""


@commands.command()
@at_place
def check(place: Place) -> None:
    """Check every row; prints `ok`, or each fault on its line and leaves with 1."""

    async def work(installation: Installation) -> tuple[int, int]:
        faults = 0
        async for fault in installation.usage.faults(await installation.catalogue.price_versions()):
            print(printable(fault))
            faults += 1
        return faults, installation.count_spooled()

    faults, spooled = place.run(work)
    if spooled:
        output.note(f"{spooled} rows wait in the spool; a running server moves them to the database, so start one")
    if faults:
        raise typer.Exit(1)
    print("ok")
