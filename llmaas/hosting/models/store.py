"""Where model files lie. A file counts only with its record, which is written after its checksum was found right, so a
start needs no second look; a file that changed since is not served.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from llmaas.errors import EngineFailed
from llmaas.hosting.models.manifest import ModelSpec, Source

_BLOCK_BYTES = 4 * 1024 * 1024


class _Record(msgspec.Struct):
    sha256: str
    size_bytes: int
    modified_ns: int


class ModelStore:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, spec: ModelSpec) -> Path | None:
        """The verified file of a model; None when it is not here.

        Raises EngineFailed when there is a file that is not what was verified.
        """
        path, record_path = self.folder / spec.file, self._record_path(spec)
        if not path.exists():
            return None
        try:
            record = msgspec.json.decode(record_path.read_bytes(), type=_Record)
        except (OSError, msgspec.MsgspecError):
            record = None
        known = {source.sha256 for source in spec.sources}
        if record is not None and (record.sha256 in known or None in known):
            known.add(record.sha256)
        else:
            record = None  # of another file: the manifest has changed
        facts = path.stat()
        if record is not None and (facts.st_size, facts.st_mtime_ns) == (record.size_bytes, record.modified_ns):
            return path
        digest = sha256_of(path)
        if digest not in known:
            aside = path.with_suffix(".corrupt")
            path.replace(aside)
            record_path.unlink(missing_ok=True)
            raise EngineFailed(
                f"The file of the model `{spec.name}` is corrupt.",
                hint=f"its sha256 {digest[:12]}… is not the expected one; moved to {aside}",
            )
        self._record(spec, path, digest)
        return path

    def partial(self, spec: ModelSpec, source: Source) -> Path:
        """Where a pull from that very source gathers its bytes."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        mark = hashlib.sha256(msgspec.json.encode(source)).hexdigest()[:8]
        return self.folder / f".{spec.file}.{mark}.part"

    def lock_path(self, spec: ModelSpec) -> Path:
        """The file that whoever pulls the model has locked."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.folder / f".{spec.file}.lock"

    def clear_partials(self, spec: ModelSpec) -> None:
        """Remove what pulls of the model, from any source, have left."""
        for path in self.folder.glob(f".{spec.file}.*.part"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def adopt(self, spec: ModelSpec, finished: Path, digest: str) -> Path:
        """Put a verified file in its place, durably."""
        path = self.folder / spec.file
        with finished.open("rb") as handle:
            os.fsync(handle.fileno())
        finished.replace(path)
        self._record(spec, path, digest)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return path

    def _record(self, spec: ModelSpec, path: Path, digest: str) -> None:
        facts = path.stat()
        record = _Record(digest, facts.st_size, facts.st_mtime_ns)
        draft = self._record_path(spec).with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(record))
        draft.replace(self._record_path(spec))

    def _record_path(self, spec: ModelSpec) -> Path:
        return self.folder / f"{spec.file}.json"


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """`progress` gets the bytes read so far; it may raise to stop."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            digest.update(block)
            done += len(block)
            if progress is not None:
                progress(done)
    return digest.hexdigest()
