"""Models of a few bytes and the store that they are pulled into."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from llmaas.hosting.models.manifest import FileSource, ModelSpec, Source
from llmaas.hosting.models.pull import Fetcher, FileFetcher, Puller
from llmaas.hosting.models.store import ModelStore


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def spec_of(*sources: Source, file: str = "m.gguf") -> ModelSpec:
    return ModelSpec("m", file, 512, list(sources))


def puller_at(folder: Path, fetchers: Mapping[type[Source], Fetcher] | None = None) -> Puller:
    return Puller(ModelStore(folder), {FileSource: FileFetcher(), **(fetchers or {})})


class Shown:
    """Listens to progress."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.steps.append((done, total))


def leftovers(folder: Path) -> list[str]:
    """What lies in a store beside files, records and locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix not in {".gguf", ".json", ".lock"})
