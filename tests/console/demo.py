"""An installation with a history: people, two projects, models on three machines, and weeks of traffic in the ledger."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import msgspec

from llmaas.datadir import Installation
from llmaas.domain.alerts import Channel, ChannelKind
from llmaas.domain.audit import SYSTEM
from llmaas.domain.credit import CreditEntry, CreditKind
from llmaas.domain.fleet import Fleet
from llmaas.domain.invitations import Invitation, hash_token
from llmaas.domain.keys import Key
from llmaas.domain.limits import Limits
from llmaas.domain.members import Member, Role
from llmaas.domain.models import Backend, Deployment, Lifecycle, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.prices import NANO, Price, TokenCounts, cost_nano
from llmaas.domain.projects import Project
from llmaas.domain.tiers import Tier
from llmaas.domain.usage import UsageRow
from llmaas.domain.users import User
from llmaas.storage.ledger import Ledger
from llmaas.storage.row_store import SHARED
from llmaas.storage.spool import Spool
from llmaas.storage.sqlite_rows import SqliteRows
from tests.fakes.behaviour import Behaviour
from tests.fakes.upstream import FakeUpstream
from tests.storage.rows import row

PASSWORD = "correct horse battery"
PROJECT, OTHER_PROJECT, HIDDEN_PROJECT = "assistants", "research", "hidden"
INVITATION = "demo-invitation"
"""The token of the one open invitation."""
HOSTILE = '"><script>alert(1)</script><b>'
PEOPLE = {"root": "Ruth Okafor", "owner": "Ana Serrano", "dev": "Daniel Petit", "viewer": "Vera Lindholm"}
"""Each signs in as `<name>@example.org`; `root` is the admin, the others have the role of that name in both projects."""
_DAY_MS = 86_400_000
_WORDS = (
    "A gateway of your own keeps prompts on your machines and shows what every request costs. Start with one model and "
    "one key, then give each program a key of its own.\n\n```python\nanswer = client.chat.completions.create(\n"
    '    model="granite", messages=messages\n)\n```\n\nWhat a model writes is only ever text, <b>also this</b>.'
)


def demo_fleet(url: str) -> Fleet:
    """All three machines are the fake one at `url`."""
    tier = Tier(
        "team",
        requests_per_minute=600,
        concurrent_requests=32,
        output_tokens_per_hour=300_000,
        output_tokens_per_day=7_200_000,
        monthly_cap=300 * NANO,
        prepaid_credit=500 * NANO,
    )
    granite = Model(
        "granite3.3:8b",
        ModelKind.CHAT,
        0,
        aliases=("granite",),
        max_model_len=60_000,
        max_output_tokens=8_192,
        owned_by="IBM",
        capabilities=frozenset({"tools", "reasoning"}),
        price=Price(0, "granite3.3:8b", 0, 1_800_000_000, 900_000_000, 8_000_000_000, 8_000_000_000),
        card={
            "editor": "IBM",
            "parameters": "8B",
            "licence": "Apache-2.0",
            "description": "For assistants and tools; reasons before it answers when it is asked to.",
            "languages": ["en", "es", "fr"],
            "energy_kwh_per_mtok": 0.35,
        },
    )
    coder = Model(
        "qwen2.5-coder:1.5b",
        ModelKind.CHAT,
        0,
        max_model_len=8_192,
        max_output_tokens=4_096,
        owned_by="Qwen",
        capabilities=frozenset({"tools"}),
        card={"editor": "Alibaba Cloud", "parameters": "1.5B", "licence": "Apache-2.0", "energy_kwh_per_mtok": 0.08},
    )
    mistral = Model(
        "mistral-small:24b",
        ModelKind.CHAT,
        0,
        max_model_len=131_072,
        owned_by="Mistral AI",
        capabilities=frozenset({"tools", "vision"}),
        price=Price(0, "mistral-small:24b", 0, 2_000_000_000, 0, 6_000_000_000, 0),
        card={"editor": "Mistral AI", "parameters": "24B", "licence": "Apache-2.0", "description": HOSTILE},
        lifecycle=Lifecycle("deprecated", "2025-01-30", "2026-10-01", "2027-01-31", "granite3.3:8b"),
    )
    embeddings = Model(
        "bge-m3",
        ModelKind.EMBEDDING,
        0,
        max_model_len=8_192,
        owned_by="BAAI",
        price=Price(0, "bge-m3", 0, 20_000_000),
        card={"parameters": "0.6B", "licence": "MIT", "description": "Embeddings in many languages."},
    )
    return Fleet(
        tiers=(tier,),
        providers=(Provider("lab", ProviderKind.VLLM), Provider("outside", ProviderKind.OPENAI)),
        backends=(
            Backend("ma01", "lab", url, "ma01", "vllm", 64),
            Backend("ma02", "lab", url, "ma02", "vllm", 64),
            Backend("cloud", "outside", url, "cloud", "openai"),
        ),
        models=(granite, coder, mistral, embeddings),
        deployments=(
            Deployment("granite3.3:8b", "ma01", "granite3.3:8b"),
            Deployment("granite3.3:8b", "ma02", "granite3.3:8b"),
            Deployment("qwen2.5-coder:1.5b", "ma02", "qwen2.5-coder:1.5b"),
            Deployment("mistral-small:24b", "cloud", "mistral-small:24b"),
            Deployment("bge-m3", "ma01", "bge-m3"),
        ),
    )


def answer_slowly(upstream: FakeUpstream) -> None:
    """Words at the pace of a model."""
    pieces = tuple(re.findall(r"\S+\s*", _WORDS))
    upstream.always(Behaviour(tokens=len(pieces), pieces=pieces, chunk_pause_ms=10, flavour="vllm"))


async def fill(installation: Installation, data_dir: Path, url: str, *, days: int = 45) -> None:
    """Into an installation that nobody has used."""
    now_ms = installation.clock.now_ms()
    await installation.catalogue.apply(demo_fleet(url), now_ms=now_ms, prune=True)
    await _people(installation, now_ms)
    keys = await _keys(installation, now_ms)
    for days_ago, amount, kind, note in (
        (44, 200, CreditKind.TOP_UP, "Order 2026-117"),
        (30, 25, CreditKind.GRANT, "Welcome"),
        (9, 100, CreditKind.TOP_UP, "Order 2026-181"),
    ):
        entry = CreditEntry(
            f"credit-{installation.ids.uuid7()}",
            PROJECT,
            now_ms - days_ago * _DAY_MS,
            amount * NANO,
            kind,
            note,
            "user-root",
        )
        await installation.credit.add(entry, by=SYSTEM)
    for number, (target, told_ms, fault) in enumerate(
        (
            ("ops@example.org", now_ms - 9 * _DAY_MS, None),
            (
                "https://chat.example.org/hooks/llm-alerts",
                now_ms - 9 * _DAY_MS,
                "chat.example.org answered 503; a 2xx is what counts as delivered.",
            ),
        )
    ):
        way = ChannelKind.WEBHOOK if "://" in target else ChannelKind.EMAIL
        channel = Channel(f"channel-{number}", PROJECT, way, target, now_ms - 40 * _DAY_MS + number, told_ms, fault)
        await installation.alerts.add_channel(channel, by=SYSTEM)
    await _traffic(installation, data_dir, keys, now_ms, days)
    await installation.rollups.fold(now_ms)


async def _people(installation: Installation, now_ms: int) -> None:
    digest = await installation.passwords.hash(PASSWORD)
    for name, shown in PEOPLE.items():
        user = User(f"user-{name}", f"{name}@example.org", digest, name == "root", False, now_ms, name=shown)
        await installation.users.add(user, by=SYSTEM)
    long_ago = now_ms - 90 * _DAY_MS
    for project in (
        Project(PROJECT, "Assistants", long_ago, tier_id="team", low_credit_nano=20 * NANO),
        Project(OTHER_PROJECT, f"Research {HOSTILE}", long_ago, tier_id="team"),
        Project(HIDDEN_PROJECT, "Hidden", long_ago),
    ):
        await installation.projects.add(project, by=SYSTEM)
    for project_id in (PROJECT, OTHER_PROJECT):
        for name, role in (("owner", Role.OWNER), ("dev", Role.DEVELOPER), ("viewer", Role.VIEWER)):
            await installation.members.add(Member(project_id, f"user-{name}", role, long_ago), by=SYSTEM)
    invitation = Invitation(
        f"invitation-{installation.ids.uuid7()}",
        PROJECT,
        "mei@example.org",
        Role.DEVELOPER,
        hash_token(INVITATION, installation.pepper),
        "user-owner",
        now_ms - _DAY_MS,
        now_ms + 6 * _DAY_MS,
    )
    await installation.invitations.add(invitation, by=SYSTEM)


async def _keys(installation: Installation, now_ms: int) -> list[Key]:
    keys = []
    for name, limits, days in (
        ("Support chatbot, production", Limits(budget_per_month=100 * NANO, requests_per_minute=120), 300),
        ("Nightly summaries", Limits(budget_total=50 * NANO), 80),
        ("Notebook", Limits(), None),
        (HOSTILE, Limits(), None),
    ):
        expires_ms = None if days is None else now_ms + days * _DAY_MS
        _, key = await installation.create_key(project_id=PROJECT, name=name, expires_ms=expires_ms, limits=limits)
        keys.append(key)
    return keys


async def _traffic(installation: Installation, data_dir: Path, keys: list[Key], now_ms: int, days: int) -> None:
    """Through the ledger's own writer, so that sums and budgets are as they would be."""
    prices = {price.model_id: price for price in (await installation.catalogue.price_versions()).values()}
    ledger = Ledger(SqliteRows(data_dir / "llmaas.db", SHARED), Spool(data_dir / "spool"))
    ledger.start()
    chance = random.Random(11)
    written = []
    for day in range(days - 1, -1, -1):
        for n in range(chance.randint(8, 40)):
            since_ms = chance.randrange(max(1, now_ms % _DAY_MS)) if day == 0 else day * _DAY_MS
            at_ms = now_ms - since_ms - (0 if day == 0 else chance.randrange(_DAY_MS))
            written.append(ledger.append(_row(chance, prices, keys, at_ms, f"{day}-{n}")))
    await asyncio.gather(*written)
    await ledger.stop()


def _row(chance: random.Random, prices: dict[str, Price], keys: list[Key], at_ms: int, name: str) -> UsageRow:
    model = chance.choices(["granite3.3:8b", "qwen2.5-coder:1.5b", "mistral-small:24b", "bge-m3"], [6, 3, 2, 2])[0]
    outcome = chance.choices(["completed", "client_aborted", "engine_failed"], [95, 3, 2])[0]
    given = chance.randint(400, 24_000)
    cached = chance.randrange(given // 2) if chance.random() < 0.4 else 0
    made = 0 if model == "bge-m3" or outcome == "engine_failed" else chance.randint(200, 6_000)
    thought = made // 3 if model.startswith("granite") and chance.random() < 0.3 else 0
    counts = TokenCounts(given - cached, cached, made - thought, thought)
    price, ttft_ms = prices.get(model), chance.randint(80, 700)
    machine = "cloud" if model.startswith("mistral") else chance.choice(["ma01", "ma02"])
    plain = row(
        id=f"chatcmpl-demo-{name}",
        request_id=f"req-demo-{name}",
        project_id=PROJECT,
        key_id=chance.choices(keys, [6, 3, 2, 1])[0].id,
        end_user=chance.choice([None, "u-17", "u-23", HOSTILE]),
        streamed=True,
        started_ms=at_ms,
        duration_ms=ttft_ms + made * 15,
        ttft_ms=ttft_ms if made else None,
        model_id=model,
        requested_model=model,
        provider_id="outside" if machine == "cloud" else "lab",
        backend_id=machine,
        machine_name=machine,
        routing_reason="least_busy",
        outcome=outcome,
        error_code="engine_error" if outcome == "engine_failed" else None,
        tier_id="team",
        energy_uwh=(given + made) * 350,
    )
    if outcome == "engine_failed":
        return msgspec.structs.replace(plain, finish_reason=None, input_tokens=0, output_tokens=0)
    return msgspec.structs.replace(
        plain,
        input_tokens=counts.input,
        cached_input_tokens=counts.cached_input,
        output_tokens=counts.output,
        reasoning_tokens=counts.reasoning,
        price_version=price.version if price is not None else None,
        cost_nano=cost_nano(price, counts) if price is not None else 0,
    )
