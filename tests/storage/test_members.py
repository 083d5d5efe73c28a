"""People in SQL, on both databases: what must hold of users, members, invitations, sessions and tokens."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

import pytest
import sqlalchemy as sa

from llmaas.domain.audit import Actor
from llmaas.domain.invitations import Invitation
from llmaas.domain.members import Member, Role
from llmaas.domain.projects import Project
from llmaas.domain.sessions import Session
from llmaas.domain.tokens import Token
from llmaas.domain.users import User
from llmaas.errors import Conflict, NotAuthenticated, NotFound, Outdated
from llmaas.storage.database import Database
from llmaas.storage.invitations import SqlInvitationStore
from llmaas.storage.members import SqlMemberStore
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.revisions import SqlRevisionStore
from llmaas.storage.sessions import SqlSessionStore
from llmaas.storage.tables import audit
from llmaas.storage.tokens import SqlTokenStore
from llmaas.storage.users import SqlUserStore

BY = Actor("user", "user-test", "10.0.0.1")
ANA = User("user-ana", "ana@example.org", "digest", True, False, 1)
BO = User("user-bo", "bo@example.org", "digest", False, False, 2, name="Bo ñ 'x\"; --")
LAB = Project("lab", "Lab", 1)
SESSION = Session("session-1", b"h" * 32, ANA.id, 10, 10, 1_000, "10.0.0.1", "agent")


@pytest.fixture
async def people(database: Database) -> Database:
    for user in (ANA, BO):
        await SqlUserStore(database).add(user, by=BY)
    await SqlProjectStore(database).add(LAB, by=BY)
    return database


async def actions(database: Database) -> list[str]:
    async with database.connect() as connection:
        return list((await connection.execute(sa.select(audit.c.action).order_by(audit.c.seq))).scalars())


async def present(database: Database, user: User) -> User:
    found = await SqlUserStore(database).get(user.id)
    assert found is not None
    return found


async def test_users_come_back_as_they_were_put(people: Database) -> None:
    users = SqlUserStore(people)
    assert await users.get(BO.id) == BO
    assert await users.by_email(BO.email) == BO
    assert await users.get("nobody") is None
    assert await users.page(after=None, limit=1) == [ANA]
    assert await users.page(after=ANA.id, limit=5) == [BO]
    with pytest.raises(Conflict):
        await users.add(dataclasses.replace(BO, id="user-other"), by=BY)
    assert await actions(people) == ["user.create", "user.create", "project.create"]


async def test_of_two_changes_at_once_one_is_outdated(people: Database) -> None:
    users = SqlUserStore(people)
    results = await asyncio.gather(
        *(users.change(BO, dataclasses.replace(BO, name=name), by=BY) for name in ("one", "two", "three")),
        return_exceptions=True,
    )
    assert [type(result) for result in results if result is not None] == [Outdated, Outdated]
    changed = await users.get(BO.id)
    assert changed is not None
    assert changed.name in {"one", "two", "three"}
    assert (await actions(people)).count("user.change") == 1


async def test_a_secret_in_no_line_of_the_audit(people: Database) -> None:
    users, sessions, tokens = SqlUserStore(people), SqlSessionStore(people), SqlTokenStore(people)
    await users.set_password(BO.id, "secret-digest", must_change=False, keep_session=None, by=BY)
    await users.begin_second_factor(dataclasses.replace(BO, password_hash="secret-digest"), b"secret-sealed", by=BY)
    secret = dataclasses.replace(SESSION, token_hash=b"secret-hash-of-the-session-token")
    await sessions.add(secret, verified=ANA, replaces=None, by=BY)
    await tokens.add(Token("t1", BO.id, "ci", b"secret-hash", 1), by=BY)
    async with people.connect() as connection:
        rows = (await connection.execute(sa.select(audit))).all()
    assert len(rows) == 7
    assert "secret-" not in str(rows)
    assert b"secret-".hex() not in str(rows)


async def test_a_second_factor_is_confirmed_once_and_a_step_is_spent_once(people: Database) -> None:
    users = SqlUserStore(people)
    assert not await users.spend_step(BO.id, 100)  # there is none
    await users.begin_second_factor(BO, b"one", by=BY)
    await users.begin_second_factor(BO, b"two", by=BY)
    with pytest.raises(Conflict):
        await users.confirm_second_factor(BO, b"one", 5, [b"r1"], keep_session="", by=BY)
    await users.confirm_second_factor(BO, b"two", 5, [b"r1", b"r2"], keep_session="", by=BY)
    with pytest.raises(Conflict):
        await users.begin_second_factor(await present(people, BO), b"three", by=BY)
    assert [await users.spend_step(BO.id, step) for step in (5, 4, 6, 6)] == [False, False, True, False]
    spent = await asyncio.gather(*(users.spend_recovery_code(BO.id, b"r1") for _ in range(4)))
    assert spent.count(True) == 1
    assert not await users.spend_recovery_code(ANA.id, b"r2")
    await users.end_second_factor(BO.id, by=BY)
    assert not await users.spend_recovery_code(BO.id, b"r2")


async def reset(users: SqlUserStore) -> None:
    await users.set_password(ANA.id, "new", must_change=True, keep_session=None, by=BY)


async def set_up(users: SqlUserStore) -> None:
    await users.begin_second_factor(ANA, b"sealed", by=BY)
    await users.confirm_second_factor(ANA, b"sealed", 5, [b"r"], keep_session="", by=BY)


async def disable(users: SqlUserStore) -> None:
    await users.change(BO, dataclasses.replace(BO, is_admin=True), by=BY)
    await users.change(ANA, dataclasses.replace(ANA, disabled_ms=1), by=BY)


async def link(users: SqlUserStore) -> None:
    await users.link(ANA.id, "https://id", "s", by=BY)


@pytest.mark.parametrize("change", [reset, set_up, disable, link])
async def test_A20_nothing_rests_on_credentials_of_before(
    people: Database, change: Callable[[SqlUserStore], Awaitable[None]]
) -> None:
    users, sessions = SqlUserStore(people), SqlSessionStore(people)
    await change(users)
    after = await present(people, ANA)
    for act in (
        sessions.add(SESSION, verified=ANA, replaces=None, by=BY),
        users.set_password(ANA.id, "theirs", must_change=False, keep_session=None, by=BY, verified=ANA),
        users.begin_second_factor(ANA, b"theirs", by=BY),
        users.confirm_second_factor(ANA, b"theirs", 9, [b"x"], keep_session="", by=BY),
        users.end_second_factor(ANA.id, by=BY, verified=ANA),
    ):
        with pytest.raises(NotAuthenticated):
            await act
    assert await sessions.of_user(ANA.id) == []
    assert await present(people, ANA) == after


async def test_an_identity_belongs_to_one_user(people: Database) -> None:
    users = SqlUserStore(people)
    await users.link(BO.id, "https://id", "s", by=BY)
    for user_id, subject in ((ANA.id, "s"), (BO.id, "other")):
        with pytest.raises(Conflict):
            await users.link(user_id, "https://id", subject, by=BY)
    found = await users.by_identity("https://id", "s")
    assert found is not None
    assert found.id == BO.id
    assert await users.by_identity("https://other", "s") is None


async def test_of_two_owners_who_leave_at_once_one_stays(people: Database) -> None:
    members = SqlMemberStore(people)
    for user in (ANA, BO):
        await members.add(Member(LAB.id, user.id, Role.OWNER, 1), by=BY)
    results = await asyncio.gather(
        *(members.remove(LAB.id, user.id, by=BY) for user in (ANA, BO)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["Conflict", "NoneType"]
    assert len(await members.of_project(LAB.id, after=None, limit=5)) == 1


async def test_members_need_a_project_and_a_user(people: Database) -> None:
    members = SqlMemberStore(people)
    for project_id, user_id in (("nowhere", BO.id), (LAB.id, "nobody")):
        with pytest.raises(NotFound):
            await members.add(Member(project_id, user_id, Role.VIEWER, 1), by=BY)
    await members.add(Member(LAB.id, BO.id, Role.VIEWER, 7), by=BY)
    with pytest.raises(Conflict):
        await members.add(Member(LAB.id, BO.id, Role.OWNER, 1), by=BY)
    assert await members.role(LAB.id, BO.id) is Role.VIEWER
    assert await members.role(LAB.id, ANA.id) is None
    assert await members.of_user(BO.id) == [Member(LAB.id, BO.id, Role.VIEWER, 7, BO.email, BO.name)]
    assert await SqlProjectStore(people).page(of_user=BO.id, after=None, limit=5) == [LAB]
    assert await SqlProjectStore(people).page(of_user=ANA.id, after=None, limit=5) == []


async def test_an_invitation_is_accepted_by_one(people: Database) -> None:
    store = SqlInvitationStore(people)
    invitation = Invitation("invitation-1", LAB.id, "new@example.org", Role.VIEWER, b"t" * 32, ANA.id, 1, 100)
    await store.add(invitation, by=BY)
    assert await store.find(b"t" * 32) == invitation
    news = [User(f"user-new{n}", f"new{n}@example.org", "", False, False, 1) for n in range(3)]
    results = await asyncio.gather(
        *(store.accept(invitation, user, 50, is_new=True, by=BY) for user in news), return_exceptions=True
    )
    assert [result is None for result in results].count(True) == 1
    assert len(await SqlUserStore(people).page(after=None, limit=10)) == 3
    assert await store.of_project(LAB.id, after=None, limit=5) == []


async def test_sessions_end_with_what_they_rest_on(people: Database) -> None:
    users, sessions = SqlUserStore(people), SqlSessionStore(people)
    other = dataclasses.replace(SESSION, id="session-2", token_hash=b"o" * 32)
    await sessions.add(SESSION, verified=ANA, replaces=None, by=BY)
    assert await sessions.find(SESSION.token_hash) == (SESSION, ANA)
    await sessions.add(other, verified=ANA, replaces=None, by=BY)
    await users.set_password(ANA.id, "new", must_change=False, keep_session=other.id, by=BY)
    assert [session.id for session in await sessions.of_user(ANA.id)] == [other.id]
    third = dataclasses.replace(SESSION, id="session-3", token_hash=b"3" * 32)
    await sessions.add(third, verified=await present(people, ANA), replaces=other.token_hash, by=BY)
    assert [session.id for session in await sessions.of_user(ANA.id)] == [third.id]
    with pytest.raises(NotFound):
        await sessions.end(BO.id, third.id, by=BY)
    await sessions.end(ANA.id, third.id, by=BY)
    assert await sessions.find(third.token_hash) is None


async def test_a_change_of_a_project_is_noticed_by_who_holds_its_keys(people: Database) -> None:
    projects, revisions = SqlProjectStore(people), SqlRevisionStore(people)
    before = (await revisions.read()).keys
    changed = dataclasses.replace(LAB, archived_ms=5)
    await projects.change(LAB, changed, by=BY)
    assert await projects.get(LAB.id) == changed
    assert (await revisions.read()).keys > before
    with pytest.raises(Outdated):
        await projects.change(LAB, dataclasses.replace(LAB, name="x"), by=BY)
    with pytest.raises(NotFound):
        await projects.add(Project("x", "X", 1, tier_id="none"), by=BY)
