"""`llmaas models`: what is published, and pulling the files of embedded models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmaas.cli import output
from llmaas.cli.parameters import JsonFlag
from llmaas.cli.place import Place, at_place
from llmaas.domain.declarations import describe
from llmaas.domain.fleet import Fleet
from llmaas.domain.prices import format_amount
from llmaas.errors import UnknownModel

if TYPE_CHECKING:
    from llmaas.app import Installation
    from llmaas.domain.catalogue import Catalogue, Entry, Target

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
    rows = [[key, value] for key, value in _flat(_record(entry)) if value not in (None, "", [])]
    output.table(["field", "value"], rows)


async def _load(installation: Installation) -> Catalogue:
    return await installation.catalogue.load()


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
        format_amount(price.input) if price else None,
        format_amount(price.output) if price else None,
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
