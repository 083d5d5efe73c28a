"""The spool: what is written is read back, what is torn is left out, and a full disk leaves no half lines."""

from __future__ import annotations

import errno
import os
import resource
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmaas.domain.usage import UsageRow
from llmaas.storage.row_store import SyncFailed
from llmaas.storage.spool import Spool
from tests.storage.rows import row, rows


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def read_all(folder: Path) -> list[UsageRow]:
    spool = Spool(folder)
    return [one for file in spool.files() for one in spool.read(file)[0]]


@settings(max_examples=30)
@given(text=st.text(), tokens=st.integers(0, 2**62))
def test_rows_come_back_as_they_were_put(tmp_path_factory: pytest.TempPathFactory, text: str, tokens: int) -> None:
    folder = tmp_path_factory.mktemp("spool")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = "surrogate"
    put = [row(end_user=text, output_tokens=tokens), *rows(2)]
    spool = Spool(folder)
    spool.write(put)
    spool.close()
    assert read_all(folder) == put


def test_a_new_process_begins_a_new_file_and_the_order_stays(tmp_path: Path) -> None:
    for number in range(12):
        spool = Spool(tmp_path)
        spool.write(rows(1, first=number))
        spool.close()
    assert [one.id for one in read_all(tmp_path)] == [f"chatcmpl-{n}" for n in range(12)]


@pytest.mark.parametrize("keep", range(0, 60, 7))
def test_B04_a_torn_line_is_left_out(tmp_path: Path, keep: int) -> None:
    spool = Spool(tmp_path)
    spool.write(rows(3))
    spool.close()
    (file,) = spool.files()
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]) + lines[2][:keep])
    assert read_all(tmp_path) == rows(2)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write(rows(3))
    spool.close()
    (file,) = spool.files()
    file.write_bytes(file.read_bytes().replace(b'"chatcmpl-1"', b'"chatcmpl-9"'))
    assert spool.read(file) == ([rows(3)[0], rows(3)[2]], 1)


def test_a_row_of_another_version_is_noticed_and_its_file_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write(rows(2))
    spool.close()
    (file,) = spool.files()
    foreign = b'{"id": "of another version"}'
    file.write_bytes(file.read_bytes() + b"%08x %s\n" % (zlib.crc32(foreign), foreign))
    assert spool.read(file) == (rows(2), 1)
    spool.forget(file, keep=True)
    assert spool.files() == []
    (kept,) = spool.kept()
    assert foreign in kept.read_bytes()


def test_B07_what_was_put_aside_stays_when_the_next_file_has_its_name(tmp_path: Path) -> None:
    texts = [b"first\n", b"second\n", b"third\n"]
    for text in texts:
        spool = Spool(tmp_path)
        spool.write(rows(1))
        spool.close()
        (file,) = spool.files()
        file.write_bytes(text)
        spool.forget(file, keep=True)
        assert spool.files() == []
    assert sorted(kept.read_bytes() for kept in spool.kept()) == texts


def test_B07_a_full_disk_fails_the_write_and_keeps_what_was_there(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write(rows(2))
    with largest_file(spool.files()[0].stat().st_size + 100):
        with pytest.raises(OSError, match="large"):
            spool.write(rows(3, first=10))
        with pytest.raises(OSError, match="large"):
            spool.probe()
    spool.probe()
    spool.write(rows(1, first=20))
    spool.close()
    assert [one.id for one in read_all(tmp_path)] == ["chatcmpl-0", "chatcmpl-1", "chatcmpl-20"]


def test_B07_a_probe_that_begins_a_new_file_leaves_no_trace(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write(rows(40))
    spool.forget(spool.files()[0])
    spool.probe()
    assert spool.files()[0].read_bytes() == b""
    spool.write(rows(2))
    assert spool.read(spool.files()[0]) == (rows(2), 0)


def test_B07_nothing_is_spooled_to_a_file_whose_folder_was_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(handle: int) -> None:
        raise OSError(errno.EIO, "injected")

    spool = Spool(tmp_path)
    handles = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        for _ in range(2):
            with pytest.raises(SyncFailed, match="injected"):
                spool.write(rows(1))
    assert len(list(Path("/proc/self/fd").iterdir())) == handles
    assert read_all(tmp_path) == []


def test_a_file_is_forgotten_while_it_is_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write(rows(1))
    spool.forget(spool.files()[0])
    assert spool.files() == []
    spool.write(rows(1, first=5))
    spool.close()
    assert read_all(tmp_path) == rows(1, first=5)


def test_files_of_others_in_its_folder_are_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "notes.rows").write_text("not ours\n")
    spool = Spool(tmp_path)
    spool.write(rows(1))
    spool.close()
    assert read_all(tmp_path) == rows(1)
