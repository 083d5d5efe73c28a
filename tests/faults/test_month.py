"""A month in small: three projects on different tiers, mixed requests with hang-ups, faults and price changes, and two kills,
over four processes on PostgreSQL and Valkey. At its end every sum is the engine's own, to the token.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmaas.cli.program import run
from llmaas.domain.audit import SYSTEM
from llmaas.domain.credit import CreditEntry, CreditKind
from llmaas.domain.fleet import Fleet
from llmaas.domain.limits import Limits
from llmaas.domain.models import Model, ModelKind
from llmaas.domain.prices import NANO, Price
from llmaas.domain.projects import Project
from llmaas.domain.tiers import Tier
from llmaas.domain.usage import UsageFilter, UsageRow
from tests.fakes.behaviour import Behaviour
from tests.fakes.upstream import FakeUpstream
from tests.faults.fleet_of_workers import Job, Told, Workers, call, workers
from tests.gateway import fleet_of
from tests.waiting import until

REQUESTS = int(os.environ.get("MONTH_REQUESTS", "50000"))
PHASES = 5
CALLERS = 64
BEHAVIOURS = {
    "small": Behaviour(tokens=4),
    "large": Behaviour(tokens=30, burst=True),
    "thinking": Behaviour(tokens=8, reasoning_tokens=3),
    "cached": Behaviour(tokens=5, prompt_tokens=100, cached_tokens=64),
    "silent": Behaviour(tokens=6, usage="missing"),
    "broken": Behaviour(status=500),
    "torn": Behaviour(tokens=9, cut_at=3),
}
TIERS = (
    Tier(
        "tier-1",
        requests_per_minute=1_000_000,
        concurrent_requests=64,
        monthly_cap=1_000 * NANO,
        prepaid_credit=200 * NANO,
    ),
    Tier("tier-2", output_tokens_per_hour=100_000_000, monthly_cap=3_000 * NANO),
    Tier("monthly-billing"),
)


def price_at(model_id: str, phase: int) -> Price:
    first = NANO * (phase + 1)
    return Price(0, model_id, 0, first, first + NANO, first + 2 * NANO, first + 3 * NANO)


def fleet_at(url: str, phase: int) -> Fleet:
    """Prices are others in each phase."""
    base = fleet_of(url, list(BEHAVIOURS), cancel_stops_billing=False)
    models = tuple(Model(name, ModelKind.CHAT, 0, price=price_at(name, phase)) for name in BEHAVIOURS)
    return replace(base, tiers=TIERS, models=models)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        for name, behaviour in BEHAVIOURS.items():
            server.always(behaviour, name)
        yield server


async def make_projects(four: Workers) -> list[str]:
    """Gives two keys of each project."""
    installation = four.installation
    keys = []
    for tier in TIERS:
        await installation.projects.add(Project(f"of-{tier.id}", tier.id, 1, tier_id=tier.id))
        for limits in (Limits(), Limits(budget_total=100 * NANO, tokens_per_minute=100_000_000)):
            token, _ = await installation.create_key(project_id=f"of-{tier.id}", name="month", limits=limits)
            keys.append(token)
    entry = CreditEntry("credit-1", "of-tier-1", 1, 200 * NANO, CreditKind.TOP_UP, "", "test")
    await installation.credit.add(entry, by=SYSTEM)
    return keys


def script(keys: list[str], phase: int, count: int, chance: random.Random) -> list[Job]:
    jobs = []
    for n in range(count):
        name = chance.choices(list(BEHAVIOURS), weights=(50, 10, 10, 10, 10, 5, 5))[0]
        request_id = f"month-{phase}-{n}"
        stream = name == "torn" or chance.random() < 0.4
        body: dict[str, Any] = {
            "model": name,
            "messages": [{"role": "user", "content": request_id + " word" * chance.randint(0, 20)}],
            "stream": stream,
            "max_tokens": 50,
        }
        leaves = stream and name != "torn" and chance.random() < 0.1
        jobs.append(Job(chance.choice(keys), body, request_id, leave_after_bytes=40 if leaves else None))
    return jobs


def engine_log(upstream: FakeUpstream) -> dict[str, tuple[int, int]]:
    """Tokens of each request as the engine has read and made them, by our request's id; tries that failed made none."""
    log = {}
    for record in upstream.requests:
        words = record.json["messages"][-1]["content"].split()
        behaviour = BEHAVIOURS[record.json["model"]]
        if behaviour.status is None:
            log[words[0]] = (behaviour.prompt_tokens or len(words), record.tokens_sent)
    return log


def check_rows(rows: list[UsageRow], told: list[Told], log: dict[str, tuple[int, int]]) -> Counter[str]:
    by_request = {row.request_id: row for row in rows}
    assert len(by_request) == len(rows), "a request has two rows"
    heard = {one.request_id: one for one in told}
    kinds: Counter[str] = Counter()
    for request_id, one in heard.items():
        row = by_request.get(request_id)
        kinds[row.outcome if row is not None else f"{one.status} {one.said[:150]!r}"] += 1
        if one.whole and one.status == 200:
            assert row is not None, f"{request_id} was answered and has no row"
            assert row.id == one.answer_id
    for row in rows:
        if row.usage_source == "engine":
            mine = (row.input_tokens + row.cached_input_tokens, row.output_tokens + row.reasoning_tokens)
            assert mine == log[row.request_id], f"{row.request_id} of {row.model_id}"
    return kinds


async def half_way(heard: list[Told], count: int) -> None:
    await until(lambda: len(heard) >= count // 2, "half of the requests were sent", 300)


@pytest.mark.slow
@pytest.mark.timeout(3000)
async def test_B09_a_month_ends_with_equal_books(
    tmp_path: Path, postgres_url: str, valkey_url: str, upstream: FakeUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(11)
    async with workers(tmp_path, postgres_url, valkey_url) as four:
        await four.apply(fleet_at(upstream.base_url, 0))
        keys = await make_projects(four)
        told: list[Told] = []
        began_s = time.monotonic()
        for phase in range(PHASES):
            if phase:
                await four.apply(fleet_at(upstream.base_url, phase))
            jobs = script(keys, phase, REQUESTS // PHASES, chance)
            heard: list[Told] = []
            calling = asyncio.create_task(call(four.serving.port, jobs, CALLERS, heard))
            if phase in (1, 3):
                await half_way(heard, len(jobs))
                four.kill_one()
            told += await calling
        took_s = time.monotonic() - began_s
        await four.serving.close()
        rows = [row async for row in four.installation.usage.rows(UsageFilter())]
        log = engine_log(upstream)
        kinds = check_rows(rows, told, log)
        lost = log.keys() - {row.request_id for row in rows}
        assert len(lost) <= 2 * CALLERS
        whole = {one.request_id for one in told if one.whole}
        assert not whole.intersection(lost)
        assert len({row.price_version for row in rows}) >= PHASES
        lines = tmp_path / "engine.jsonl"
        lines.write_text(
            "".join(
                json.dumps({"request_id": name, "prompt_tokens": p, "completion_tokens": c}) + "\n"
                for name, (p, c) in log.items()
            )
        )
        with capsys.disabled():
            print(f"\n{len(rows)} rows in {took_s:.0f} s, {len(lost)} of the kills; {dict(kinds)}")
    os.environ |= {"LLMAAS_DATABASE_URL": postgres_url, "LLMAAS_STATE_URL": valkey_url}
    try:
        place = ["--data-dir", str(tmp_path / "data")]
        checked = await asyncio.to_thread(run, [*place, "ledger", "check"])
        out = capsys.readouterr().out
        assert (checked, out.split()[-1]) == (0, "ok"), out
        await asyncio.to_thread(run, [*place, "ledger", "reconcile", "--engine-log", str(lines)])
        differ = {
            line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("chatcmpl-")
        }
    finally:
        del os.environ["LLMAAS_DATABASE_URL"], os.environ["LLMAAS_STATE_URL"]
    # Where an engine told nothing the row says that it was counted here; all others agree to the token.
    assert differ <= {row.id for row in rows if row.usage_source == "counted"}
    told_by_engine = [row for row in rows if row.usage_source == "engine"]
    assert len(told_by_engine) > len(rows) // 2
