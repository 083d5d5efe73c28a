"""The settings of a process as they may be shown: each with where its value came from, secrets masked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmaas.settings import PREFIX, Secret, Settings


@dataclass(frozen=True, slots=True)
class SettingLine:
    """`value`: plain. `origin`: `flag`, `environment`, `default` or the path of a file."""

    name: str
    value: Any
    origin: str
    variable: str
    help: str


def setting_lines(settings: Settings, origins: Mapping[str, str]) -> list[SettingLine]:
    """In the order of the documentation."""
    return [
        SettingLine(
            name=field.name,
            value=_plain(getattr(settings, field.name)),
            origin=origins.get(field.name, "default"),
            variable=f"{PREFIX}{field.name.upper()}",
            help=field.metadata["help"],
        )
        for field in dataclasses.fields(Settings)
    ]


def _plain(value: object) -> object:
    if isinstance(value, Secret | Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
