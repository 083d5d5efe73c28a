"""A project that has something to show: people, models with prices, keys, credit, and usage of the last weeks."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmaas.domain.credit import CreditEntry, CreditKind
from llmaas.domain.fleet import Fleet
from llmaas.domain.keys import Key, issue
from llmaas.domain.limits import Limits
from llmaas.domain.members import Role
from llmaas.domain.models import Backend, Deployment, Lifecycle, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.prices import NANO, Price, TokenCounts, cost_nano
from llmaas.domain.tiers import Tier
from llmaas.domain.usage import UsageRow
from llmaas.storage.catalogue import SqlCatalogueStore
from tests.console.reading import Reader
from tests.console.site import PEPPER, TEST, Admin
from tests.storage.recording import keep
from tests.storage.rows import row

DAY_MS = 86_400_000
HOSTILE = '"><script>alert(1)</script>'
CARD = {
    "editor": "IBM",
    "parameters": "8B",
    "licence": "Apache-2.0",
    "description": "Follows instructions.",
    "languages": ["en", "es"],
}
_PRICE = Price(0, "granite3.3:8b", 0, input=2 * NANO, cached_input=NANO, output=8 * NANO, reasoning=8 * NANO)
_TIER_PRICE = Price(
    0, "granite3.3:8b", 0, input=NANO, cached_input=NANO, output=4 * NANO, reasoning=4 * NANO, tier_id="basic"
)
FLEET = Fleet(
    tiers=(
        Tier("basic", requests_per_minute=60, monthly_cap=50 * NANO, prepaid_credit=10 * NANO, prices=(_TIER_PRICE,)),
    ),
    providers=(Provider("lab", ProviderKind.VLLM),),
    backends=(Backend("ma01", "lab", "http://10.0.0.1:8000/v1", "ma01", "vllm"),),
    models=(
        Model(
            "granite3.3:8b",
            ModelKind.CHAT,
            0,
            ("granite",),
            60_000,
            8_192,
            "IBM",
            frozenset({"tools"}),
            CARD,
            price=_PRICE,
        ),
        Model(
            "org/coder:1.5b",
            ModelKind.CHAT,
            0,
            owned_by="Org",
            lifecycle=Lifecycle("deprecated", "2024-01-01", "2025-05-01", "2025-12-31", "granite3.3:8b"),
        ),
        Model("embed", ModelKind.EMBEDDING, 0, max_model_len=512),
        Model("idle", ModelKind.CHAT, 0, card={"description": HOSTILE}),
    ),
    deployments=tuple(Deployment(name, "ma01", name) for name in ("granite3.3:8b", "org/coder:1.5b", "embed")),
)


@dataclass(slots=True)
class Lab:
    """`lab` is on the tier `basic`; `other` belongs to somebody else; `empty` has had nothing yet."""

    admin: Admin
    keys: dict[str, Key]

    @property
    def now_ms(self) -> int:
        return self.admin.clock.now_ms()

    async def reader(self, name: str, language: str = "en") -> Reader:
        """A browser of one of `owner`, `dev`, `dev2`, `viewer`, `stranger`, `root`."""
        browser = self.admin.client()
        answer = await browser.sign_in(f"{name}@example.org")
        assert answer.status_code == 200, answer.text
        return Reader(browser, language)

    async def asked(self, *rows: UsageRow) -> None:
        await keep(self.admin.database, rows)

    def row(self, number: int, *, days_ago: float = 0.0, **fields: Any) -> UsageRow:
        """Of `lab` and the key `bot`; it costs what its tokens cost when its model has a price."""
        plain: dict[str, Any] = {
            "id": f"chatcmpl-{number}",
            "request_id": f"req-{number}",
            "project_id": "lab",
            "key_id": self.keys["bot"].id,
            "started_ms": self.now_ms - round(days_ago * DAY_MS),
            "model_id": "granite3.3:8b",
            "requested_model": "granite",
            "provider_id": "lab",
            "backend_id": "ma01",
            "price_version": 1,
            "input_tokens": 1_000,
            "output_tokens": 500,
            "ttft_ms": 200,
            "duration_ms": 5_200,
        }
        given = {**plain, **fields}
        if given["model_id"] == "granite3.3:8b" and "cost_nano" not in given:
            counts = [given.get(f"{name}_tokens", 0) for name in ("input", "cached_input", "output", "reasoning")]
            given["cost_nano"] = cost_nano(_TIER_PRICE, TokenCounts(*counts))
        return row(**given)

    async def key(self, name: str, *, project_id: str = "lab", owner: str = "dev", limits: Limits | None = None) -> Key:
        draft = Key("", project_id, name, b"", self.now_ms, owner_id=f"user-{owner}", limits=limits or Limits())
        _, key = issue(draft, PEPPER)
        await self.admin.services.keys.add(key, by=TEST)
        self.keys[name] = key
        return key


class Labs:
    """Labs of one test after the other: the first is made, and of the others the database is a copy."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: dict[str, Key] = {}

    async def lab_of(self, admin: Admin, path: Path) -> Lab:
        """`path`: of the database."""
        if not self._keys:
            lab = await make_lab(admin)
            self._keys = dict(lab.keys)
            _copy(path, self._path)
            return lab
        _copy(self._path, path)
        admin.services.live.holder.current = await SqlCatalogueStore(admin.database).load()
        return Lab(admin, dict(self._keys))


def _copy(source: Path, target: Path) -> None:
    """By SQLite itself, since others have it open."""
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


async def make_lab(admin: Admin) -> Lab:
    for name in ("viewer", "dev", "dev2", "owner", "stranger"):
        await admin.user(name)
    await admin.user("root", admin=True)
    people = {"viewer": Role.VIEWER, "dev": Role.DEVELOPER, "dev2": Role.DEVELOPER, "owner": Role.OWNER}
    services, store = admin.services, SqlCatalogueStore(admin.database)
    await store.apply(FLEET, now_ms=1, prune=False, by=TEST)
    services.live.holder.current = await store.load()
    for project_id in ("lab", "empty"):
        await admin.project(project_id, **people)
    await admin.project("other", stranger=Role.OWNER)
    project = await services.projects.get("lab")
    assert project is not None
    await services.projects.change(project, dataclasses.replace(project, tier_id="basic"), by=TEST)
    now_ms = admin.clock.now_ms()
    top_up = CreditEntry("credit-1", "lab", now_ms - 9 * DAY_MS, 20 * NANO, CreditKind.TOP_UP, "Order 7", "user-root")
    await services.credit.add(top_up, by=TEST)
    lab = Lab(admin, {})
    await lab.key("bot", limits=Limits(budget_total=10 * NANO, requests_per_minute=30))
    await lab.key("foreign", project_id="other", owner="stranger")
    return lab
