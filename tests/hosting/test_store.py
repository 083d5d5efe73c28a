"""A file counts only when it is what was verified."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmaas.errors import EngineFailed
from llmaas.hosting.models.manifest import FileSource
from llmaas.hosting.models.store import ModelStore
from tests.hosting.stores import Shown, digest_of, leftovers, puller_at, spec_of


def test_a_pulled_file_is_found_without_its_source(tmp_path: Path) -> None:
    origin, store = tmp_path / "origin.gguf", tmp_path / "models"
    origin.write_bytes(b"x" * 10_000)
    spec = spec_of(FileSource(str(origin)))
    assert ModelStore(store).find(spec) is None
    shown = Shown()
    path = puller_at(store).pull(spec, shown)
    assert path.read_bytes() == origin.read_bytes()
    assert shown.steps[-1] == (10_000, 10_000)
    assert leftovers(store) == []
    origin.unlink()
    assert ModelStore(store).find(spec) == path
    assert store.stat().st_mode & 0o077 == 0


def test_a_file_that_was_touched_is_looked_at_again(tmp_path: Path) -> None:
    origin = tmp_path / "origin.gguf"
    origin.write_bytes(b"x")
    spec = spec_of(FileSource(str(origin)))
    path = puller_at(tmp_path / "models").pull(spec, Shown())
    os.utime(path, ns=(1, 1))
    assert ModelStore(tmp_path / "models").find(spec) == path


def test_a_changed_file_is_not_served(tmp_path: Path) -> None:
    origin = tmp_path / "origin.gguf"
    origin.write_bytes(b"right")
    spec = spec_of(FileSource(str(origin), digest_of(b"right")))
    path = puller_at(tmp_path / "models").pull(spec, Shown())
    path.write_bytes(b"wrong")
    with pytest.raises(EngineFailed, match="is corrupt") as caught:
        ModelStore(tmp_path / "models").find(spec)
    aside = path.with_suffix(".corrupt")
    assert str(aside) in (caught.value.hint or "")
    assert aside.read_bytes() == b"wrong"
    assert not path.exists()


def test_a_corrupt_file_is_moved_aside_and_pulled_again(tmp_path: Path) -> None:
    origin = tmp_path / "origin.gguf"
    origin.write_bytes(b"right")
    puller, spec = puller_at(tmp_path / "models"), spec_of(FileSource(str(origin), digest_of(b"right")))
    path = puller.pull(spec, Shown())
    path.write_bytes(b"wrong")
    assert puller.pull(spec, Shown()).read_bytes() == b"right"
    assert leftovers(tmp_path / "models") == ["m.corrupt"]
    path.write_bytes(b"wrong")
    origin.unlink()
    with pytest.raises(EngineFailed) as caught:
        puller.pull(spec, Shown())
    assert "corrupt" in (caught.value.hint or "")
    assert "there is no file" in (caught.value.hint or "")


def test_the_file_of_an_older_manifest_is_not_served(tmp_path: Path) -> None:
    origin = tmp_path / "origin.gguf"
    origin.write_bytes(b"old")
    puller = puller_at(tmp_path / "models")
    puller.pull(spec_of(FileSource(str(origin), digest_of(b"old"))), Shown())
    origin.write_bytes(b"new")
    path = puller.pull(spec_of(FileSource(str(origin), digest_of(b"new"))), Shown())
    assert path.read_bytes() == b"new"
