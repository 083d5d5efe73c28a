"""Duties: one holder at a time, taken over when it is gone, and fenced off when it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from llmaas.clock import ManualClock
from llmaas.domain.projects import Project
from llmaas.errors import Conflict
from llmaas.storage.budgets import SqlBudgetStore
from llmaas.storage.database import Database
from llmaas.storage.duties import Duty, DutyRunner, SqlDutyRoster, check_fence
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.retention import SqlRetention
from llmaas.storage.rollups import SqlRollups
from llmaas.storage.tables import duties, projects, usage, usage_days, usage_hours
from llmaas.tasks import end
from tests.storage.rows import row
from tests.waiting import until

TTL_MS = 15_000
NOW_MS = 1_760_000_000_000


@pytest.fixture
def roster(database: Database) -> SqlDutyRoster:
    return SqlDutyRoster(database)


async def test_a_duty_has_one_holder_and_is_taken_over_with_a_greater_fence(roster: SqlDutyRoster) -> None:
    clock = ManualClock()
    assert await roster.hold_duty("rollup", "a", clock.now_ms(), TTL_MS) == 1
    assert await roster.hold_duty("rollup", "b", clock.now_ms(), TTL_MS) is None
    assert await roster.hold_duty("retention", "b", clock.now_ms(), TTL_MS) == 1
    clock.advance(10)
    assert await roster.hold_duty("rollup", "a", clock.now_ms(), TTL_MS) == 1
    clock.advance(14.999)
    assert await roster.hold_duty("rollup", "b", clock.now_ms(), TTL_MS) is None
    clock.advance(0.001)
    assert await roster.hold_duty("rollup", "b", clock.now_ms(), TTL_MS) == 2
    assert await roster.hold_duty("rollup", "a", clock.now_ms(), TTL_MS) is None


async def test_who_gives_up_a_duty_is_followed_at_once(roster: SqlDutyRoster) -> None:
    await roster.hold_duty("rollup", "a", NOW_MS, TTL_MS)
    await roster.give_up("b")
    assert await roster.hold_duty("rollup", "b", NOW_MS, TTL_MS) is None
    await roster.give_up("a")
    assert await roster.hold_duty("rollup", "b", NOW_MS, TTL_MS) == 2


async def test_of_many_at_once_one_gets_it(roster: SqlDutyRoster) -> None:
    fences = await asyncio.gather(*(roster.hold_duty("rollup", f"w{n}", NOW_MS, TTL_MS) for n in range(12)))
    assert [fence for fence in fences if fence is not None] == [1]
    late = await asyncio.gather(*(roster.hold_duty("rollup", f"x{n}", NOW_MS + TTL_MS, TTL_MS) for n in range(12)))
    assert [fence for fence in late if fence is not None] == [2]


async def test_who_lost_a_duty_is_refused_when_it_writes(roster: SqlDutyRoster, database: Database) -> None:
    old = await roster.hold_duty("rollup", "a", NOW_MS, TTL_MS)
    new = await roster.hold_duty("rollup", "b", NOW_MS + TTL_MS, TTL_MS)
    assert old is not None
    assert new is not None
    async with database.begin() as connection:
        await check_fence(connection, "rollup", new)
        with pytest.raises(Conflict):
            await check_fence(connection, "rollup", old)
        with pytest.raises(Conflict):
            await check_fence(connection, "unheard of", 1)


@pytest.mark.parametrize("jump_ms", [-3_600_000, 3_600_000])
async def test_F13_a_clock_that_jumps_neither_frees_a_held_duty_twice_nor_locks_it(
    roster: SqlDutyRoster, jump_ms: int
) -> None:
    """The holder's clock jumps, it writes its lease by it, and dies: the others take over within the time to live."""
    await roster.hold_duty("rollup", "a", NOW_MS, TTL_MS)
    assert await roster.hold_duty("rollup", "a", NOW_MS + jump_ms, TTL_MS) == 1
    got = [await roster.hold_duty("rollup", "b", NOW_MS + after, TTL_MS) for after in (0, TTL_MS)]
    assert got == [2, 2]
    assert await roster.hold_duty("rollup", "c", NOW_MS + TTL_MS, TTL_MS) is None


async def test_one_of_two_workers_runs_a_duty_and_the_other_follows_it(roster: SqlDutyRoster) -> None:
    clock = ManualClock()
    ran: list[str] = []

    def runner(name: str) -> asyncio.Task[None]:
        async def note() -> None:
            ran.append(name)

        return asyncio.create_task(DutyRunner(roster, name, clock, [Duty("note", 0.01, note)]).run())

    first = runner("a")
    await until(lambda: len(ran) >= 2, "it runs again and again")
    second = runner("b")
    count = len(ran)
    await until(lambda: len(ran) >= count + 3, "it goes on")
    assert set(ran) == {"a"}
    first.cancel()
    await until(lambda: "b" in ran, "the other one took over")
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)


async def test_a_duty_that_fails_is_tried_again(roster: SqlDutyRoster) -> None:
    turns = 0

    async def fail() -> None:
        nonlocal turns
        turns += 1
        raise RuntimeError("not today")

    runner = asyncio.create_task(DutyRunner(roster, "a", ManualClock(), [Duty("fail", 0.01, fail)]).run())
    await until(lambda: turns >= 3, "it was tried again")
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)


async def test_nothing_goes_on_after_the_end(roster: SqlDutyRoster, database: Database) -> None:
    """What lived longer than its loop would be broken off in the middle of closing a connection, and never end."""
    begun = asyncio.Event()
    ended: list[str] = []

    async def work() -> None:
        try:
            async with database.begin(one_at_a_time=False):
                begun.set()
                await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended.append("work")

    listed = [Duty("stays", 60, work), *(Duty(f"quick-{n}", 60, lambda: asyncio.sleep(0)) for n in range(3))]
    before = asyncio.all_tasks()
    running = asyncio.create_task(DutyRunner(roster, "a", ManualClock(), listed).run())
    await begun.wait()
    await end(running)
    assert ended == ["work"]
    assert asyncio.all_tasks() == before
    assert await roster.hold_duty("stays", "b", NOW_MS, TTL_MS) == 2


async def stale_turn(roster: SqlDutyRoster, turn: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """A worker stands still in the midst of its turn until another has taken the duty over, and goes on then."""
    ended = asyncio.Event()

    async def late() -> None:
        assert await roster.hold_duty("work", "b", NOW_MS * 2, 10 * TTL_MS) == 2
        try:
            await turn()
        finally:
            ended.set()

    running = asyncio.create_task(DutyRunner(roster, "a", ManualClock(), [Duty("work", 60, late)]).run())
    await asyncio.wait_for(ended.wait(), 10)
    await end(running)


async def test_F13_who_lost_a_duty_folds_and_removes_nothing(roster: SqlDutyRoster, database: Database) -> None:
    day_ms = 86_400_000
    await SqlProjectStore(database).add(Project("default", "Default", 0))
    async with database.begin() as connection:
        await connection.execute(sa.update(projects).values(retention_days=1))
        await connection.execute(sa.insert(usage).values(msgspec.structs.asdict(row(started_ms=NOW_MS))))
    await SqlRollups(database).rebuild(NOW_MS, NOW_MS + 1)
    async with database.begin() as connection:
        await connection.execute(sa.update(usage_hours).values(shard=1))
        await connection.execute(sa.delete(usage_days))
    turns: Sequence[Callable[[], Coroutine[Any, Any, object]]] = (
        lambda: SqlRollups(database).fold(NOW_MS + day_ms),
        lambda: SqlRetention(database).sweep(NOW_MS + 9 * day_ms),
        lambda: SqlBudgetStore(database).fold("c"),
    )
    for turn in turns:
        await stale_turn(roster, turn)
        await roster.give_up("b")
        async with database.begin() as connection:
            await connection.execute(sa.delete(duties))
    async with database.connect() as connection:
        assert await connection.scalar(sa.select(sa.func.count()).select_from(usage_days)) == 0
        assert await connection.scalar(sa.select(sa.func.count()).select_from(usage)) == 1
    assert await SqlRetention(database).removed() == {}
    assert await SqlRollups(database).fold(NOW_MS + day_ms) == 1, "outside of a duty nothing is fenced"
