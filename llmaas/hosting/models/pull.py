"""Pulling a model: sources in their order, resumed where a former try ended, verified before the file counts.

Blocking by nature, so it runs in a thread. Safe against being killed at any moment: only whole, verified files are adopted.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import structlog

from llmaas.errors import EngineFailed
from llmaas.hosting.models.manifest import FileSource, ModelSpec, Source
from llmaas.hosting.models.store import ModelStore, sha256_of

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all). May raise PullCancelled."""

_BLOCK_BYTES = 4 * 1024 * 1024
_LOCK_POLL_S = 0.2
_SPARE_BYTES = 256 * 1024 * 1024
_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.pull")


class PullCancelled(Exception):
    """Whoever wanted the model no longer does; what is there stays for the next time."""


class SourceFailed(Exception):
    """This source does not give the file; the text says why and what to do."""


class Fetcher(Protocol):
    def fetch(self, source: Source, partial: Path, progress: Progress) -> Path:
        """Bring the whole file to a path of its choice, `partial` or below it, resuming what is there. Raises SourceFailed."""
        ...


class Puller:
    def __init__(self, store: ModelStore, fetchers: Mapping[type[Source], Fetcher]) -> None:
        self._store = store
        self._fetchers = fetchers

    def pull(self, spec: ModelSpec, progress: Progress) -> Path:
        """The verified file, at once when it is here already. Raises EngineFailed with each source's reason."""
        with self._only_one(spec, progress):
            reasons = []
            try:
                found = self._store.find(spec)
            except EngineFailed as error:
                found = None
                reasons.append(f"{error.message} {error.hint}")
                _log.error("model_corrupt", model=spec.name, hint=error.hint)
            if found is not None:
                return found
            for left, source in zip(reversed(range(len(spec.sources))), spec.sources, strict=True):
                kind = type(source).__struct_config__.tag
                try:
                    return self._pull_from(spec, source, progress)
                except (SourceFailed, OSError) as error:
                    reasons.append(f"{kind}: {error}")
                    hint = "the next source is tried" if left else "it was the last source"
                    _log.warning("source_failed", model=spec.name, source=kind, reason=str(error), hint=hint)
        raise EngineFailed(f"The model `{spec.name}` could not be pulled from any source.", hint="; ".join(reasons))

    def _pull_from(self, spec: ModelSpec, source: Source, progress: Progress) -> Path:
        partial = self._store.partial(spec, source)
        self._check_space(_size_of(source), partial)
        finished = self._fetchers[type(source)].fetch(source, partial, progress)
        size = finished.stat().st_size
        digest = sha256_of(finished, lambda _done: progress(size, size))
        if source.sha256 is not None and digest != source.sha256:
            _remove(partial)
            raise SourceFailed(
                f"the file is not the expected one (sha256 {digest[:12]}…, expected {source.sha256[:12]}…)"
            )
        path = self._store.adopt(spec, finished, digest)
        self._store.clear_partials(spec)
        return path

    def _check_space(self, size_bytes: int, partial: Path) -> None:
        have = sum(path.stat().st_size for path in [partial, *partial.rglob("*")] if path.is_file())
        need = max(size_bytes - have, 0) + _SPARE_BYTES
        free = shutil.disk_usage(partial.parent).free
        if free < need:
            raise SourceFailed(
                f"not enough disk space: {need >> 20} MiB needed, {free >> 20} MiB free in {partial.parent}"
            )

    @contextmanager
    def _only_one(self, spec: ModelSpec, progress: Progress) -> Iterator[None]:
        """Two processes that pull the same model: the second waits and then finds it done."""
        with self._store.lock_path(spec).open("w") as handle:
            while not _locked(handle):
                progress(0, 0)
                time.sleep(_LOCK_POLL_S)
            yield


class FileFetcher:
    def fetch(self, source: Source, partial: Path, progress: Progress) -> Path:
        assert isinstance(source, FileSource)  # noqa: S101 - by the table of fetchers
        size, done = _size_of(source), 0
        with Path(source.path).expanduser().open("rb") as reader, partial.open("wb") as writer:
            while block := reader.read(_BLOCK_BYTES):
                writer.write(block)
                done += len(block)
                progress(done, size)
        return partial


def _size_of(source: Source) -> int:
    if not isinstance(source, FileSource):
        return source.size_bytes
    origin = Path(source.path).expanduser()
    if not origin.is_file():
        raise SourceFailed(f"there is no file {origin}")
    return origin.stat().st_size


def _locked(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
