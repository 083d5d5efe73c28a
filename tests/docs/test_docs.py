"""The documents say all that there is, and what they show works."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from llmaas import errors, settings
from llmaas.cli.fleet import read_fleet, write_fleet
from llmaas.cli.program import program
from llmaas.datadir import Installation
from llmaas.domain.fleet import NOUNS, Fleet, Noun
from llmaas.domain.keys import Permission
from llmaas.domain.models import (
    Backend,
    Deployment,
    Lifecycle,
    Model,
    ModelKind,
    Phase,
    Provider,
    ProviderKind,
)
from llmaas.domain.prices import NANO, Price
from llmaas.domain.tiers import Tier
from llmaas.domain.usage import FREE, BillingReason, Outcome
from llmaas.errors import LlmaasError
from llmaas.v1.errors import TABLE
from llmaas.worker import GatewayWorker
from tests.docs.tables import DOCS, GENERATED, with_table

ROOT = DOCS.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_TOML = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|toml|html)|(?:[a-z_]+/)+)`")
_WRITTEN_BY_READERS = frozenset({"llmaas.toml", "fleet.toml", "models.toml"})
_DECLARED: dict[Noun, list[Any]] = {
    "tier": [Tier],
    "provider": [Provider],
    "backend": [Backend],
    "model": [Model, Price, Lifecycle],
    "deployment": [Deployment],
}
_NOT_DECLARED = frozenset({"created_ms", "valid_from_ms", "version"})
_IN_DATA_DIR = frozenset({"spool/", "spool/lock", "workers/", "models/", "logs/"})


def test_F17_every_setting_is_documented() -> None:
    text = (DOCS / "settings.md").read_text()
    for name in settings.Settings.__dataclass_fields__:
        assert f"| `{name}` |" in text


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_F17_tables_are_those_of_the_code(name: str) -> None:
    text = (DOCS / name).read_text()
    assert with_table(text, GENERATED[name]()) == text, "run python -m tests.docs.tables"
    assert GENERATED[name]() in text


def test_F17_every_error_is_documented() -> None:
    assert set(TABLE) == set(_tree(LlmaasError)), "each class of the tree has its line in api/errors.py"
    rows = dict(_rows((DOCS / "errors.md").read_text()))
    assert list(rows) == [kind.__name__ for kind in _tree(LlmaasError)], "in the order of the tree"
    for kind, (status, type_, code) in TABLE.items():
        documented = rows[kind.__name__][:3]
        assert documented == [str(status), f"`{type_}`", "null" if code is None else f"`{code}`"], kind.__name__


def test_F17_the_drawing_of_the_tree_is_true() -> None:
    drawn = re.findall(r"^ {4}(?:│ {3})?[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE)
    assert ["LlmaasError", *drawn] == [kind.__name__ for kind in _tree(LlmaasError)]


async def test_F17_every_route_is_documented(tmp_path: Path) -> None:
    installation = await Installation(settings.load({"data_dir": tmp_path}, environ={}).settings).open()
    worker = GatewayWorker(installation)
    await installation.close()
    expected = {
        f"{route.method} {route.path.replace('{rest}', '{id}')}": "nothing"
        if route.access == "public"
        else f"`{route.access}`"
        for route in worker.routes.routes
    }
    assert {name: cells[0] for name, cells in _rows((DOCS / "api.md").read_text())} == expected


def test_F17_every_command_is_documented() -> None:
    text = (DOCS / "command-line.md").read_text()
    for command in _commands(typer.main.get_command(program())):
        assert re.search(rf"llmaas {re.escape(command)}\b", text), f"llmaas {command}"


def test_F17_every_outcome_and_reason_is_documented() -> None:
    rows = dict(_rows((DOCS / "life-of-a-request.md").read_text()))
    assert set(rows) == {*Outcome, *BillingReason}
    assert {reason for reason in BillingReason if rows[reason][-1] == "nothing"} == FREE


def test_F17_every_key_of_a_fleet_is_documented() -> None:
    text = (DOCS / "fleet-file.md").read_text()
    for word in (*ProviderKind, *ModelKind, *Phase):
        assert f"`{word}`" in text
    for noun, key in _keys_of_a_fleet():
        section = text.split(f"## `[[{noun}s]]`")[1].split("\n## ")[0]
        assert f"`{key}`" in section, f"{key} of [[{noun}s]]"


def test_F17_every_permission_is_documented() -> None:
    for permission in Permission:
        assert f"`{permission}`" in (DOCS / "api.md").read_text()


def test_the_example_fleet_applies_and_shows_every_noun_but_tiers() -> None:
    path = ROOT / "examples" / "fleet.toml"
    fleet = read_fleet(path.read_text(), path.name, over=Fleet())
    assert [noun for noun in NOUNS if not fleet.of(noun)] == ["tier"]
    assert read_fleet(write_fleet(fleet), "export", over=Fleet()) == fleet


def test_the_example_tiers_apply_and_are_those_that_are_promised() -> None:
    path = ROOT / "examples" / "tiers.toml"
    fleet = read_fleet(path.read_text(), path.name, over=Fleet())
    told = [
        (t.id, t.output_tokens_per_hour, t.output_tokens_per_day, t.monthly_cap, t.prepaid_credit) for t in fleet.tiers
    ]
    assert told == [
        ("tier-1", 150_000, 24 * 150_000, 1_000 * NANO, 200 * NANO),
        ("tier-2", 300_000, 24 * 300_000, 3_000 * NANO, 500 * NANO),
        ("tier-3", 450_000, 24 * 450_000, 5_000 * NANO, 1_000 * NANO),
        ("tier-4", 600_000, 24 * 600_000, 10_000 * NANO, 4_000 * NANO),
        ("monthly-billing", None, None, None, None),
    ]
    assert read_fleet(write_fleet(fleet), "export", over=Fleet()) == fleet


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_fleets_in_the_documents_apply(page: Path) -> None:
    for text in _TOML.findall(page.read_text()):
        assert tomllib.loads(text)
        read_fleet(text, page.name, over=Fleet())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCED.sub("", page.read_text())):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{page.name}: {link}"
        assert not anchor or anchor in _anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in _PATH.findall(_FENCED.sub("", page.read_text())):
        known = name in _WRITTEN_BY_READERS | _IN_DATA_DIR
        assert known or (ROOT / name).exists() or (ROOT / "llmaas" / name).exists(), f"{page.name}: {name}"


def _tree(kind: type[LlmaasError]) -> Iterator[type[LlmaasError]]:
    """The classes of errors.py, parents first, each beside its siblings in the order of the file."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)


def _rows(text: str) -> Iterator[tuple[str, list[str]]]:
    """The lines of tables that begin with a code word: the word, and the other cells."""
    for line in text.splitlines():
        if line.startswith("| `"):
            first, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
            yield first.strip("` "), [cell.strip(" |") for cell in cells]


def _commands(command: Any, prefix: str = "") -> Iterator[str]:
    for name, child in getattr(command, "commands", {}).items():
        if child.hidden:
            continue
        if hasattr(child, "commands"):
            yield from _commands(child, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


def _keys_of_a_fleet() -> Iterator[tuple[str, str]]:
    for noun, kinds in _DECLARED.items():
        for kind in kinds:
            names = {field.name.removesuffix("_id") for field in dataclasses.fields(kind)} - _NOT_DECLARED
            yield from ((noun, name) for name in sorted(names - ({"model", "tier"} if kind is Price else set())))


def _anchors(page: Path) -> set[str]:
    headings = _HEADING.findall(_FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_list_of_checks_says_which_have_tests() -> None:
    rows = re.findall(r"^\| ([ABF]\d\d) \| .* \| (.*) \|$", (DOCS / "checks.md").read_text(), re.MULTILINE)
    tested = {
        found
        for path in (ROOT / "tests").rglob("test_*.py")
        for found in re.findall(r"def test_([ABF]\d\d)_", path.read_text())
    }
    assert {check for check, promise in rows if "no test" not in promise} == tested
