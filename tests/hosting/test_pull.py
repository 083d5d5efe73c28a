"""Sources in their order, one puller at a time, killed at any moment."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from llmaas.errors import EngineFailed
from llmaas.hosting.models.manifest import FileSource, HubSource, Source
from llmaas.hosting.models.pull import Progress, PullCancelled
from llmaas.hosting.models.store import ModelStore
from tests.hosting.serving import environment
from tests.hosting.stores import Shown, digest_of, leftovers, puller_at, spec_of


def test_sources_are_tried_in_order(tmp_path: Path) -> None:
    wrong, right = tmp_path / "wrong", tmp_path / "right"
    wrong.write_bytes(b"wrong")
    right.write_bytes(b"right")
    sources = [
        FileSource(str(tmp_path / "missing"), digest_of(b"right")),
        FileSource(str(wrong), digest_of(b"right")),
        FileSource(str(right), digest_of(b"right")),
    ]
    store = tmp_path / "models"
    assert puller_at(store).pull(spec_of(*sources), Shown()).read_bytes() == b"right"
    assert leftovers(store) == []
    shutil.rmtree(store)
    with pytest.raises(EngineFailed, match="could not be pulled from any source") as caught:
        puller_at(store).pull(spec_of(*sources[:2]), Shown())
    first, second = (caught.value.hint or "").split("; ")
    assert first == f"file: there is no file {tmp_path / 'missing'}"
    assert second.startswith("file: the file is not the expected one")
    assert not list(store.glob("*.gguf"))


def test_too_little_disk_is_known_before_the_first_byte(tmp_path: Path) -> None:
    class Never:
        def fetch(self, source: Source, partial: Path, progress: Progress) -> Path:
            raise AssertionError("was asked")

    huge = HubSource("a/b", "m.gguf", 2**60, "0" * 64)
    with pytest.raises(EngineFailed) as caught:
        puller_at(tmp_path / "models", {HubSource: Never()}).pull(spec_of(huge), Shown())
    assert "not enough disk space: 1099511628032 MiB needed" in (caught.value.hint or "")
    origin = tmp_path / "huge"
    with origin.open("wb") as sparse:
        sparse.truncate(2**43)
    with pytest.raises(EngineFailed, match="could not be pulled") as caught:
        puller_at(tmp_path / "models").pull(spec_of(FileSource(str(origin))), Shown())
    assert "not enough disk space" in (caught.value.hint or "")


def test_what_is_here_already_needs_no_room(tmp_path: Path) -> None:
    class Done:
        def fetch(self, source: Source, partial: Path, progress: Progress) -> Path:
            (partial / "answer").write_bytes(b"right")
            return partial / "answer"

    # As if all but a little were there: such files of zeros take no room.
    store, size = tmp_path / "models", shutil.disk_usage(tmp_path).free
    source = HubSource("a/b", "m.gguf", size, digest_of(b"right"))
    partial = ModelStore(store).partial(spec_of(source), source)
    partial.mkdir()
    puller = puller_at(store, {HubSource: Done()})
    with pytest.raises(EngineFailed) as caught:
        puller.pull(spec_of(source), Shown())
    assert "not enough disk space" in (caught.value.hint or "")
    with (partial / "whole").open("wb") as sparse:
        sparse.truncate(2**30)
    assert puller.pull(spec_of(source), Shown()).read_bytes() == b"right"


def test_a_full_disk_is_a_failed_source(tmp_path: Path) -> None:
    class Full:
        def fetch(self, source: Source, partial: Path, progress: Progress) -> Path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    origin = tmp_path / "right"
    origin.write_bytes(b"right")
    sources: list[Source] = [HubSource("a/b", "m.gguf", 1, "0" * 64), FileSource(str(origin))]
    with capture_logs() as lines:
        pulled = puller_at(tmp_path / "models", {HubSource: Full()}).pull(spec_of(*sources), Shown())
    assert pulled.read_bytes() == b"right"
    assert [line["hint"] for line in lines if line["event"] == "source_failed"] == ["the next source is tried"]


def test_the_second_of_two_pullers_waits_and_finds_it(tmp_path: Path) -> None:
    origin, store = tmp_path / "right", tmp_path / "models"
    origin.write_bytes(b"right")
    spec, waiting = spec_of(FileSource(str(origin))), threading.Event()

    def progress(_done: int, total: int) -> None:
        if total == 0:
            waiting.set()

    pulled: list[Path] = []
    with ModelStore(store).lock_path(spec).open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = threading.Thread(target=lambda: pulled.append(puller_at(store).pull(spec, progress)))
        second.start()
        assert waiting.wait(5)
        assert not pulled

        def give_up(_done: int, _total: int) -> None:
            raise PullCancelled

        with pytest.raises(PullCancelled):
            puller_at(store).pull(spec, give_up)
    second.join(5)
    assert pulled == [store / "m.gguf"]


def test_killed_in_the_middle_it_is_pulled_whole_the_next_time(tmp_path: Path) -> None:
    origin, data_dir = tmp_path / "origin.gguf", tmp_path / "data"
    data_dir.mkdir()
    with origin.open("wb") as sparse:
        sparse.truncate(4 * 2**30)
    (data_dir / "models.toml").write_text(
        f'[[models]]\nname = "m"\nfile = "m.gguf"\ncontext = 512\n[[models.sources]]\ntype = "file"\npath = "{origin}"\n'
    )
    command = [sys.executable, "-P", "-m", "llmaas", "--data-dir", str(data_dir), "models", "pull", "m"]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in data_dir.glob("models/.*.part")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (data_dir / "models" / "m.gguf").exists()
    origin.write_bytes(b"small")
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == b"small"
    assert "100 % of 0 MB" in done.stderr
    assert leftovers(data_dir / "models") == []
