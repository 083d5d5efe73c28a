"""The import contracts in pyproject.toml name every adapter that exists."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
ADAPTERS = ("storage", "state", "engine", "upstreams/openai", "upstreams/ollama", "upstreams/embedded")


def test_every_adapter_is_protected() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (protected,) = (contract["protected_modules"] for contract in contracts if contract["type"] == "protected")
    paths = {adapter: ROOT / "llmaas" / adapter for adapter in ADAPTERS}
    exist = {
        name for name, path in paths.items() if (path / "__init__.py").exists() or path.with_suffix(".py").exists()
    }
    assert {f"llmaas.{name.replace('/', '.')}" for name in exist} - set(protected) == set()
