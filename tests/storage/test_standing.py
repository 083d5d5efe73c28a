"""What a request was let in on is looked at again within each of its write transactions."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from llmaas.domain.audit import SYSTEM
from llmaas.domain.members import Member, Role
from llmaas.domain.permissions import Credential
from llmaas.domain.projects import Project
from llmaas.domain.sessions import Session
from llmaas.domain.standing import Standing
from llmaas.domain.tokens import Token
from llmaas.domain.users import User
from llmaas.errors import NotAllowed, NotAuthenticated
from llmaas.storage.database import Database
from llmaas.storage.members import SqlMemberStore
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.sessions import SqlSessionStore
from llmaas.storage.standing import hold_to
from llmaas.storage.tokens import SqlTokenStore
from llmaas.storage.users import SqlUserStore

EVE = User("user-eve", "eve@example.org", "", is_admin=True, must_change_password=False, created_ms=1)
ADA = dataclasses.replace(EVE, id="user-ada", email="ada@example.org")
IN_LAB = Standing(EVE, Credential.SESSION, "session-1", "lab", Role.OWNER)
BY_TOKEN = Standing(EVE, Credential.TOKEN, "token-1", None, None)


@pytest.fixture
async def people(database: Database) -> Database:
    users, members = SqlUserStore(database), SqlMemberStore(database)
    for user in (EVE, ADA):
        await users.add(user)
    await SqlProjectStore(database).add(Project("lab", "Lab", 1), by=SYSTEM)
    for user in (EVE, ADA):
        await members.add(Member("lab", user.id, Role.OWNER, 1), by=SYSTEM)
    session = Session("session-1", b"h", EVE.id, 1, 1, 2**40, "", "")
    await SqlSessionStore(database).add(session, verified=EVE, replaces=None, by=SYSTEM)
    await SqlTokenStore(database).add(Token("token-1", EVE.id, "t", b"h", 1), by=SYSTEM)
    return database


async def write(database: Database, standing: Standing | None) -> None:
    """In a task of its own, as a request is."""

    async def within() -> None:
        hold_to(standing)
        await SqlProjectStore(database).add(Project("new", "New", 1), by=SYSTEM)

    await asyncio.create_task(within())


@pytest.mark.parametrize("standing", [IN_LAB, BY_TOKEN, None], ids=["session", "token", "nobody"])
async def test_A20_who_is_as_they_were_may_write(people: Database, standing: Standing | None) -> None:
    await write(people, standing)
    assert await SqlProjectStore(people).get("new") is not None


@pytest.mark.parametrize(
    ("change", "by_session", "by_token"),
    [
        ("disabled", NotAuthenticated, NotAuthenticated),
        ("demoted", NotAllowed, NotAllowed),
        ("one-time password", NotAuthenticated, NotAllowed),
        ("session ended", NotAuthenticated, None),
        ("token revoked", None, NotAuthenticated),
        ("role changed", NotAllowed, None),
        ("removed", NotAllowed, None),
    ],
)
async def test_A20_who_is_not_as_they_were_writes_nothing(
    people: Database, change: str, by_session: type[Exception] | None, by_token: type[Exception] | None
) -> None:
    users, members = SqlUserStore(people), SqlMemberStore(people)
    match change:
        case "disabled":
            await users.change(EVE, dataclasses.replace(EVE, disabled_ms=1), by=SYSTEM)
        case "demoted":
            await users.change(EVE, dataclasses.replace(EVE, is_admin=False), by=SYSTEM)
        case "one-time password":
            await users.set_password(EVE.id, "", must_change=True, keep_session=None, by=SYSTEM)
        case "session ended":
            await SqlSessionStore(people).end(EVE.id, "session-1", by=SYSTEM)
        case "token revoked":
            await SqlTokenStore(people).revoke(EVE.id, "token-1", 2, by=SYSTEM)
        case "role changed":
            await members.change("lab", EVE.id, Role.VIEWER, seen=None, by=SYSTEM)
        case "removed":
            await members.remove("lab", EVE.id, by=SYSTEM)
    for standing, expected in ((IN_LAB, by_session), (BY_TOKEN, by_token)):
        if expected is not None:
            with pytest.raises(expected):
                await write(people, standing)
    assert await SqlProjectStore(people).get("new") is None
