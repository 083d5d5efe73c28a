"""Duties that must run once in a fleet: one worker at a time holds each, by a lease with a fence.

Who takes a duty over gets a greater number, and each write transaction of a turn begins with `check_fence`, so who lost the
duty without noticing writes nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.clock import Clock
from llmaas.errors import Conflict, Unavailable
from llmaas.storage.database import Database, in_each_transaction, upsert
from llmaas.storage.tables import duties
from llmaas.tasks import end, for_ever

_LEAST_TTL_S = 15.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.duties")


class SqlDutyRoster:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def hold_duty(self, name: str, worker_id: str, now_ms: int, ttl_ms: int) -> int | None:
        """Take a duty or keep it for another `ttl_ms`; its fence, or None while another worker holds it.

        A lease that ends later than any honest holder's would is as good as over: a clock had jumped. The clocks of
        hosts have to agree within `ttl_ms`; where they do not, a duty changes hands too often and the fence keeps it right.
        """
        mine = duties.c.worker_id == worker_id
        over = sa.or_(duties.c.expires_ms <= now_ms, duties.c.expires_ms > now_ms + ttl_ms)
        values = {"name": name, "worker_id": worker_id, "fence": 1, "expires_ms": now_ms + ttl_ms}
        async with self._database.begin(one_at_a_time=False) as connection:
            statement = upsert(connection, duties).values(values)
            taken = statement.on_conflict_do_update(
                index_elements=["name"],
                set_={
                    "worker_id": worker_id,
                    "expires_ms": now_ms + ttl_ms,
                    "fence": sa.case((mine, duties.c.fence), else_=duties.c.fence + 1),
                },
                where=sa.or_(mine, over),
            ).returning(duties.c.fence)
            fence: int | None = (await connection.execute(taken)).scalar()
            return fence

    async def give_up(self, worker_id: str) -> None:
        """An orderly end: the next one need not wait for this one's leases to run out."""
        async with self._database.begin(one_at_a_time=False) as connection:
            await connection.execute(sa.update(duties).where(duties.c.worker_id == worker_id).values(expires_ms=0))


async def check_fence(connection: AsyncConnection, name: str, fence: int) -> None:
    """Conflict when another worker has taken the duty over. Until the transaction ends nobody can."""
    query = sa.select(duties.c.fence).where(duties.c.name == name).with_for_update()
    if (await connection.execute(query)).scalar() != fence:
        raise Conflict(f"The duty `{name}` is another worker's by now.")


@dataclass(frozen=True, slots=True)
class Duty:
    """What `run` raises is logged, and it runs again at its time."""

    name: str
    every_s: float
    run: Callable[[], Coroutine[Any, Any, None]]

    @property
    def ttl_s(self) -> float:
        """Held from one turn to the next, so that the turns of several workers do not add up."""
        return max(3 * self.every_s, _LEAST_TTL_S)


async def _fenced(duty: Duty, fence: int) -> None:
    """In a task of its own, whose transactions alone are fenced."""
    in_each_transaction.set(lambda connection: check_fence(connection, duty.name, fence))
    await duty.run()


class DutyRunner:
    """Runs the duties that this worker holds, and tries for those that it does not."""

    def __init__(self, roster: SqlDutyRoster, worker_id: str, clock: Clock, work: Sequence[Duty]) -> None:
        self._roster = roster
        self._worker_id = worker_id
        self._clock = clock
        self._work = work

    async def run(self) -> None:
        """Until it is cancelled; then the duties are free for others at once."""
        try:
            async with (
                asyncio.TaskGroup() as group
            ):  # which waits for all, where `gather` leaves at the first that has ended
                for duty in self._work:
                    group.create_task(self._keep(duty), name="duties")
        finally:
            with contextlib.suppress(Unavailable):
                await self._roster.give_up(self._worker_id)

    async def _keep(self, duty: Duty) -> None:
        async def turn() -> None:
            fence = await self._hold(duty)
            if fence is not None:
                await self._once(duty, fence)
            await asyncio.sleep(duty.every_s)

        await for_ever(turn, name=f"duty {duty.name}")

    async def _once(self, duty: Duty, fence: int) -> None:
        """One turn, at most as long as the duty is ours."""
        turn = asyncio.create_task(_fenced(duty, fence), name="duties")
        try:
            while not (await asyncio.wait([turn], timeout=duty.ttl_s / 3))[0]:
                if await self._hold(duty) != fence:
                    _log.warning("duty_lost", duty=duty.name, fence=fence)
                    return
            turn.result()
        except Conflict as error:
            _log.warning("duty_lost", duty=duty.name, fence=fence, hint=error.message)
        except Exception:  # noqa: BLE001 - the edge of a task: a duty that fails once is tried again
            _log.exception("duty_failed", duty=duty.name)
        finally:
            # It lets go of its connection only now; one that outlived us would be cancelled again, and never close it.
            await end(turn)

    async def _hold(self, duty: Duty) -> int | None:
        ttl_ms = round(duty.ttl_s * 1000)
        try:
            return await self._roster.hold_duty(duty.name, self._worker_id, self._clock.now_ms(), ttl_ms)
        except Unavailable as error:
            _log.warning("duty_not_held", duty=duty.name, hint=error.hint)
            return None
