"""Leases: amounts of shared limits that this worker took in bulk and answers from without asking. One loop for each store
takes ahead of need while there is plenty, exactly what waiting requests need when there is not, and gives back what is idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

import structlog

from llmaas.clock import Clock
from llmaas.domain.rates import SCALE, Counter, Rate
from llmaas.errors import Unavailable
from llmaas.state.refusals import Needs
from llmaas.state.rules import Kind, Rule
from llmaas.tasks import for_ever

_log = structlog.get_logger("llmaas.state")
_AHEAD = 2
_PLENTY_AHEAD = 100
"""How many times what the last turn took is kept at hand. Of money that there is plenty of ten seconds of it, so that a database
which stands still for a while stops nobody who has it.
"""
_DRY_MS = 250
_HEARTBEAT_S = 2.0
_PROBE_S = 0.2
_SHARE = 8
"""At most this part of what is left for all is kept at hand by one worker."""


@dataclass(slots=True)
class Ask:
    """One lease's message to its store: `leased` is how it stands now, without what is asked for; `idle`: what nobody waits for.

    `used`: everything that was used of it, ever; `own`: the part of it that a store which has forgotten this worker lacks: of a
    rate what has not drained, in parts of SCALE, of a window what was used since the last answer.
    `net`: everything that was granted of it less what was given back without having been used; None: not known yet. Less than
    `useful` helps nobody who waits.
    """

    rule: Rule
    leased: int
    idle: int
    used: int
    own: int
    net: int | None
    least: int
    most: int
    useful: int


@dataclass(slots=True)
class Answer:
    """`room`: what is left for anybody (a rate's in parts of SCALE), None: not asked; `elsewhere`: what other workers may give back.

    `net`: as the store has it now, where it keeps that.
    """

    granted: int
    room: int | None
    elsewhere: int
    net: int | None = None


class LeaseStore(Protocol):
    reports: bool
    """Whether it wants to hear of each use and that we live; leases of such a store have a share to fall back on."""
    workers: int
    """How many share it, as far as it is known."""

    async def exchange(self, asks: Sequence[Ask]) -> list[Answer]:
        """Tell and ask. Raises Unavailable; nothing was granted then, as far as the lease is concerned."""
        ...


class Lease(Counter):
    """`used` and `held` are this worker's own; `limit` is what it may use by itself while the store is away.

    What is free is what was leased and not used; `own` does the arithmetic of that kind of limit.
    """

    __slots__ = (
        "demand",
        "denied",
        "dirty",
        "dry_ms",
        "elsewhere",
        "heard",
        "leased",
        "loop",
        "needs",
        "net",
        "own",
        "refused",
        "reported",
        "room",
        "rule",
        "taken",
        "told",
        "total",
        "unsaid",
    )

    def __init__(self, rule: Rule, own: Counter | None, loop: Exchange) -> None:
        super().__init__(rule.limit or 0)
        self.rule = rule
        self.own = own
        self.loop = loop
        self.leased = self.total = self.reported = self.told = self.heard = 0
        self.taken = self.demand = 0
        self.needs: list[int] = []
        self.room: int | None = None
        self.elsewhere = 0
        self.denied = False
        self.dry_ms: int | None = None
        self.refused = 0
        self.dirty = False
        self.net: int | None = None
        self.unsaid = False

    def free(self, now_ms: int) -> int:
        if self.own is None or self.loop.up:
            return self.leased - self.held
        return self.own.free(now_ms)

    def take(self, amount: int) -> None:
        self.held += amount
        self.taken += amount
        if self.own is not None:
            self.own.take(amount)

    def settle(self, held: int, used: int, now_ms: int) -> None:
        self.held -= held
        self.leased -= used
        self.total += used
        if self.dry_ms is not None:
            self.dry_ms = None
        if self.own is not None:
            self.own.settle(held, used, now_ms)
        if not self.dirty:
            self.loop.mark(self)

    def left(self, now_ms: int) -> int:
        if self.own is not None and not self.loop.up:
            return self.own.left(now_ms)
        room = self.room or 0
        return max(0, self.leased - self.held) + max(0, room // SCALE if isinstance(self.own, Rate) else room)

    def may_have(self, amount: int, now_ms: int) -> bool:
        unknown = self.room is None and (self.own is None or self.loop.up)
        return unknown or super().may_have(amount, now_ms)

    def full(self, now_ms: int) -> bool:
        return not self.leased and not self.held and not self.dirty

    def wait_ms(self, amount: int, now_ms: int) -> int | None:
        if self.own is not None and not self.loop.up:
            return self.own.wait_ms(amount, now_ms)
        if not isinstance(self.own, Rate) or amount + self.held > self.limit:
            return None
        lacking = (amount - self.free(now_ms)) * SCALE - (self.room or 0)
        return max(0, -(-lacking // self.limit))

    def reset_ms(self, now_ms: int) -> int:
        if not isinstance(self.own, Rate) or not self.limit:
            return 0
        return max(0, -(-(self.limit - self.left(now_ms)) * SCALE // self.limit))

    def ask(self, now_ms: int, *, reports: bool) -> Ask | None:
        """What to say and ask for in this turn; None: nothing. What is given back is gone from here at once."""
        room = (self.room or 0) // SCALE if isinstance(self.own, Rate) else self.room or 0
        plenty = not reports and max(self.taken, self.demand) * _PLENTY_AHEAD <= room // _SHARE
        # Quickly forgotten where nothing is taken any more: what is kept here may be the last of it, and be wanted elsewhere.
        self.demand = max(self.taken, self.demand * 3 // 4 if self.taken or plenty else self.demand // 16)
        self.taken = 0
        if self.own is not None:
            # What was taken while the store was away is stated to it now, over the limit if it must be.
            self.leased = max(self.leased, self.held)
        waiting, smallest = sum(self.needs), min(self.needs, default=0)
        idle = self.leased - self.held
        # A part that helps nobody here may be what somebody elsewhere lacks.
        returned = idle if self.denied and 0 < idle < smallest else 0
        idle -= returned
        keep = max(0, min(self.demand * (_PLENTY_AHEAD if plenty else _AHEAD), room // _SHARE))
        least = max(0, waiting - idle)
        self.denied = (
            self.denied and least > 0
        )  # else it stays until the next answer: whom it is for may not have seen it
        most = max(0, waiting + keep - idle) if least or idle * 2 < keep else 0
        unwanted = max(0, idle - waiting - keep)
        if plenty and unwanted * 2 < idle:
            unwanted = 0  # each word to the store of money is a transaction
        returned += unwanted
        spare = max(0, idle - unwanted - waiting)
        news = reports and (self.total, spare) != (self.reported, self.told)
        if not (least or most or returned or news or self.unsaid):
            self.dirty = self.demand > 0
            return None
        self.dirty = True
        self.leased -= returned
        if self.net is not None:
            self.net -= returned
        self.reported = self.total
        own = self.own.level(now_ms) if isinstance(self.own, Rate) else self.total - self.heard
        return Ask(self.rule, self.leased, spare, self.total, own, self.net, least, most, max(0, smallest - idle))

    def hear(self, ask: Ask, answer: Answer) -> None:
        self.leased += answer.granted
        self.net, self.unsaid, self.heard = answer.net, False, ask.used
        self.told = ask.idle + max(0, answer.granted - ask.least)
        if answer.room is not None:
            self.room = answer.room
        self.elsewhere = answer.elsewhere
        self.denied = answer.granted < ask.least

    def share(self, part: int, now_ms: int) -> None:
        """What this worker may use by itself: the limit's `part`th. A rate drains at its old speed up to now, and what the
        store last said to be left is not exceeded: a store that is away for a moment would else let a burst through again.
        """
        own = self.own
        if own is None:
            return
        if not isinstance(own, Rate):
            own.limit = max(1, self.limit // part) if self.limit else 0
            return
        own.level(now_ms)
        own.limit = max(1, self.limit // part) if self.limit else 0
        if part > 1 and self.room is not None:
            left = max(0, self.room) // part + (self.leased - own.held) * SCALE
            own.used = max(own.used, (own.limit - own.held) * SCALE - left)


class Exchange:
    """The loop between the leases of one kind and their store. Nothing happens until `run` is running."""

    def __init__(self, store: LeaseStore, clock: Clock, *, tick_s: float) -> None:
        self.up = True
        self.tick_s = tick_s
        self._store = store
        self._clock = clock
        self.leases: WeakValueDictionary[str, Lease] = WeakValueDictionary()
        self._dirty: dict[Lease, None] = {}
        self._next: asyncio.Future[None] | None = None
        self._stir = asyncio.Event()
        self._stopped = False

    @property
    def part(self) -> int:
        """Which part of a limit is this worker's own at the moment: all while the store is there to ask."""
        return 1 if self.up else self._store.workers

    def mark(self, lease: Lease) -> None:
        """It has something to tell or to give back."""
        lease.dirty = True
        if not self._dirty:
            self._stir.set()
        self._dirty[lease] = None

    async def ask_for(self, wanted: Sequence[Lease]) -> None:
        """Wait for the next turn, which asks for what they wait for. Raises Unavailable when the store of money did."""
        if self._stopped:
            raise Unavailable("The gateway is stopping.")
        for lease in wanted:
            self.mark(lease)
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            self._stir.set()
        turned = self._next
        # Many wait for one future, in the order in which they came; a cancelled one must not cancel it.
        await asyncio.wait((turned,))
        turned.result()

    async def run(self) -> None:
        """Until cancelled."""

        async def turn() -> None:
            await self._pause()
            await self.turn()

        try:
            await for_ever(turn, name="leases")
        finally:
            self._stopped = True
            if self._next is not None:
                self._next.set_result(None)

    async def turn(self) -> None:
        """One message to the store with everything that there is to say, and its answers."""
        now_ms = int(self._clock.monotonic_s() * 1000)
        turned, self._next = self._next, None
        failure: Unavailable | None = None
        try:
            await self._exchange(now_ms)
            self._switch(up=True, now_ms=now_ms)
        except Unavailable as error:
            failure = error
            self._switch(up=False, now_ms=now_ms, error=error)
        finally:
            # Leases that have shares of their own answer from these now; money does not.
            if turned is not None and (failure is None or self._store.reports):
                turned.set_result(None)
            elif turned is not None:
                turned.set_exception(failure or Unavailable("Budgets could not be asked about."))

    async def _exchange(self, now_ms: int) -> None:
        said: list[tuple[Lease, Ask]] = []
        for lease in [*self._dirty]:
            ask = lease.ask(now_ms, reports=self._store.reports)
            if ask is not None:
                said.append((lease, ask))
            elif not lease.dirty:
                del self._dirty[lease]
        if not said and not self._store.reports:
            return
        try:
            answers = await self._store.exchange([ask for _, ask in said])
        except Unavailable:
            for lease, _ in said:
                lease.reported, lease.unsaid = -1, True
            raise
        for (lease, ask), answer in zip(said, answers, strict=True):
            lease.hear(ask, answer)

    def _switch(self, *, up: bool, now_ms: int, error: Unavailable | None = None) -> None:
        if up == self.up:
            return
        self.up = up
        _log.warning("limits_shared" if up else "limits_apart", part=self.part, reason=repr(error and error.__cause__))
        for lease in self.leases.values():
            lease.share(self.part, now_ms)

    async def _pause(self) -> None:
        """Until somebody waits; else a tick while leases move, and a heartbeat when they do not."""
        if self._next is None or not self.up:
            quiet_s = _HEARTBEAT_S if not self._dirty else self.tick_s if self.up else _PROBE_S
            try:
                async with asyncio.timeout(quiet_s):
                    await self._stir.wait()
            except TimeoutError:
                pass
        self._stir.clear()


class SharedCounters:
    """Counters of one of several workers: rates, slots and windows by leases of `rates`, money by leases of `money`."""

    def __init__(self, rates: LeaseStore, money: LeaseStore, clock: Clock) -> None:
        self._clock = clock
        self._rates = Exchange(rates, clock, tick_s=0.05)
        self._money = Exchange(money, clock, tick_s=0.1)

    @property
    def together(self) -> bool:
        """False while Valkey is away and each worker admits up to its own share."""
        return self._rates.up

    async def run(self) -> None:
        """Keep the leases in step with their stores, until cancelled. Requests that need to ask wait for this."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rates.run())
            group.create_task(self._money.run())

    def counter(self, rule: Rule, now_ms: int) -> Counter:
        loop = self._money if rule.kind is Kind.MONEY else self._rates
        lease = loop.leases.get(rule.id)
        if lease is None:
            lease = loop.leases[rule.id] = Lease(rule, _own(rule, now_ms), loop)
            lease.share(loop.part, now_ms)
        elif lease.rule is not rule:
            lease.rule, lease.dry_ms = rule, None
            if lease.limit != (rule.limit or 0):
                lease.limit = rule.limit or 0
                lease.share(loop.part, now_ms)
        return lease

    def final(self, counter: Counter, need: int, now_ms: int) -> bool:
        if not isinstance(counter, Lease) or (counter.own is not None and not counter.loop.up):
            return True
        return counter.dry_ms is not None and now_ms < counter.dry_ms and need >= counter.refused

    async def obtain(self, needs: Needs, *, patient: bool) -> Collection[Counter]:
        leases = [(counter, need) for _, counter, need in needs if isinstance(counter, Lease)]
        now_ms = int(self._clock.monotonic_s() * 1000)
        short = [lease for lease, need in leases if lease.free(now_ms) < need]
        loops = {lease.loop for lease in short}
        # All of it stays here until this one takes it, also what is not short: given back meanwhile, it would be short next.
        for lease, need in leases:
            lease.needs.append(need)
        try:
            await asyncio.gather(*(loop.ask_for([lease for lease in short if lease.loop is loop]) for loop in loops))
        finally:
            for lease, need in leases:
                lease.needs.remove(need)
        now_ms = int(self._clock.monotonic_s() * 1000)
        lacking = [lease for lease, need in leases if lease.free(now_ms) < need]
        # Others may have taken what the store gave for this one: only the store's own "no" is a refusal, else it is asked again.
        denied = [lease for lease in lacking if lease.denied]
        final = [lease for lease in denied if not (patient and lease.elsewhere)]
        if denied and not final:
            await asyncio.sleep(max(lease.loop.tick_s for lease in denied))
        for lease, need in leases:
            if lease.own is None and lease in final:
                lease.dry_ms, lease.refused = now_ms + _DRY_MS, need
        return final

    async def refresh(self) -> bool:
        """Budgets, credit or corrections were changed by others: what is idle goes back, and the store is asked again."""
        for lease in list(self._money.leases.values()):
            lease.dry_ms = None
            self._give_back(lease)
        return True

    def called_back(self, budget_id: str) -> None:
        """Another worker waits for money of this budget: what is idle here goes back at once, unless somebody here waits too."""
        lease = self._money.leases.get(budget_id)
        if lease is not None and lease.leased > lease.held and not lease.needs:
            self._give_back(lease)

    def _give_back(self, lease: Lease) -> None:
        lease.demand = lease.taken = 0
        self._money.mark(lease)


def _own(rule: Rule, now_ms: int) -> Counter | None:
    if rule.kind is Kind.MONEY:
        return None
    limit = rule.limit or 0
    return Rate(limit, now_ms) if rule.kind in (Kind.REQUESTS, Kind.TOKENS) else Counter(limit)
