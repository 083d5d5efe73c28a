"""Duties: one holder at a time, taken over when it is gone, and fenced off when it comes back."""

from __future__ import annotations

import asyncio

import pytest

from llmaas.clock import ManualClock
from llmaas.errors import Conflict
from llmaas.storage.database import Database
from llmaas.storage.duties import Duty, DutyRunner, SqlDutyRoster, check_fence
from llmaas.tasks import end
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
    ran: list[tuple[str, int]] = []

    def runner(name: str) -> asyncio.Task[None]:
        async def note(fence: int) -> None:
            ran.append((name, fence))

        return asyncio.create_task(DutyRunner(roster, name, clock, [Duty("note", 0.01, note)]).run())

    first = runner("a")
    await until(lambda: len(ran) >= 2, "it runs again and again")
    second = runner("b")
    count = len(ran)
    await until(lambda: len(ran) >= count + 3, "it goes on")
    assert set(ran) == {("a", 1)}
    first.cancel()
    await until(lambda: ("b", 2) in ran, "the other one took over")
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)


async def test_a_duty_that_fails_is_tried_again(roster: SqlDutyRoster) -> None:
    turns = 0

    async def fail(_fence: int) -> None:
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

    async def work(_fence: int) -> None:
        try:
            async with database.begin(one_at_a_time=False):
                begun.set()
                await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended.append("work")

    duties = [Duty("stays", 60, work), *(Duty(f"quick-{n}", 60, lambda _fence: asyncio.sleep(0)) for n in range(3))]
    before = asyncio.all_tasks()
    running = asyncio.create_task(DutyRunner(roster, "a", ManualClock(), duties).run())
    await begun.wait()
    await end(running)
    assert ended == ["work"]
    assert asyncio.all_tasks() == before
    assert await roster.hold_duty("stays", "b", NOW_MS, TTL_MS) == 2
