"""Every command and option is in the documents, and what the documents show is valid."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llmaas.cli.fleet import read_fleet
from llmaas.domain.fleet import Fleet
from tests.cli.running import COMMANDS

ROOT = Path(__file__).parents[2]
COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
EVERYWHERE = {"--help", "--data-dir", "--config", "--json"}


def documents() -> str:
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_is_documented(path: tuple[str, ...]) -> None:
    command = " ".join(("llmaas", *path))
    assert command in documents()
    assert f"### `{command}`\n" in COMMAND_LINE


@pytest.mark.parametrize("path", [path for path in COMMANDS if path != ("serve",)], ids=" ".join)
def test_every_option_is_documented(path: tuple[str, ...]) -> None:
    section = COMMAND_LINE.split(f"### `llmaas {' '.join(path)}`\n")[1].split("\n##")[0]
    params: list[Any] = COMMANDS[path].params
    options = {option for param in params for option in param.opts if option.startswith("--")} - EVERYWHERE
    assert {option for option in options if option not in section} == set()


def test_every_documented_command_exists() -> None:
    documented = {tuple(name.split()) for name in re.findall(r"^### `llmaas ([a-z -]+)`$", COMMAND_LINE, re.MULTILINE)}
    assert documented == set(COMMANDS)


def test_the_documented_fleet_file_is_valid() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", COMMAND_LINE, re.DOTALL)
    fleet = read_fleet(text, "command-line.md", over=Fleet())
    assert [len(things) for things in (fleet.tiers, fleet.providers, fleet.backends, fleet.models)] == [1, 1, 1, 2]
