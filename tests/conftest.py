"""What all tests share: the `--all` switch, loud skips, and a running gateway to talk to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import settings

from tests.fakes.tiny_model import write_tiny_model
from tests.gateway import GatewayProcess
from tests.postgres import (  # noqa: F401 - fixtures
    empty_postgres_url,
    own_postgres,
    postgres_databases,
    postgres_server,
    postgres_url,
)
from tests.service import Service, start_service, stop_service
from tests.valkey import mortal_valkey, valkey_server, valkey_url  # noqa: F401 - fixtures of all tests

# How long an example takes says more about the machine than about the code.
settings.register_profile("here", deadline=None)
settings.load_profile("here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run slow tests too")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What runs in a browser, or in four gateway processes, is slow."""
    for item in items:
        if not {"chromium", "four"}.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    if not config.getoption("--all"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: runs with --all"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing may be missing: a skip for a part that is not there is a failure."""
    report = yield
    slow = "slow" in item.keywords and not item.config.getoption("--all")
    if report.skipped and os.environ.get("CI") and not slow and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of half a megabyte that the real engine loads in milliseconds."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    """A gateway process of this test alone, not started yet: set up its fleet, then `await gateway.start()`."""
    process = GatewayProcess(tmp_path / "data")
    yield process
    await process.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def session_service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    service = await start_service(tmp_path_factory.mktemp("service"))
    yield service
    await stop_service(service)


@pytest.fixture
def service(session_service: Service) -> Service:
    """The session's gateway with its fake engines, their scripts and logs empty. Tests that use it run in the session's
    event loop: `pytestmark = pytest.mark.asyncio(loop_scope="session")`."""
    session_service.upstreams.reset()
    return session_service
