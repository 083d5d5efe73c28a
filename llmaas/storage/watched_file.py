"""SQLite's file under a process that has it open: whether it is still there, and still the one that was opened.

SQLite itself goes on with a file that was removed, exchanged or cut, and what it writes then is lost.
"""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Literal
from urllib.parse import quote

REMEDY = (
    "put it back, or stop llmaas and restore a backup (`llmaas restore`); usage rows wait in the spool until the database is"
    " there again"
)
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 32
_LOG_MAGICS = (0x377F0682, 0x377F0683)
_Identity = tuple[int, int]


class FileLost(Exception):
    """What happened to the file, in words."""


class WatchedFile:
    """All connections of a process to one file share it, also over threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._closely = False
        self._handle: int | None = None
        self._known: _Identity | None = None
        self._size = 0
        self._log: _Identity | None = None
        self._spoiled: str | None = None
        self._turns = threading.Lock()
        self._number = 0

    @property
    def uri(self) -> str:
        """For SQLite, with `mode=rw`: it makes no file then."""
        return f"file:{quote(str(self._path))}"

    def watch_closely(self) -> None:
        """Look at its first bytes too. For a process that lives long: it keeps the file open to its end, since closing it would take
        away the locks that SQLite has on it.
        """
        self._closely = True

    def look(self) -> int:
        """A number for the file that is there: when it is another one than before, connections have to be made anew. Raises
        FileLost. A file that was spoiled in its place stays lost: what SQLite knows of it is wrong for the life of the process.
        """
        with self._turns:
            try:
                return self._look()
            except OSError as error:
                raise FileLost(f"{self._path} cannot be read: {error.strerror}") from error

    def _look(self) -> int:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._log = _identity(log_of(self._path))
            raise
        if not stat.S_ISREG(found.st_mode):
            raise FileLost(f"{self._path} is no file")
        identity = (found.st_dev, found.st_ino)
        if identity != self._known or (self._closely and self._handle is None):
            self._take(identity, found.st_size)
        elif self._spoiled is None:
            self._spoiled = self._fault(self._handle, found.st_size, least=self._size)
        if self._spoiled is not None:
            raise FileLost(self._spoiled)
        self._size = found.st_size
        self._log = _identity(log_of(self._path))
        return self._number

    def _take(self, identity: _Identity, size: int) -> None:
        """The first file as it is, since a checkpoint of it may have been cut short; another one once it is whole: it may be about to
        be copied.
        """
        exchanged = self._known not in {None, identity}
        handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC) if self._closely else None
        if exchanged:
            try:
                if fault := self._fault(handle, size, least=size + 1):
                    raise FileLost(fault)
                self._part_from_log()
            except (OSError, FileLost):
                if handle is not None:
                    os.close(handle)
                raise
            if self._handle is not None:
                os.close(self._handle)
        if identity != self._known:
            self._known = identity
            self._number += 1
        self._handle = handle
        self._spoiled = self._fault(handle, size, least=0)

    def _part_from_log(self) -> None:
        """The write-ahead log of the file that is gone would be taken for one of the file that is there now."""
        log = log_of(self._path)
        if self._log is not None and _identity(log) == self._log:
            log.rename(log.with_name(f"{log.name}.lost"))
            self._path.with_name(f"{self._path.name}-shm").unlink(missing_ok=True)

    def _fault(self, handle: int | None, size: int, *, least: int) -> str | None:
        """A file that is smaller than `least` has to say so itself, as it does after a VACUUM."""
        if handle is None:
            return None if size else f"{self._path} is empty"
        head = os.pread(handle, _HEADER_BYTES, 0)
        if not head.startswith(_MAGIC) or len(head) < _HEADER_BYTES:
            return f"{self._path} is no database of SQLite"
        page = int.from_bytes(head[16:18], "big")
        told = int.from_bytes(head[28:32], "big") * (65_536 if page == 1 else page)
        if size < min(least, told):
            return f"{self._path} is not whole"
        return f"{log} is damaged" if is_damaged(log := log_of(self._path)) else None


def log_of(path: Path) -> Path:
    """The write-ahead log of the database at `path`."""
    return path.with_name(path.name + "-wal")


def is_damaged(log: Path) -> bool:
    """Whether the beginning of a write-ahead log is none. SQLite takes no notice: it leaves out what the log holds. Nothing but
    zeros is what a power cut can leave, before anything in it counted.
    """
    try:
        with log.open("rb") as file:
            head = file.read(_HEADER_BYTES)
    except OSError:
        return False
    if not any(head):
        return False
    words = [int.from_bytes(head[at : at + 4], "big") for at in range(0, len(head), 4)]
    return len(head) < _HEADER_BYTES or words[0] not in _LOG_MAGICS or _checksum(head) != (words[6], words[7])


def _checksum(head: bytes) -> tuple[int, int]:
    """Of the first 24 bytes, in the byte order that the magic number names."""
    order: Literal["big", "little"] = "big" if head[3] & 1 else "little"
    first = second = 0
    for at in range(0, 24, 8):
        first = (first + int.from_bytes(head[at : at + 4], order) + second) & 0xFFFFFFFF
        second = (second + int.from_bytes(head[at + 4 : at + 8], order) + first) & 0xFFFFFFFF
    return first, second


def _identity(path: Path) -> _Identity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)
