"""The audit log: every act is a line, nothing secret is in it, and no line is changed, removed, put in or moved unseen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from llmaas.domain.audit import Act, Actor, AuditFilter, Line
from llmaas.domain.projects import Project
from llmaas.settings import Secret
from llmaas.storage.audit import SqlAuditLog, record
from llmaas.storage.database import Database
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.tables import audit, revisions

ADA = Actor("user", "user-ada", "10.0.0.7")
NASTY = "x'); DROP TABLE audit; -- {{7*7}} %s \u202e ñ\U0001f600 \\ \" ' \r\n\t\x01\x00\udcff"


def act(number: int, project_id: str | None = "default") -> Act:
    return Act(ADA, "key.change", "key", f"k{number}", project_id, {"name": "old", "n": number}, {"name": NASTY})


async def write(database: Database, acts: Sequence[Act]) -> None:
    for at_ms, one in enumerate(acts, 1_000):
        async with database.begin() as connection:
            await record(connection, one, at_ms)


async def tamper(database: Database, *statements: sa.Executable) -> None:
    async with database.begin() as connection:
        for statement in statements:
            await connection.execute(statement)


async def test_lines_come_back_newest_first_by_what_is_asked_for(database: Database) -> None:
    log = SqlAuditLog(database)
    await write(database, [act(1), act(2, "other"), Act(Actor("cli", "root"), "fleet.apply", "fleet", "fleet"), act(4)])

    async def seqs(where: AuditFilter, before: int | None = None, limit: int = 10) -> list[int]:
        return [line.seq for line in await log.page(where, before=before, limit=limit)]

    assert await seqs(AuditFilter()) == [4, 3, 2, 1]
    assert await seqs(AuditFilter(), before=4, limit=2) == [3, 2]
    assert await seqs(AuditFilter(project_id="default")) == [4, 1]
    assert await seqs(AuditFilter(action="key")) == [4, 2, 1]
    assert await seqs(AuditFilter(action="key.change", subject_id="k2")) == [2]
    assert await seqs(AuditFilter(actor_id="root")) == [3]
    assert await seqs(AuditFilter(from_ms=1_001, to_ms=1_003)) == [3, 2]
    assert [line.seq async for line in log.export(AuditFilter(action="key"))] == [1, 2, 4]


async def test_any_text_is_kept_and_verifies(database: Database) -> None:
    await write(database, [act(n) for n in range(5)])
    verdict = await SqlAuditLog(database).verify()
    assert (verdict.lines, verdict.seq, verdict.faults) == (5, 5, ())
    assert len(verdict.hash) == 64


async def test_an_empty_log_is_sound(database: Database) -> None:
    assert (await SqlAuditLog(database).verify()).faults == ()


@pytest.mark.parametrize(
    ("name", "statements", "told"),
    [
        ("an actor", [sa.update(audit).where(audit.c.seq == 3).values(actor_id="eve")], ["line 3 does not say"]),
        ("a time", [sa.update(audit).where(audit.c.seq == 3).values(at_ms=1)], ["line 3 does not say"]),
        ("an address", [sa.update(audit).where(audit.c.seq == 3).values(address="")], ["line 3 does not say"]),
        ("a value", [sa.update(audit).where(audit.c.seq == 3).values(after={"name": "y"})], ["line 3 does not say"]),
        ("a removal", [sa.delete(audit).where(audit.c.seq == 3)], ["line 3 is missing"]),
        ("removals", [sa.delete(audit).where(audit.c.seq < 3)], ["lines 1 to 2 are missing"]),
        ("the newest", [sa.delete(audit).where(audit.c.seq > 3)], ["lines 4 to 5 are missing"]),
        (
            "a removal that closes the gap",
            [sa.delete(audit).where(audit.c.seq == 4), sa.update(audit).where(audit.c.seq == 5).values(seq=4)],
            ["line 4 does not follow", "line 4 does not say", "line 5 is missing"],
        ),
        (
            "a swap",
            [
                sa.update(audit).where(audit.c.seq == 2).values(seq=99),
                sa.update(audit).where(audit.c.seq == 3).values(seq=2),
                sa.update(audit).where(audit.c.seq == 99).values(seq=3),
            ],
            ["line 2 does not follow", "line 2 does not say", "line 3 does not follow", "line 3 does not say"],
        ),
    ],
)
async def test_what_was_done_to_the_log_is_found(
    database: Database, name: str, statements: list[sa.Executable], told: list[str]
) -> None:
    await write(database, [act(n) for n in range(5)])
    await tamper(database, *statements)
    faults = (await SqlAuditLog(database).verify()).faults
    assert all(any(fault.startswith(start) for fault in faults) for start in told), (name, faults)


async def test_a_line_that_is_put_in_at_the_end_is_found(database: Database) -> None:
    await write(database, [act(n) for n in range(3)])
    await write(database, [act(9)])
    await tamper(database, sa.update(revisions).where(revisions.c.name == "audit").values(number=3))
    assert (await SqlAuditLog(database).verify()).faults == ("lines after 3 were put in",)


async def test_a_log_written_anew_is_found_by_the_noted_line(database: Database) -> None:
    log = SqlAuditLog(database)
    await write(database, [act(n) for n in range(3)])
    noted = await log.verify()
    await write(database, [act(4)])
    assert (await log.verify((noted.seq, noted.hash))).faults == ()
    await tamper(database, sa.delete(audit), sa.delete(revisions).where(revisions.c.name == "audit"))
    assert (await log.verify((noted.seq, noted.hash))).faults == ("line 3, which was noted, is not there",)
    await write(database, [act(n) for n in (7, 8, 9)])
    assert (await log.verify()).faults == ()
    assert (await log.verify((noted.seq, noted.hash))).faults == ("line 3 is not the one that was noted",)


async def test_an_act_that_is_not_done_leaves_no_line_and_no_gap(database: Database) -> None:
    await write(database, [act(1)])
    with pytest.raises(ZeroDivisionError):
        async with database.begin() as connection:
            await record(connection, act(2))
            raise ZeroDivisionError
    await write(database, [act(3)])
    verdict = await SqlAuditLog(database).verify()
    assert (verdict.lines, verdict.seq, verdict.faults) == (2, 2, ())


async def test_acts_at_once_are_one_chain(place: str | Path) -> None:
    """Each on a connection of its own, as those of several workers are, also where other writes do not wait."""
    databases = [Database(place, limit_s=60) for _ in range(4)]

    async def work(database: Database) -> None:
        for n in range(10):
            async with database.begin(one_at_a_time=False) as connection:
                await record(connection, act(n))

    try:
        await asyncio.gather(*map(work, databases))
        verdict = await SqlAuditLog(databases[0]).verify()
        assert (verdict.lines, verdict.seq, verdict.faults) == (40, 40, ())
    finally:
        for database in databases:
            await database.close()


async def test_nothing_secret_is_kept(database: Database) -> None:
    canary = "sk-canary-123"
    nasty = {
        "name": f"llmaas_{'a' * 12}_{'Z' * 46}",
        "note": Secret(canary),
        "password": canary,
        "secret_hash": canary.encode(),
        "sealed": canary.encode(),
        "card": {"api-key": canary, "deep": [{"totp_secret": canary}, canary.encode()], "editor": "IBM"},
        "must_change_password": True,
        "output_tokens_per_hour": 5,
        "api_key_env": "LLMAAS_PROVIDER_LAB_KEY",
        "models": frozenset({"b", "a"}),
    }
    await write(database, [Act(ADA, "provider.change", "provider", "lab", None, nasty, None)])
    (line,) = await SqlAuditLog(database).page(AuditFilter(), before=None, limit=1)
    assert line.act.before == {
        "name": f"llmaas_{'a' * 12}_…",
        "card": {"deep": [{}], "editor": "IBM"},
        "must_change_password": True,
        "output_tokens_per_hour": 5,
        "api_key_env": "LLMAAS_PROVIDER_LAB_KEY",
        "models": ["a", "b"],
    }
    async with database.connect() as connection:
        assert canary not in str((await connection.execute(sa.select(audit))).all())


async def test_a_store_records_what_it_does(database: Database) -> None:
    await SqlProjectStore(database).add(Project("lab", "Lab", 1), by=ADA)
    lines: list[Line] = await SqlAuditLog(database).page(AuditFilter(subject_kind="project"), before=None, limit=1)
    assert (lines[0].act.by, lines[0].act.action, lines[0].act.subject_id) == (ADA, "project.create", "lab")
    assert (await SqlAuditLog(database).verify()).faults == ()
