"""Locks on files, which the kernel gives up for a process that is gone, however it went."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """Alone among those who ask for it, in this process or another; waits for its turn. Raises OSError.

    The folder itself is locked: a file made for it by root would keep the owner of the others out.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class FileLock:
    """An exclusive lock on a file of its own, which is made when it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def take(self) -> bool:
        """False when another holder has it, in this process or another. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._handle = handle
        return True

    def is_free(self) -> bool:
        """Raises OSError."""
        taken = self.take()
        self.free()
        return taken

    def free(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class LifeFiles:
    """A folder with a file for each worker of a data directory, locked for the worker's life. A file that is not locked
    proves that its worker is gone, however silent a worker that is merely cut off from the database may be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: FileLock | None = None

    def begin(self, worker_id: str) -> None:
        """This process is that worker, until it ends. Raises OSError."""
        self._own = FileLock(self._folder / f".{worker_id}")
        self._own.take()
        # Under its name only once it is locked, so that nobody sees it free.
        self._own.path.rename(self._folder / worker_id)

    def left_behind(self) -> list[str]:
        """Workers of this data directory whose processes are gone and that nobody has buried."""
        return [path.name for path in sorted(self._folder.glob("[!.]*")) if FileLock(path).is_free()]

    def bury(self, worker_id: str) -> None:
        (self._folder / worker_id).unlink(missing_ok=True)
