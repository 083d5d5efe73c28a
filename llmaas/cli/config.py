"""`llmaas config` and `llmaas migrate`: settings and where they come from, and the database's schema."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import typer

from llmaas.cli import output
from llmaas.cli.actor import operator
from llmaas.cli.parameters import JsonFlag
from llmaas.cli.place import Place, at_place
from llmaas.control.status.settings import setting_lines
from llmaas.errors import InvalidRequest
from llmaas.settings import Loaded

if TYPE_CHECKING:
    from llmaas.datadir import Installation

commands = typer.Typer(help="Settings: check, show; the master key: rotate.", no_args_is_help=True)
_KEY_BYTES = 32


@commands.command()
@at_place
def check(place: Place) -> None:
    """Check all settings, and that they fit the data that is there; prints `ok`, or every mistake and leaves with 3."""
    from llmaas.datadir import check_place

    asyncio.run(check_place(place.load().settings))
    print("ok")


@commands.command()
@at_place
def show(place: Place, *, as_json: JsonFlag = False) -> None:
    """Show each setting, its value and where it comes from. Secrets are not shown."""
    loaded = place.load()
    if as_json:
        output.json_list(_records(loaded))
    else:
        rows = [[r["name"], _text(r["value"]), r["origin"], r["variable"]] for r in _records(loaded)]
        output.table(["setting", "value", "from", "variable"], rows)


@commands.command("rotate-master-key")
@at_place
def rotate_master_key(place: Place, *, as_json: JsonFlag = False) -> None:
    """Seal credentials and second factors with a new master key. API keys go on working; nothing has to be restarted.

    Where the master key is a setting, the new one is read from standard input and has to be set afterwards.
    """
    settings = place.load().settings
    new_key = _read_key() if settings.master_key else None

    async def work(installation: Installation) -> tuple[int, list[str]]:
        done = await installation.rotate_master_key(new_key, by=operator())
        return done.sealed_anew, list(done.unreadable)

    sealed_anew, unreadable = place.run(work)
    if as_json:
        output.json_object({"sealed_anew": sealed_anew, "unreadable": unreadable})
    else:
        print(f"sealed anew: {sealed_anew}")
    for owner in unreadable:
        output.note(f"opens with no key that is here, and stays as it is: {owner}")
    if new_key is None:
        output.note("copy master.key to all hosts, then remove master.key.previous; older backups need the old one")
    else:
        output.note("set LLMAAS_MASTER_KEY to the new key and restart all processes")


def _read_key() -> bytes:
    text = sys.stdin.readline(200).strip()
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise InvalidRequest(
            "Give the new key on standard input: 32 bytes in base64, as `openssl rand -base64 32` makes."
        )
    return key


@at_place
def migrate(place: Place) -> None:
    """Bring the database of an older version to this version's schema. Make a backup first."""
    from llmaas.datadir import migrate_database

    before, after = migrate_database(place.load().settings)
    print(f"schema {after}, as it was" if before == after else f"schema {before or 'none'} → {after}")


def _records(loaded: Loaded) -> list[dict[str, Any]]:
    return [dataclasses.asdict(line) for line in setting_lines(loaded.settings, loaded.origins)]


def _text(value: object) -> object:
    return value if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else value
