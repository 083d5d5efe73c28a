"""`llmaas config` and `llmaas migrate`: settings and where they come from, and the database's schema."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import typer

from llmaas.cli import output
from llmaas.cli.parameters import JsonFlag
from llmaas.cli.place import Place, at_place
from llmaas.settings import PREFIX, Loaded, Secret, Settings

commands = typer.Typer(help="Settings: check, show.", no_args_is_help=True)


@commands.command()
@at_place
def check(place: Place) -> None:
    """Check all settings; prints `ok`, or every mistake and leaves with 3."""
    place.load()
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


@at_place
def migrate(place: Place) -> None:
    """Bring the database of an older version to this version's schema. Make a backup first."""
    from llmaas.app import migrate_database

    before, after = migrate_database(place.load().settings)
    print(f"schema {after}, as it was" if before == after else f"schema {before or 'none'} → {after}")


def _records(loaded: Loaded) -> list[dict[str, Any]]:
    return [
        {
            "name": field.name,
            "value": _plain(getattr(loaded.settings, field.name)),
            "origin": loaded.origins[field.name],
            "variable": f"{PREFIX}{field.name.upper()}",
            "help": field.metadata["help"],
        }
        for field in dataclasses.fields(Settings)
    ]


def _plain(value: object) -> object:
    if isinstance(value, Secret | Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _text(value: object) -> object:
    return value if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else value
