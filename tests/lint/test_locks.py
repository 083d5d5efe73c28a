"""The locks: complete, hashed, free of addresses, and of wheels that would run code whenever Python starts."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"[a-z0-9._-]+==[^\s;]+(?: ; [^\\]+?)?(?: --hash=sha256:[0-9a-f]{64})+")
ADDRESS = re.compile(
    r"://|\s@\s|--(?:extra-)?index|--find-links|--trusted-host"  # where packages come from
    r"|(?:^|\s)[~.]?/\w"  # a path outside the checkout
    r"|\b[a-z0-9-]+\.(?:com|dev|io|net|org)\b"  # a host
)


def entries(lock: Path) -> list[str]:
    """One string for each requirement, its continuation lines joined."""
    text = re.sub(r"\s*\\\n\s*", " ", lock.read_text())
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def pins(name: str) -> dict[str, Requirement]:
    """What a lock pins for this interpreter and platform, by canonical name."""
    pinned: dict[str, Requirement] = {}
    for entry in entries(ROOT / "requirements" / f"{name}.txt"):
        requirement = Requirement(entry.split(" --hash=", 1)[0])
        if requirement.marker is None or requirement.marker.evaluate():
            pinned[canonicalize_name(requirement.name)] = requirement
    return pinned


def version(pin: Requirement) -> str:
    return next(iter(pin.specifier)).version


def test_A18_locks_exist() -> None:
    assert {lock.stem for lock in LOCKS} == {"dev", "openai1", "runtime", "uv"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_A18_every_requirement_is_pinned_and_hashed(lock: Path) -> None:
    assert entries(lock)
    assert [entry for entry in entries(lock) if not PIN.fullmatch(entry)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").iterdir()), ids=lambda path: path.name)
def test_A18_locks_hold_no_address(path: Path) -> None:
    assert [line for line in path.read_text().splitlines() if ADDRESS.search(line)] == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://example/simple",
        "x @ file:///x.whl",
        "--find-links wheels",
        "-r /srv/x.txt",
        "# example.org",
    ],
)
def test_A18_the_address_check_finds(line: str) -> None:
    assert ADDRESS.search(line)


@pytest.mark.parametrize(("lock", "extra"), [("runtime", ""), ("dev", "dev")])
def test_A18_locks_hold_everything_that_pyproject_asks_for(lock: str, extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = pins(lock)
    wanted = [Requirement(line) for line in project["dependencies"]]
    wanted += [Requirement(line) for line in project["optional-dependencies"][extra]] if extra else []
    seen: set[str] = set()
    problems: list[str] = []
    while wanted:
        requirement = wanted.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        pin = pinned.get(canonicalize_name(requirement.name))
        if pin is None or not requirement.specifier.contains(version(pin), prereleases=True):
            problems.append(f"{requirement} is not met by {pin}: run scripts/lock")
            continue
        for line in distribution(requirement.name).requires or []:
            needed = Requirement(line)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": name}) for name in extras):
                wanted.append(needed)
    assert problems == []


def test_A18_dev_pins_what_runtime_pins() -> None:
    runtime = {(name, version(pin)) for name, pin in pins("runtime").items()}
    assert runtime - {(name, version(pin)) for name, pin in pins("dev").items()} == set()


def test_A18_what_is_installed_is_what_is_locked() -> None:
    pinned = {name: version(pin) for name, pin in pins("dev").items()}
    assert {name: distribution(name).version for name in pinned} == pinned


def test_A18_no_wheel_of_the_runtime_ships_a_pth_file() -> None:
    """A `.pth` file in site-packages runs code in every Python process that starts there."""
    shipped = {name: distribution(name).files for name in pins("runtime")}
    assert [name for name, files in shipped.items() if files is None] == [], "no record of files"
    assert [str(file) for files in shipped.values() for file in files or () if file.suffix == ".pth"] == []
