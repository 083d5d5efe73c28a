"""Where usage rows wait while the database is away: append-only files of one checksummed JSON line a row, synced before
a row counts as durable. A file is deleted only after all its rows are in the database; replaying one twice adds nothing.

Rows that no database can hold, and files with lines that cannot be read, are kept beside them for somebody to look at. Used
by the ledger's writer thread only.
"""

from __future__ import annotations

import itertools
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from llmaas.domain.usage import UsageRow
from llmaas.storage.row_store import SyncFailed, Unstorable

_SUFFIX = ".rows"
_SET_ASIDE = "unstorable.jsonl"
_UNREADABLE = ".bad"


class Spool:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handle: int | None = None
        self._current: Path | None = None
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(UsageRow)
        self._size = 0
        self._own: set[Path] = set()

    def write(self, rows: Sequence[UsageRow]) -> None:
        """Append and sync. OSError when the rows may not be durable; SyncFailed when the disk could not confirm them;
        Unstorable when one of them cannot be put into words.
        """
        try:
            data = b"".join(self._line(row) for row in rows)
        except (msgspec.MsgspecError, OverflowError, ValueError, TypeError) as error:
            raise Unstorable(str(error)) from error
        self._append(data)

    def set_aside(self, row: UsageRow, why: str) -> Path:
        """Keep a row that cannot be stored, with the reason, in a file that nothing reads. OSError when it cannot be kept."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / _SET_ASIDE
        line = json.dumps({"why": why, "row": msgspec.structs.asdict(row)}, default=repr)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="ascii") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        return path

    def _append(self, data: bytes) -> None:
        handle = self._opened()
        try:
            _write_all(handle, data)
        except Exception:
            self._cut_back()
            raise
        try:
            os.fdatasync(handle)
        except OSError as error:
            raise SyncFailed(str(error)) from error
        self._size += len(data)

    def probe(self) -> None:
        """Write and sync as much as a row would, then take it back. Raises like `write`."""
        handle = self._opened()
        start = self._size
        self._append(b"\n" * 4096)
        os.ftruncate(handle, start)
        self._size = start

    def files(self) -> list[Path]:
        """Files with rows that await the database, oldest first."""
        return sorted(self._folder.glob(f"[0-9]*-[0-9]*{_SUFFIX}")) if self._folder.is_dir() else []

    def own(self, file: Path) -> bool:
        """Whether this process wrote it; else an earlier one did."""
        return file in self._own

    def read(self, file: Path) -> tuple[list[UsageRow], int]:
        """The rows of a file, and how many lines hold a row that cannot be read. A torn last line was never acknowledged and
        is no row. Raises OSError.
        """
        rows: list[UsageRow] = []
        unreadable = 0
        for line in filter(None, file.read_bytes().split(b"\n")[:-1]):
            checksum, _, payload = line.partition(b" ")
            try:
                if checksum != b"%08x" % zlib.crc32(payload):
                    raise ValueError(line)
                rows.append(self._decoder.decode(payload))
            except ValueError:
                unreadable += 1
        return rows, unreadable

    def forget(self, file: Path, *, keep: bool = False) -> None:
        """A file's rows are in the database: it is deleted. `keep`: all that can be read are; it is put aside. OSError."""
        if file == self._current:
            self.close()
        if keep:
            file.rename(_free_name(file))
        else:
            file.unlink(missing_ok=True)
        self._own.discard(file)

    def kept(self) -> list[Path]:
        """What was put aside because no database can hold it or nobody can read it."""
        return sorted([*self._folder.glob(_SET_ASIDE), *self._folder.glob(f"*{_UNREADABLE}")])

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = self._current = None

    def _line(self, row: UsageRow) -> bytes:
        payload = self._encoder.encode(row)
        return b"%08x %s\n" % (zlib.crc32(payload), payload)

    def _opened(self) -> int:
        """The file that is written to; `_size` is its size."""
        if self._handle is None:
            self._handle = self._open()
        return self._handle

    def _open(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        number = 1 + max((int(f.stem.split("-")[0]) for f in self.files()), default=0)
        path = self._folder / f"{number:08d}-{os.getpid()}{_SUFFIX}"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            _sync_folder(self._folder)
        except OSError:
            os.close(handle)
            raise
        self._current = path
        self._own.add(path)
        self._size = 0
        return handle

    def _cut_back(self) -> None:
        """Drop what a failed write left, so that a later good line does not stand behind a torn one."""
        assert self._handle is not None  # noqa: S101 - only called after a write on it
        try:
            os.ftruncate(self._handle, self._size)
        except OSError:
            self.close()


def _free_name(file: Path) -> Path:
    """Where to put a file aside. Numbers begin anew once the folder is empty, so an earlier one may have had its name."""
    free = file.with_suffix(_UNREADABLE)
    for number in itertools.count(2):
        if not free.exists():
            break
        free = file.with_suffix(f".{number}{_UNREADABLE}")
    return free


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        raise SyncFailed(str(error)) from error
    finally:
        os.close(handle)
