from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def engine_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the built-in engine inherits: where our code is."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
