"""`llmaas apply` and `llmaas export`: the fleet as a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmaas.cli import output
from llmaas.cli.actor import operator
from llmaas.cli.parameters import JsonFlag
from llmaas.cli.place import Place, at_place
from llmaas.domain.values import printable
from llmaas.errors import ConfigurationError

if TYPE_CHECKING:
    from llmaas.datadir import Installation
    from llmaas.domain.declarations import Forbidden
    from llmaas.domain.fleet import Change, Fleet

_SIGNS = {"add": "+", "change": "~", "remove": "-"}
_MOST_BYTES = 16 * 1024 * 1024


@at_place
def apply(
    place: Place,
    *,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A fleet file; - reads standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Also remove what the file does not declare.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Put the declarations of a fleet file into force, all of them or none."""
    text = _read_text(file)
    called = "standard input" if file == "-" else file

    async def work(installation: Installation) -> tuple[list[Change], list[str], dict[str, int]]:
        present = await installation.catalogue.fleet()
        declared = read_fleet(
            text,
            called,
            over=Fleet() if prune else present,
            forbidden=lambda wanted: installation.catalogue.forbidden(present, wanted),
        )
        stopped = {
            tier_id: count
            for tier_id in declared.newly_prepaid(present)
            if (count := await installation.projects.without_credit(tier_id))
        }
        now_ms = installation.clock.now_ms()
        changes = await installation.catalogue.apply(
            declared, now_ms=now_ms, prune=prune, dry_run=dry_run, by=operator()
        )
        return changes, declared.unpriced, stopped

    from llmaas.domain.fleet import Fleet

    changes, unpriced, stopped = place.run(work)
    if as_json:
        output.json_list({"action": c.action, "noun": c.noun, "id": c.id} for c in changes)
    else:
        _tell(changes, dry_run=dry_run)
    if unpriced:
        named = ", ".join(map(printable, unpriced))
        output.note(f"no price: {named}; what they answer costs nothing until they have one (0 where that is meant)")
    for tier_id, count in stopped.items():
        one = "1 project on it has no credit left: its requests are"
        told = one if count == 1 else f"{count} projects on it have no credit left: their requests are"
        output.note(f"tier {printable(tier_id)} pays in advance from now on: {told} refused until credit is added")


def _tell(changes: Sequence[Change], *, dry_run: bool) -> None:
    for change in changes:
        told = f": {', '.join(change.fields)}" if change.fields else ""
        print(f"{_SIGNS[change.action]} {change.noun} {change.id}{told}")
    counts = {word: sum(c.action == action for c in changes) for action, word in _SUMMARY.items()}
    told = ", ".join(f"{count} {word}" for word, count in counts.items()) if changes else "nothing to change"
    output.note(f"{told}{' (dry run: nothing was changed)' if dry_run and changes else ''}")


_SUMMARY = {"add": "added", "change": "changed", "remove": "removed"}


@at_place
def export(place: Place) -> None:
    """Print the present fleet in the form that `apply` reads."""

    async def work(installation: Installation) -> Fleet:
        return await installation.catalogue.fleet()

    print(write_fleet(place.run(work)), end="")


def read_fleet(text: str, called: str, *, over: Fleet, forbidden: Forbidden = lambda _: ()) -> Fleet:
    """The fleet that a file declares. `forbidden`: what the settings do not allow of it.

    Raises ConfigurationError with all its mistakes and their lines, also those that only show over the present fleet.
    """
    from llmaas.domain.declarations import declare
    from llmaas.protocol.fleet import parse

    document = parse(text, called)
    try:
        fleet, mistakes = declare(document.values, over, forbidden)
    except RecursionError:
        raise ConfigurationError([f"{called}: is nested too deeply"]) from None
    if mistakes:
        found = sorted((document.line_of(mistake.path), mistake.message) for mistake in mistakes)
        raise ConfigurationError([f"{called}:{line}: {message}" for line, message in found])
    return fleet


def write_fleet(fleet: Fleet) -> str:
    from llmaas.domain.declarations import describe
    from llmaas.protocol.fleet import write

    return write(describe(fleet))


def _read_text(file: str) -> str:
    called = "standard input" if file == "-" else file
    try:
        if file == "-":
            data = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            with Path(file).open("rb") as handle:
                data = handle.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigurationError([f"{called}: is larger than {_MOST_BYTES // 1024 // 1024} MiB"])
        return data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError([f"{called}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigurationError([f"{called}:{line}: is not UTF-8 text"]) from error
