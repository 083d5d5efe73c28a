"""The audit log in SQL: appended to in the transaction of the act, each line hashed together with the one before.

The number of the last line is kept apart, in `revisions`: its row lets one writer append at a time, so numbers have no
gaps, and it tells when lines are missing at the end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.clock import SystemClock
from llmaas.domain.audit import FIRST_HASH, Act, Actor, AuditFilter, Line, Verdict, cleaned, digest
from llmaas.storage.database import Database, upsert
from llmaas.storage.tables import audit, revisions

_HEAD = "audit"
_READ_ROWS = 1_000
_MOST_FAULTS = 100


async def record(connection: AsyncConnection, act: Act, at_ms: int | None = None) -> None:
    """Append within the caller's write transaction. Others who want to append wait until it ends."""
    counted = sa.select(sa.func.coalesce(sa.func.max(audit.c.seq), 0) + 1).scalar_subquery()
    taken = upsert(connection, revisions).values(name=_HEAD, number=counted)
    taken = taken.on_conflict_do_update(index_elements=["name"], set_={"number": revisions.c.number + 1})
    seq: int = (await connection.execute(taken.returning(revisions.c.number))).scalar_one()
    before = await connection.scalar(sa.select(audit.c.hash).where(audit.c.seq == seq - 1))
    previous_hash = FIRST_HASH if before is None else before
    kept = cleaned(act)
    at_ms = SystemClock().now_ms() if at_ms is None else at_ms
    values = {
        "seq": seq,
        "at_ms": at_ms,
        "actor_kind": kept.by.kind,
        "actor_id": kept.by.id,
        "address": kept.by.address,
        "action": kept.action,
        "subject_kind": kept.subject_kind,
        "subject_id": kept.subject_id,
        "project_id": kept.project_id,
        "before": kept.before,
        "after": kept.after,
        "previous_hash": previous_hash,
        "hash": digest(seq, at_ms, kept, previous_hash),
    }
    await connection.execute(sa.insert(audit).values(**values))


class SqlAuditLog:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, where: AuditFilter, *, before: int | None, limit: int) -> list[Line]:
        query = sa.select(audit).where(*_conditions(where)).order_by(audit.c.seq.desc()).limit(limit)
        if before is not None:
            query = query.where(audit.c.seq < before)
        async with self._database.connect() as connection:
            return [_to_line(row) for row in (await connection.execute(query)).mappings()]

    async def export(self, where: AuditFilter) -> AsyncIterator[Line]:
        async with self._database.connect(long=True) as connection:
            async for line in _read(connection, where):
                yield line

    async def verify(self, noted: tuple[int, str] | None = None) -> Verdict:
        check = _Check(noted)
        async with self._database.connect(long=True) as connection:
            promised = await connection.scalar(sa.select(revisions.c.number).where(revisions.c.name == _HEAD))
            async for line in _read(connection, AuditFilter()):
                check.take(line)
        return check.verdict(promised or 0)


class _Check:
    """Takes line after line, and keeps what is wrong."""

    def __init__(self, noted: tuple[int, str] | None) -> None:
        self._noted = noted
        self._lines = 0
        self._seq = 0
        self._hash = FIRST_HASH
        self._faults: list[str] = []

    def take(self, line: Line) -> None:
        if line.seq != self._seq + 1:
            self._missing(self._seq + 1, line.seq - 1)
        elif line.previous_hash != self._hash:
            self._fault(f"line {line.seq} does not follow the line before it: one of them was changed or put in")
        if digest(line.seq, line.at_ms, line.act, line.previous_hash) != line.hash:
            self._fault(f"line {line.seq} does not say what it was written with")
        if self._noted is not None and self._noted[0] == line.seq and self._noted[1] != line.hash.hex():
            self._fault(f"line {line.seq} is not the one that was noted")
        self._lines += 1
        self._seq, self._hash = line.seq, line.hash

    def verdict(self, promised: int) -> Verdict:
        if promised > self._seq:
            self._missing(self._seq + 1, promised)
        elif promised < self._seq:
            self._fault(f"lines after {promised} were put in")
        if self._noted is not None and self._noted[0] > self._seq:
            self._fault(f"line {self._noted[0]}, which was noted, is not there")
        return Verdict(self._lines, self._seq, self._hash.hex(), tuple(self._faults))

    def _missing(self, first: int, last: int) -> None:
        self._fault(f"line {first} is missing" if first == last else f"lines {first} to {last} are missing")

    def _fault(self, text: str) -> None:
        if len(self._faults) < _MOST_FAULTS:
            self._faults.append(text)


async def _read(connection: AsyncConnection, where: AuditFilter) -> AsyncIterator[Line]:
    """Oldest first, some at a time."""
    last = 0
    while True:
        query = sa.select(audit).where(*_conditions(where), audit.c.seq > last).order_by(audit.c.seq).limit(_READ_ROWS)
        rows = (await connection.execute(query)).mappings().all()
        for row in rows:
            yield _to_line(row)
        if len(rows) < _READ_ROWS:
            return
        last = rows[-1]["seq"]


def _conditions(where: AuditFilter) -> list[sa.ColumnElement[bool]]:
    wanted: dict[sa.Column[Any], str | None] = {
        audit.c.project_id: where.project_id,
        audit.c.actor_id: where.actor_id,
        audit.c.subject_kind: where.subject_kind,
        audit.c.subject_id: where.subject_id,
    }
    conditions: list[sa.ColumnElement[bool]] = [column == text for column, text in wanted.items() if text is not None]
    if where.action is not None:
        whole = "." in where.action
        conditions.append(
            audit.c.action == where.action if whole else audit.c.action.startswith(f"{where.action}.", autoescape=True)
        )
    if where.from_ms is not None:
        conditions.append(audit.c.at_ms >= where.from_ms)
    if where.to_ms is not None:
        conditions.append(audit.c.at_ms < where.to_ms)
    return conditions


def _to_line(row: sa.RowMapping) -> Line:
    act = Act(
        by=Actor(row["actor_kind"], row["actor_id"], row["address"]),
        action=row["action"],
        subject_kind=row["subject_kind"],
        subject_id=row["subject_id"],
        project_id=row["project_id"],
        before=row["before"],
        after=row["after"],
    )
    return Line(row["seq"], row["at_ms"], act, row["previous_hash"], row["hash"])
