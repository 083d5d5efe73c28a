"""Edits of keys: limits come back, only some fields ever change, a rotation shares its limits, each edit is recorded."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import sqlalchemy as sa

from llmaas.domain.audit import Actor, AuditFilter
from llmaas.domain.keys import CHANGEABLE, Key, issue, successor_of
from llmaas.domain.limits import Limits
from llmaas.domain.prices import NANO
from llmaas.domain.projects import Project
from llmaas.errors import Conflict, NotFound, Outdated
from llmaas.storage.audit import SqlAuditLog
from llmaas.storage.database import Database
from llmaas.storage.keys import SqlKeyStore
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.tables import keys

ADA = Actor("user", "user-ada", "10.0.0.7")
PEPPER = b"p" * 32
LIMITS = Limits(1, 2, 3, 4, 5, 6, 7, 10 * NANO)
TOKEN, KEY = issue(
    Key("", "lab", "k", b"", 1_000, owner_id="user-ada", limits=LIMITS, networks=("10.0.0.0/8",)), PEPPER
)


@pytest.fixture
async def store(database: Database) -> SqlKeyStore:
    await SqlProjectStore(database).add(Project("lab", "Lab", 1))
    store = SqlKeyStore(database)
    await store.add(KEY, by=ADA)
    return store


async def test_limits_networks_and_owner_come_back(store: SqlKeyStore) -> None:
    assert await store.get(KEY.id) == KEY
    assert await store.page("lab", after=None, limit=10) == [KEY]
    assert await store.page("lab", after=KEY.id, limit=10) == []
    with pytest.raises(NotFound):
        await store.page("nowhere", after=None, limit=10)


async def test_an_archived_project_gets_no_keys(store: SqlKeyStore, database: Database) -> None:
    projects = SqlProjectStore(database)
    lab = await projects.get("lab")
    assert lab is not None
    await projects.change(lab, dataclasses.replace(lab, archived_ms=5), by=ADA)
    with pytest.raises(Conflict):
        await store.add(dataclasses.replace(KEY, id="x" * 12), by=ADA)


async def test_A03_only_some_fields_ever_change(store: SqlKeyStore) -> None:
    changes: dict[str, Any] = {
        "allowed_models": frozenset({"m"}),
        "expires_ms": 9_000,
        "limits": Limits(budget_per_day=5),
        "name": "other",
        "networks": (),
    }
    assert set(changes) == CHANGEABLE
    changed = await store.change(KEY, changes, by=ADA)
    assert await store.get(KEY.id) == changed == dataclasses.replace(KEY, **changes)
    for field in {f.name for f in dataclasses.fields(Key)} - CHANGEABLE:
        with pytest.raises(TypeError):
            await store.change(changed, {field: getattr(KEY, field)}, by=ADA)
    assert await store.get(KEY.id) == changed


async def test_who_has_an_old_picture_changes_nothing(store: SqlKeyStore) -> None:
    changed = await store.change(KEY, {"name": "first"}, by=ADA)
    with pytest.raises(Outdated):
        await store.change(KEY, {"name": "second"}, by=ADA)
    assert await store.get(KEY.id) == changed
    with pytest.raises(NotFound):
        await store.change(dataclasses.replace(KEY, id="nobody"), {"name": "x"}, by=ADA)


async def test_B14_keys_of_a_rotation_have_one_set_of_limits(store: SqlKeyStore, database: Database) -> None:
    _, drafted = successor_of(KEY, 2_000, PEPPER)
    second = await store.rotate(KEY.id, drafted, 3_000, by=ADA)
    assert (second.limits, second.limits_id) == (LIMITS, KEY.id)
    assert (second.networks, second.owner_id, second.rotated_from) == (KEY.networks, KEY.owner_id, KEY.id)
    assert await store.get(second.id) == second
    stopped = await store.get(KEY.id)
    assert stopped is not None
    assert stopped.revoked_ms == 3_000
    _, drafted = successor_of(second, 2_500, PEPPER)
    third = await store.rotate(second.id, drafted, 4_000, by=ADA)
    assert (third.rotated_from, third.limits_id, third.limits) == (second.id, KEY.id, LIMITS)
    other = dataclasses.replace(KEY, id="o" * 12)
    await store.add(other, by=ADA)
    await store.change(third, {"limits": Limits(budget_total=NANO)}, by=ADA)
    changed = await store.get_many([KEY.id, second.id, third.id, other.id])
    assert [changed[k.id].limits for k in (KEY, second, third)] == [Limits(budget_total=NANO)] * 3
    assert changed[other.id].limits == LIMITS
    await store.change(changed[KEY.id], {"limits": Limits()}, by=ADA)
    assert (await store.get_many([third.id]))[third.id].limits == Limits()


async def test_B14_a_key_that_is_changed_while_it_is_rotated_hands_on_what_it_has_now(store: SqlKeyStore) -> None:
    _, drafted = successor_of(KEY, 2_000, PEPPER)
    changes = {"limits": Limits(budget_total=1), "networks": ("10.0.0.0/8",), "allowed_models": frozenset({"small"})}
    changed = await store.change(KEY, changes, by=ADA)
    successor = await store.rotate(KEY.id, drafted, 3_000, by=ADA)
    assert successor == await store.get(drafted.id)
    assert (successor.id, successor.secret_hash) == (drafted.id, drafted.secret_hash)
    assert {name: getattr(successor, name) for name in changes} == changes
    assert (changed.limits, successor.limits_id) == (successor.limits, KEY.id)


async def test_a_key_that_was_made_to_expire_meanwhile_has_no_successor(store: SqlKeyStore) -> None:
    _, drafted = successor_of(KEY, 2_000, PEPPER)
    await store.change(KEY, {"expires_ms": 1_999}, by=ADA)
    with pytest.raises(Conflict):
        await store.rotate(KEY.id, drafted, 3_000, by=ADA)
    assert await store.get(drafted.id) is None


async def test_every_edit_is_recorded_without_the_secret(store: SqlKeyStore, database: Database) -> None:
    await store.change(KEY, {"limits": Limits(budget_total=NANO)}, by=ADA)
    _, drafted = successor_of(KEY, 2_000, PEPPER)
    await store.rotate(KEY.id, drafted, 3_000, by=ADA)
    await store.revoke(KEY.id, 2_500, by=ADA)
    await store.revoke(KEY.id, 2_600, by=ADA)
    lines = [line async for line in SqlAuditLog(database).export(AuditFilter(project_id="lab", subject_kind="key"))]
    actions = ["key.create", "key.change", "key.rotate", "key.create", "key.revoke"]
    assert [line.act.action for line in lines] == actions
    before, after = lines[1].act.before, lines[1].act.after
    assert before is not None
    assert after is not None
    assert before["limits"]["budget_total"] == "10.00"
    assert after["limits"] == {"budget_total": "1.00"}
    text = str(lines)
    assert KEY.secret_hash.hex() not in text
    assert TOKEN.rpartition("_")[2] not in text


@pytest.mark.parametrize(
    "values",
    [
        {"limits": {"requests_per_minute": "many"}},
        {"limits": {"request_per_minute": 1}},
        {"limits": []},
        {"networks": {"10.0.0.0/8": 1}},
        {"permissions": ["everything"]},
        {"allowed_models": "all"},
    ],
)
async def test_F15_a_poisoned_key_is_none_and_others_go_on(
    store: SqlKeyStore, database: Database, values: dict[str, object]
) -> None:
    _, other = issue(dataclasses.replace(KEY, name="other"), PEPPER)
    await store.add(other, by=ADA)
    async with database.begin() as connection:
        await connection.execute(sa.update(keys).where(keys.c.id == KEY.id).values(**values))
    assert await store.get_many([KEY.id, other.id]) == {other.id: other}
    assert await store.list() == [other]
