"""`llmaas models`: what is published, and pulling the files of embedded models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from llmaas.cli import output
from llmaas.cli.parameters import JsonFlag
from llmaas.cli.place import Place, at_place
from llmaas.domain.declarations import describe
from llmaas.domain.fleet import Fleet
from llmaas.domain.prices import format_amount
from llmaas.errors import UnknownModel

if TYPE_CHECKING:
    from llmaas.datadir import Installation
    from llmaas.domain.catalogue import Catalogue, Entry, Target

_NO_PRICE = "no price"

commands = typer.Typer(help="Published models: list, show, pull.", no_args_is_help=True)


@commands.command("list")
@at_place
def list_models(place: Place, *, as_json: JsonFlag = False) -> None:
    """List the models of the catalogue."""
    catalogue = place.run(_load)
    entries = list(catalogue.entries.values())
    if as_json:
        output.json_list(_record(entry) for entry in entries)
    elif entries:
        columns = ["id", "aliases", "kind", "window", "phase", "price in", "price out", "runs on"]
        output.table(columns, [_row(entry) for entry in entries])
    else:
        output.note("no models yet: llmaas apply FILE, or start `llmaas serve`, which publishes a first one")


@commands.command()
@at_place
def show(
    place: Place,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model's id or alias.")],
    as_json: JsonFlag = False,
) -> None:
    """Show all about one model."""
    catalogue = place.run(_load)
    entry = catalogue.entries.get(name) or catalogue.resolve(name)
    if entry is None:
        raise UnknownModel(name)
    if as_json:
        output.json_object(_record(entry))
        return
    record = _record(entry)
    record["price"] = record["price"] or _NO_PRICE
    rows = [[key, value] for key, value in _flat(record) if value not in (None, "", [])]
    output.table(["field", "value"], rows)


@commands.command()
@at_place
def pull(
    place: Place,
    *,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A model of the manifest; default: the setting default_model."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring the file of an embedded model here: resumed where it broke off, and verified."""
    from llmaas import log
    from llmaas.datadir import pull_model

    log.configure("warning")
    settings = place.load().settings
    wanted = name or settings.default_model
    with _ProgressBar(wanted) as bar:
        path = pull_model(settings, wanted, bar.show)
    if as_json:
        output.json_object({"name": wanted, "path": str(path), "size_bytes": path.stat().st_size})
    else:
        print(path)


class _ProgressBar:
    """On stderr, with speed and time left; where that is no terminal, a line for each tenth."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as SpeedColumn

        console = Console(stderr=True)
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            SpeedColumn(),
            TimeRemainingColumn(),
        ]
        self._drawn = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._drawn.add_task(name, total=None)
        self._name = name
        self._tenths = 0
        self._begun = False

    def __enter__(self) -> Self:
        self._drawn.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._drawn.stop()

    def show(self, done: int, total: int) -> None:
        if self._drawn.disable:
            self._tell(done, total)
            return
        waiting = total == 0
        if not self._begun and not waiting:
            # What an earlier try left is not this one's speed.
            self._drawn.reset(self._task, total=total, completed=done, description=self._name)
            self._begun = True
        text = f"{self._name}: another process is pulling it" if waiting else self._name
        if done == total and not waiting:
            text = f"{self._name}: verifying"
        self._drawn.update(self._task, completed=done, total=total or None, description=text)

    def _tell(self, done: int, total: int) -> None:
        tenths = done * 10 // total if total else 0
        if tenths > self._tenths:
            self._tenths = tenths
            output.note(f"{self._name}: {tenths * 10} % of {total / 1e6:.0f} MB")


async def _load(installation: Installation) -> Catalogue:
    return await installation.present_catalogue()


def _record(entry: Entry) -> dict[str, Any]:
    (declared,) = describe(Fleet(models=(entry.model,)))["models"]
    return {
        "id": entry.model.id,
        "aliases": [],
        "capabilities": [],
        "price": None,
        "card": {},
        **declared,
        "created": output.moment(entry.model.created_ms),
        "deployments": [_target(target) for target in entry.targets],
    }


def _target(target: Target) -> dict[str, Any]:
    return {
        "backend": target.backend.id,
        "machine_name": target.backend.machine_name,
        "engine_type": target.backend.engine_type,
        "provider": target.provider.id,
        "root": target.deployment.root,
        "weight": target.deployment.weight,
    }


def _row(entry: Entry) -> list[object]:
    model, price = entry.model, entry.model.price
    return [
        model.id,
        model.aliases,
        model.kind.value,
        model.max_model_len,
        model.lifecycle.phase,
        format_amount(price.input) if price else _NO_PRICE,
        format_amount(price.output) if price else _NO_PRICE,
        [target.backend.machine_name for target in entry.targets],
    ]


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for key, item in value.items():
        if isinstance(item, dict):
            rows += _flat(item, f"{prefix}{key}.")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            for index, inner in enumerate(item, start=1):
                rows += _flat(inner, f"{prefix}{key} {index}.")
        else:
            rows.append((f"{prefix}{key}", _listed(item)))
    return rows


def _listed(item: object) -> object:
    return ", ".join(str(part) for part in item) if isinstance(item, Sequence) and not isinstance(item, str) else item
