"""Each test of a store runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmaas.storage.database import Database
from tests.schema import write_schema


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_place(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """A database with nothing in it."""
    if request.param == "sqlite":
        return tmp_path / "data" / "llmaas.db"
    return str(request.getfixturevalue("empty_postgres_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """A database with the schema in it."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    write_schema(tmp_path / "llmaas.db")
    return tmp_path / "llmaas.db"


@pytest.fixture
async def database(place: str | Path) -> AsyncIterator[Database]:
    opened = Database(
        place, limit_s=60
    )  # none of these is about a database that is late, whatever else the machine does
    yield opened
    await opened.close()
