"""Limits over several workers: nothing is exceeded while Valkey lives, little is when it does not, and money never."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Self

import pytest
from typing_extensions import override

from llmaas.clock import ManualClock, SystemClock
from llmaas.domain.limits import Limits
from llmaas.domain.ports import BudgetStanding, Claim, Used
from llmaas.errors import QuotaExceeded, RateLimited, Unavailable
from llmaas.state.budgets import BudgetLeases
from llmaas.state.leases import Lease, SharedCounters
from llmaas.state.limiter import CountingLimiter
from llmaas.state.rules import Kind, Rule
from tests.state.worlds import NOTHING, ONE, Money, MoneyDoor, caller, shared_limiter
from tests.valkey import ValkeyServer
from tests.waiting import until

ROOT = Path(__file__).parents[2]
UNIT = 1_000_000


class Workers:
    """Real processes with one limit of 100 requests a minute between them."""

    def __init__(self, url: str, count: int) -> None:
        script = str(Path(__file__).with_name("limited_worker.py"))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.processes = [
            Popen(
                [sys.executable, script, url, f"w{at}", "100", str(count)],
                stdin=PIPE, stdout=PIPE, text=True, env=environment,
            )
            for at in range(count)
        ]  # fmt: skip
        self.request([0] * count)

    def request(self, numbers: Sequence[int]) -> list[int]:
        """So many from each worker, at the same time; gives how many were admitted."""
        for process, number in zip(self.processes, numbers, strict=True):
            assert process.stdin is not None
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
        return [int(process.stdout.readline()) for process in self.processes if process.stdout is not None]

    def close(self) -> None:
        for process in self.processes:
            process.communicate()


@pytest.fixture
def workers(mortal_valkey: ValkeyServer) -> Iterator[Workers]:
    started = Workers(mortal_valkey.url, 4)
    yield started
    started.close()


def test_B12_four_processes_admit_exactly_the_limit(workers: Workers) -> None:
    begun = time.monotonic()
    admitted = sum(workers.request([250] * 4))
    drained = (time.monotonic() - begun) * 100 / 60
    assert 100 <= admitted <= 100 + drained


def test_B12_with_valkey_killed_half_way_little_more_is_admitted(workers: Workers, mortal_valkey: ValkeyServer) -> None:
    begun = time.monotonic()
    admitted = sum(workers.request([30, 12, 8, 0]))
    assert admitted == 50
    mortal_valkey.kill()
    admitted += sum(workers.request([250] * 4))
    drained = (time.monotonic() - begun) * 100 / 60
    assert 50 < admitted <= 125 + drained


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


async def pair(
    stack: AsyncExitStack, url: str, money: Money | None = None, *, timeout_s: float = 5
) -> list[CountingLimiter]:
    money = money or Money()
    clock = SystemClock()
    return [
        await stack.enter_async_context(shared_limiter(url, name, clock, money, workers=2, timeout_s=timeout_s))
        for name in ("one", "two")
    ]


async def test_what_one_worker_took_ahead_is_not_missing_elsewhere(stack: AsyncExitStack, valkey_url: str) -> None:
    one, two = await pair(stack, valkey_url)
    who = caller(Limits(tokens_per_minute=6_000))
    used = 0
    for _ in range(40):
        (await one.hold(who, None, Claim(0, 50, 0))).settle(Used(0, 50, 0))
        used += 50
    begun = time.monotonic()
    last = 6_000 - used
    hold = await two.hold(who, None, Claim(0, last, 0))
    with pytest.raises(RateLimited):
        await one.hold(who, None, Claim(0, 200 + int((time.monotonic() - begun) * 100), 0))
    hold.settle(Used(0, last, 0))


async def test_slots_of_all_workers_together_stay_within_the_limit(stack: AsyncExitStack, valkey_url: str) -> None:
    limiters = await pair(stack, valkey_url)
    who = caller(Limits(concurrent_requests=7))
    running = most = admitted = 0

    async def request(limiter: CountingLimiter) -> None:
        nonlocal running, most, admitted
        try:
            hold = await limiter.hold(who, None, ONE)
        except RateLimited:
            return
        running += 1
        admitted += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        hold.settle(NOTHING)

    for _ in range(20):
        await asyncio.gather(*(request(limiters[at % 2]) for at in range(30)))
    assert most == 7
    assert admitted >= 7 * 20


async def test_B01_money_is_exact_over_workers(stack: AsyncExitStack, valkey_url: str) -> None:
    money = Money()
    limiters = await pair(stack, valkey_url, money)
    who = caller(Limits(budget_total=137))

    async def request(limiter: CountingLimiter) -> bool:
        try:
            hold = await limiter.hold(who, None, Claim(0, 0, 3))
        except QuotaExceeded:
            return False
        assert money.spent["key:k1:total"] + money.leased["key:k1:total"] <= 137
        await asyncio.sleep(0.001)
        hold.settle(Used(0, 0, 1))
        money.ledger(["key:k1:total"], 1, leased=True)
        return True

    admitted = 0
    for _ in range(20):
        admitted += sum(await asyncio.gather(*(request(limiters[at % 2]) for at in range(80))))
        if admitted >= 135:
            break
    # The last two units can pay for no hold of three.
    assert admitted == 135
    assert money.spent["key:k1:total"] == 135


async def test_idle_money_goes_back(stack: AsyncExitStack, valkey_url: str) -> None:
    money = Money()
    limiter = (await pair(stack, valkey_url, money))[0]
    who = caller(Limits(budget_total=1_000_000))
    calls = money.calls
    for _ in range(500):
        hold = limiter.try_hold(who, None, Claim(0, 0, 10)) or await limiter.hold(who, None, Claim(0, 0, 10))
        hold.settle(Used(0, 0, 5))
        money.ledger(["key:k1:total"], 5, leased=True)
        await asyncio.sleep(0)
    assert money.calls - calls < 250
    async with asyncio.timeout(10):
        while money.leased["key:k1:total"]:
            await asyncio.sleep(0.02)
    assert money.spent["key:k1:total"] == 2500


async def test_B01_what_others_hold_idle_comes_before_the_last_of_a_budget_is_refused() -> None:
    """One worker leased ahead while there was plenty, and is idle now; the other spends all the rest, unit by unit."""
    money, clock, who = Money(), SystemClock(), caller(Limits(budget_total=1_000 * UNIT))
    sources = [SharedCounters(BudgetLeases(money.door()), BudgetLeases(money.door()), clock) for _ in range(2)]
    money.called_back = [source.called_back for source in sources]
    loops = [asyncio.create_task(source.run()) for source in sources]
    idle, busy = (CountingLimiter(source, clock, patience_s=0.4) for source in sources)
    (await idle.hold(who, None, Claim(0, 0, UNIT))).settle(Used(0, 0, UNIT))
    (await idle.hold(who, None, Claim(0, 0, UNIT))).settle(Used(0, 0, UNIT))
    assert money.leased["key:k1:total"] > 50 * UNIT
    admitted = 0
    with pytest.raises(QuotaExceeded):
        while True:
            (await busy.hold(who, None, Claim(0, 0, UNIT))).settle(Used(0, 0, UNIT))
            admitted += 1
    assert admitted == 998
    for loop in loops:
        loop.cancel()
    await asyncio.wait(loops)


async def test_F11_what_was_leased_is_heard_although_the_rest_cannot_be_read() -> None:
    """The budget has less than is wanted, and the database goes away between the lease and the look at what others hold."""

    class Away(MoneyDoor):
        @override
        async def standing(self, budget_ids: Sequence[str]) -> dict[str, BudgetStanding]:
            raise Unavailable("The database does not answer.")

    money, lease = Money(), Lease(Rule("key:k1:total", Kind.MONEY, 10, "key:k1", ""), None, None)  # type: ignore[arg-type]
    lease.needs.append(25)
    ask = lease.ask(0, reports=False)
    assert ask is not None
    (answer,) = await BudgetLeases(Away(money)).exchange([replace(ask, useful=1)])
    lease.hear(ask, answer)
    assert (answer.granted, answer.net, answer.elsewhere) == (10, 10, 1)
    assert (lease.leased, lease.net, money.leased["key:k1:total"]) == (10, 10, 10)


async def test_F11_money_of_calls_that_nobody_knows_the_end_of_goes_back(
    stack: AsyncExitStack, valkey_url: str
) -> None:
    money = Money()
    door = money.door()
    limiter = await stack.enter_async_context(shared_limiter(valkey_url, "one", SystemClock(), money, door=door))
    who = caller(Limits(budget_total=1_000_000))
    for _ in range(20):
        (await limiter.hold(who, None, Claim(0, 0, 5_000))).settle(NOTHING)
        door.lost = 3
        with suppress(Unavailable):
            (await limiter.hold(who, None, Claim(0, 0, 500_000))).settle(NOTHING)
    door.lost = 0
    async with asyncio.timeout(10):
        while money.leased["key:k1:total"]:
            await asyncio.sleep(0.02)
    await limiter.hold(who, None, Claim(0, 0, 1_000_000))


class Cable:
    """A way to a server that can be cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._cut = False
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()

    def cut(self) -> None:
        self._cut = True
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def mend(self) -> None:
        self._cut = False

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        there_reader, there = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers += [writer, there]
        await asyncio.gather(_pump(reader, there), _pump(there_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


async def _until_together(limiter: CountingLimiter, *, yes: bool) -> None:
    source = limiter._source  # noqa: SLF001 - whether it counts alone shows nowhere else
    assert isinstance(source, SharedCounters)
    await until(lambda: source.together is yes, f"together: {yes}")


async def test_F10_what_a_window_lost_while_all_were_cut_off_is_told_afterwards(
    stack: AsyncExitStack, mortal_valkey: ValkeyServer
) -> None:
    """The counters are as they were, but each worker was silent for so long that the others took it for dead."""
    cables = [await stack.enter_async_context(Cable(mortal_valkey.port)) for _ in range(2)]
    limiters = [
        await stack.enter_async_context(
            shared_limiter(f"valkey://127.0.0.1:{cable.port}/0", name, SystemClock(), Money(), workers=2, timeout_s=0.3)
        )
        for cable, name in zip(cables, ("one", "two"), strict=True)
    ]
    who = caller(Limits(output_tokens_per_day=1000))
    used = 0

    async def use(limiter: CountingLimiter, most: int) -> None:
        nonlocal used
        for _ in range(most):
            try:
                hold = await limiter.hold(who, None, Claim(0, 10, 0))
            except RateLimited:
                return
            hold.settle(Used(0, 10, 0))
            used += 10

    for limiter in limiters:
        await use(limiter, 1)
    for cable in cables:
        cable.cut()
    for limiter in limiters:
        await _until_together(limiter, yes=False)
        await use(limiter, 40)
    for name in ("one", "two"):
        mortal_valkey.command(f'HSET {{llmaas}}:workers {name} "1 1"'.encode())
    third = await stack.enter_async_context(shared_limiter(mortal_valkey.url, "three", SystemClock(), workers=2))
    await use(third, 1)
    for cable in cables:
        cable.mend()
    for limiter in limiters:
        await _until_together(limiter, yes=True)
    for limiter in limiters:
        await use(limiter, 200)
    # Who is back first may take an eighth of the room ahead before the other has told what it used.
    assert 900 <= used <= 1000 + 1000 // 8


async def test_F10_a_frozen_valkey_costs_one_deadline_and_money_stays_exact(
    stack: AsyncExitStack, mortal_valkey: ValkeyServer
) -> None:
    money = Money()
    timeout_s = 0.4
    limiter = (await pair(stack, mortal_valkey.url, money, timeout_s=timeout_s))[0]
    who = caller(Limits(requests_per_minute=1000, budget_total=100))
    await limiter.hold(who, None, Claim(0, 0, 10))
    mortal_valkey.freeze()
    waits = []
    for _ in range(9):
        begun = time.monotonic()
        await limiter.hold(who, None, Claim(0, 0, 10))
        waits.append(time.monotonic() - begun)
        await asyncio.sleep(0.01)
    with pytest.raises(QuotaExceeded):
        await limiter.hold(who, None, Claim(0, 0, 10))
    mortal_valkey.thaw()
    assert sum(wait > timeout_s * 0.8 for wait in waits) <= 1


async def test_a_worker_that_is_cut_off_does_not_let_a_used_up_rate_begin_again(
    stack: AsyncExitStack, mortal_valkey: ValkeyServer
) -> None:
    one, two = await pair(stack, mortal_valkey.url, timeout_s=0.2)
    who = caller(Limits(requests_per_minute=100))
    begun = time.monotonic()
    admitted = 0

    async def request(limiter: CountingLimiter) -> None:
        nonlocal admitted
        with suppress(RateLimited):
            (await limiter.hold(who, None, ONE)).settle(NOTHING)
            admitted += 1

    for _ in range(110):
        await request(one)
    await request(two)
    mortal_valkey.freeze()
    await asyncio.gather(*(request(limiter) for limiter in (one, two) for _ in range(50)))
    mortal_valkey.thaw()
    drained = (time.monotonic() - begun) * 100 / 60
    assert 100 <= admitted <= 101 + drained


async def test_a_valkey_that_lost_everything_hears_it_again(stack: AsyncExitStack, mortal_valkey: ValkeyServer) -> None:
    one, two = await pair(stack, mortal_valkey.url)
    who = caller(Limits(concurrent_requests=4))
    holds = [await one.hold(who, None, ONE) for _ in range(3)]
    mortal_valkey.kill()
    mortal_valkey.start()
    async with asyncio.timeout(10):
        while mortal_valkey.command(b"HLEN {llmaas}:workers") != b":2":
            await asyncio.sleep(0.02)
    holds[0].settle(NOTHING)
    await one.hold(who, None, ONE)
    await two.hold(who, None, ONE)


async def test_slots_of_a_dead_worker_come_free(
    stack: AsyncExitStack, valkey_server: ValkeyServer, valkey_url: str
) -> None:
    who = caller(Limits(concurrent_requests=1))
    async with shared_limiter(valkey_url, "dying", workers=2) as dying:
        await dying.hold(who, None, ONE)
    living = await stack.enter_async_context(shared_limiter(valkey_url, "living", ManualClock(), workers=2))
    with pytest.raises(RateLimited):
        await living.hold(who, None, ONE)
    # As if it had been silent for long.
    assert valkey_server.command(b'HSET {llmaas}:workers dying "1 1"') == b":0"
    await living.hold(who, None, ONE)


async def test_a_burst_far_from_its_limits_is_admitted_whole(stack: AsyncExitStack, valkey_url: str) -> None:
    slow = Money()
    slow.pause_s = 0.004  # some turns of the other store later
    limiters = await pair(stack, valkey_url, slow)
    callers = [
        caller(Limits(budget_total=10**9, requests_per_minute=10**6, tokens_per_minute=10**9), key=f"k{n}")
        for n in range(4)
    ]

    async def client(number: int) -> None:
        limiter, who = limiters[number % 2], callers[number % 4]
        for turn in range(12):
            hold = await limiter.hold(who, None, Claim(100 + number, 50, 1_000 + turn))
            await asyncio.sleep(0.001 * (number % 5))
            hold.settle(Used(1, 1, 1))

    async with asyncio.timeout(30):
        await asyncio.gather(*(client(number) for number in range(64)))
