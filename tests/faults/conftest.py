"""Gateways that a whole module of tests shares, since starting one takes longer than most tests, and those of several processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.upstream import FakeUpstream
from tests.faults.fleet_of_workers import OneModel, one_model
from tests.gateway import GatewayProcess


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def second_upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayProcess]:
    """Not started yet: a fixture of the module gives it its fleet."""
    process = GatewayProcess(tmp_path_factory.mktemp("gateway") / "data")
    yield process
    await process.close()


@pytest.fixture
async def four(tmp_path: Path, postgres_url: str, valkey_url: str) -> AsyncIterator[OneModel]:
    """Gateway processes. A module that stops one of the stores says which it is, by a fixture of that name."""
    async with one_model(tmp_path, postgres_url, valkey_url) as running:
        yield running


@pytest.fixture
async def two(tmp_path: Path, postgres_url: str, valkey_url: str) -> AsyncIterator[OneModel]:
    async with one_model(tmp_path, postgres_url, valkey_url, 2) as running:
        yield running
