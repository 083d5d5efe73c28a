"""Keys in SQL: they come back as they were put, and every change is noticed."""

from __future__ import annotations

import dataclasses

import pytest

from llmaas.domain.keys import Key, Permission
from llmaas.domain.projects import Project
from llmaas.errors import Conflict, NotFound
from llmaas.storage.database import Database
from llmaas.storage.keys import SqlKeyStore
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.revisions import SqlRevisionStore

NASTY = "x'); DROP TABLE keys; -- {{7*7}} %s \u202e ñ\U0001f600 \\ \" ' \r\n\t\x01"
PLAIN = Key("k" * 12, "default", "plain", b"\x00" * 32, 1_000)
FULL = Key(
    "f" * 12,
    "other",
    NASTY,
    bytes(range(32)),
    2_000,
    expires_ms=2**53,
    revoked_ms=3_000,
    allowed_models=frozenset({"granite3.3:8b", NASTY}),
    permissions=frozenset(Permission),
    rotated_from="k" * 12,
)


@pytest.fixture
async def store(database: Database) -> SqlKeyStore:
    projects = SqlProjectStore(database)
    await projects.add(Project("default", "Default", 1))
    await projects.add(Project("other", NASTY, 2))
    return SqlKeyStore(database)


async def test_keys_come_back_as_they_were_put(store: SqlKeyStore) -> None:
    for key in (PLAIN, FULL):
        await store.add(key)
    assert await store.get(PLAIN.id) == PLAIN
    assert await store.get_many([FULL.id, "nobody", PLAIN.id]) == {FULL.id: FULL, PLAIN.id: PLAIN}
    assert await store.list() == [PLAIN, FULL]
    assert await store.list("other") == [FULL]
    assert await store.list("nowhere") == []
    assert await store.get("nobody") is None
    assert await store.get_many([]) == {}


async def test_more_keys_than_one_statement_takes(store: SqlKeyStore) -> None:
    keys = [dataclasses.replace(PLAIN, id=f"{n:012d}") for n in range(40)]
    for key in keys:
        await store.add(key)
    wanted = [f"{n:012d}" for n in range(1_200)]
    assert await store.get_many(wanted) == {key.id: key for key in keys}


async def test_a_key_needs_its_project(store: SqlKeyStore) -> None:
    with pytest.raises(NotFound):
        await store.add(dataclasses.replace(PLAIN, project_id="nowhere"))
    assert await store.list() == []


async def test_a_key_stops_at_the_earliest_word(store: SqlKeyStore) -> None:
    await store.add(PLAIN)
    assert (await store.revoke(PLAIN.id, 9_000)).revoked_ms == 9_000
    assert (await store.revoke(PLAIN.id, 5_000)).revoked_ms == 5_000
    assert (await store.revoke(PLAIN.id, 7_000)).revoked_ms == 5_000
    with pytest.raises(NotFound):
        await store.revoke("nobody", 1)


async def test_a_rotation_is_all_or_nothing(store: SqlKeyStore) -> None:
    await store.add(PLAIN)
    successor = dataclasses.replace(PLAIN, id="s" * 12, rotated_from=PLAIN.id, first_id=PLAIN.id)
    await store.rotate(PLAIN.id, successor, 8_000)
    assert await store.get(PLAIN.id) == dataclasses.replace(PLAIN, revoked_ms=8_000)
    assert await store.get(successor.id) == successor
    with pytest.raises(Conflict):
        await store.rotate(PLAIN.id, dataclasses.replace(successor, id="t" * 12), 9_000)
    with pytest.raises(NotFound):
        await store.rotate("nobody", dataclasses.replace(successor, id="u" * 12), 9_000)
    assert [key.id for key in await store.list()] == [PLAIN.id, successor.id]


async def test_every_change_is_noticed_by_its_revision(store: SqlKeyStore, database: Database) -> None:
    revisions = SqlRevisionStore(database)
    seen = [(await revisions.read()).keys]
    await store.add(PLAIN)
    seen.append((await revisions.read()).keys)
    await store.rotate(PLAIN.id, dataclasses.replace(PLAIN, id="s" * 12), 8_000)
    seen.append((await revisions.read()).keys)
    await store.revoke(PLAIN.id, 5_000)
    seen.append((await revisions.read()).keys)
    assert seen == sorted(set(seen))
    await store.revoke(PLAIN.id, 6_000)
    assert (await revisions.read()).keys == seen[-1]
