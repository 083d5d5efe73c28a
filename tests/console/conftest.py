"""The admin API over real stores; time moves only when told to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmaas.clock import ManualClock
from llmaas.storage.database import Database
from tests.console.browser import chromium, console  # noqa: F401 - fixtures
from tests.console.lab import Lab, Labs
from tests.console.site import Admin, Browser, SignedIn, Site, make_services
from tests.schema import write_schema


@pytest.fixture(scope="session")
def site() -> Site:
    return Site()


@pytest.fixture
async def admin(tmp_path: Path, site: Site) -> AsyncIterator[Admin]:
    write_schema(tmp_path / "llmaas.db")
    database = Database(tmp_path / "llmaas.db")
    clock = ManualClock()
    made = Admin(site, make_services(database, clock), clock, database)
    yield made
    for client in made.clients:
        await client.aclose()
    await database.close()


@pytest.fixture
def signed_in(admin: Admin) -> SignedIn:
    """A browser of a user that is there already."""

    async def _signed_in(name: str) -> Browser:
        browser = admin.client()
        answer = await browser.sign_in(f"{name}@example.org")
        assert answer.status_code == 200, answer.text
        return browser

    return _signed_in


@pytest.fixture(scope="session")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Labs:
    return Labs(tmp_path_factory.mktemp("lab") / "llmaas.db")


@pytest.fixture
async def lab(admin: Admin, labs: Labs, tmp_path: Path) -> Lab:
    """A project with people, models, keys and credit."""
    return await labs.lab_of(admin, tmp_path / "llmaas.db")
