"""`llmaas backup` and `llmaas restore`: the whole database in one file, for SQLite and PostgreSQL alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmaas.cli import output
from llmaas.cli.place import Place, at_place

if TYPE_CHECKING:
    from llmaas.datadir import Installation

BackupFile = Annotated[Path, typer.Argument(metavar="FILE", help="The file of the backup.", show_default=False)]


@at_place
def backup(
    place: Place,
    *,
    file: BackupFile,
    with_master_key: Annotated[
        bool, typer.Option("--with-master-key", help="Put the master key into the file too; keep it like a password.")
    ] = False,
) -> None:
    """Write the database to a new file, as it is at this moment. The service may run meanwhile."""
    from llmaas.datadir import back_up

    async def work(installation: Installation) -> tuple[int, int]:
        summary = await back_up(installation, file, with_master_key=with_master_key)
        return sum(summary.rows.values()), installation.count_spooled()

    rows, spooled = place.run(work)
    print(f"{file}: {rows} rows")
    if spooled:
        output.note(f"{spooled} rows wait in the spool and are not in the file; a running server moves them")
    if not with_master_key:
        output.note("the master key is not in the file; keep it too, without it no key of this database works")


@at_place
def restore(place: Place, *, file: BackupFile) -> None:
    """Fill an empty database from a backup of either kind of database. No service may run on it."""
    import asyncio

    from llmaas import log
    from llmaas.datadir import restore as restore_into

    log.configure("warning")
    settings = place.load().settings
    summary, missing = asyncio.run(restore_into(settings, file))
    print(f"{sum(summary.rows.values())} rows restored")
    if missing:
        output.note(f"{missing}: it is not in the file; put the one of the backup there before you start the service")
