"""What changes while a sign-in or a request is under way: nothing is done on the word of what was verified before."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from collections.abc import AsyncIterator
from typing import Any, Literal

import argon2
import pytest

from llmaas.control.accounts.passwords import Passwords
from llmaas.control.accounts.sign_in import SignIn
from llmaas.control.context import Services
from llmaas.domain.members import Role
from tests.console.site import CHEAP, ORIGIN, PASSWORD, PEPPER, TEST, Admin, SignedIn

NEW_PASSWORD = "another horse battery"


class SlowHasher(argon2.PasswordHasher):
    """Has found out about a password, and says so only when it is let."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.looked, self.may_go_on = threading.Event(), threading.Event()

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002 - the library's name for it
        try:
            return super().verify(hash, password)
        finally:
            self.looked.set()
            assert self.may_go_on.wait(20)


def slowly(admin: Admin) -> tuple[Services, SlowHasher]:
    """Services whose sign-ins wait."""
    hasher = SlowHasher()
    services = admin.services
    sign_in = SignIn(
        users=services.users,
        sessions=services.sessions,
        passwords=Passwords(hasher),
        second_factor=services.sign_in.second_factor,
        clock=admin.clock,
        ids=services.ids,
        pepper=PEPPER,
        session_max_ms=86_400_000,
    )
    return dataclasses.replace(services, sign_in=sign_in), hasher


@pytest.mark.parametrize("change", ["password", "disabled", "second factor"])
async def test_A20_a_sign_in_under_way_opens_nothing_for_what_it_was_told_before(admin: Admin, change: str) -> None:
    ana = await admin.user("ana")
    services, hasher = slowly(admin)
    browser = admin.client(services)
    under_way = asyncio.create_task(browser.sign_in("ana@example.org"))
    assert await asyncio.to_thread(hasher.looked.wait, 20)
    users = admin.services.users
    if change == "password":
        digest = CHEAP.hash(NEW_PASSWORD)
        await users.set_password(ana.id, digest, must_change=False, keep_session=None, by=TEST)
    elif change == "disabled":
        await users.change(ana, dataclasses.replace(ana, disabled_ms=1), by=TEST)
    else:
        await users.begin_second_factor(ana, b"sealed", by=TEST)
        await users.confirm_second_factor(ana, b"sealed", 1, [b"r"], keep_session="", by=TEST)
    hasher.may_go_on.set()
    answer = await under_way
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert await admin.services.sessions.of_user(ana.id) == []


async def test_A20_the_old_password_changes_nothing_after_a_reset(admin: Admin) -> None:
    ana = await admin.user("ana")
    services, hasher = slowly(admin)
    browser = admin.client(services)
    hasher.may_go_on.set()
    assert (await browser.sign_in("ana@example.org")).status_code == 200
    hasher.looked.clear()
    hasher.may_go_on.clear()
    form = {"current": PASSWORD, "password": NEW_PASSWORD}
    under_way = asyncio.create_task(browser.call("PUT", "/me/password", form))
    assert await asyncio.to_thread(hasher.looked.wait, 20)
    digest = CHEAP.hash("what the admin chose")
    await admin.services.users.set_password(ana.id, digest, must_change=True, keep_session=None, by=TEST)
    hasher.may_go_on.set()
    assert (await under_way).status_code == 401
    present = await admin.services.users.get(ana.id)
    assert present is not None
    assert present.password_hash == digest


class SlowMaker(SlowHasher):
    """Hashes a new password when it is let."""

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self.looked.set()
        assert self.may_go_on.wait(20)
        return super().hash(password, salt=salt)


@pytest.mark.parametrize("act", ["make an admin", "reset a password", "reset a password on the page"])
@pytest.mark.parametrize("change", ["disabled", "demoted", "signed out", "password reset"])
async def test_A20_who_is_no_admin_any_more_makes_no_password(
    admin: Admin, signed_in: SignedIn, change: str, act: str
) -> None:
    eve, victim = await admin.user("eve", admin=True), await admin.user("ada", admin=True)
    browser = await signed_in("eve")
    hasher = SlowMaker()
    slow = admin.client(dataclasses.replace(admin.services, passwords=Passwords(hasher)))
    slow.http.cookies, slow.csrf = browser.http.cookies, browser.csrf
    path = f"/users/{victim.id}/reset-password"
    if act == "make an admin":
        sent = slow.call("POST", "/users", {"email": "puppet@example.org", "is_admin": True})
    elif act == "reset a password":
        sent = slow.call("POST", path)
    else:
        sent = slow.http.post(f"/admin{path}", data={"csrf": slow.csrf}, headers={"origin": ORIGIN})
    under_way = asyncio.create_task(sent)
    assert await asyncio.to_thread(hasher.looked.wait, 20)
    users = admin.services.users
    if change == "signed out":
        (session,) = await admin.services.sessions.of_user(eve.id)
        await admin.services.sessions.end(eve.id, session.id, by=TEST)
    elif change == "password reset":
        await users.set_password(eve.id, CHEAP.hash("x"), must_change=True, keep_session=None, by=TEST)
    else:
        is_disabled = change == "disabled"
        changed = dataclasses.replace(eve, disabled_ms=1 if is_disabled else None, is_admin=is_disabled)
        await users.change(eve, changed, by=TEST)
    hasher.may_go_on.set()
    answer = await under_way
    if act.endswith("page"):
        assert answer.status_code in {403, 422}
    else:
        assert answer.status_code == (403 if change == "demoted" else 401)
    assert await users.by_email("puppet@example.org") is None
    assert await users.get(victim.id) == victim


async def test_A20_an_admin_may_still_end_what_they_are(admin: Admin, signed_in: SignedIn) -> None:
    eve = await admin.user("eve", admin=True)
    await admin.user("ada", admin=True)
    await admin.project("lab", eve=Role.OWNER, ada=Role.OWNER)
    browser = await signed_in("eve")
    assert (await browser.call("POST", "/projects/lab/leave")).status_code == 204
    form = {"current": PASSWORD, "password": NEW_PASSWORD}
    assert (await browser.call("PUT", "/me/password", form)).status_code == 204
    assert (await browser.call("PATCH", f"/users/{eve.id}", {"is_admin": False})).status_code == 200
    assert (await browser.call("PATCH", "/me", {"name": "Eve"})).status_code == 200
    assert (await browser.call("POST", "/sign-out")).status_code == 204
    again = await signed_in("ada")
    assert (await again.call("PATCH", f"/users/{eve.id}", {"is_admin": True})).status_code == 200
    assert (await again.call("PATCH", "/users/user-ada", {"disabled": True})).status_code == 200
    assert (await again.call("GET", "/me")).status_code == 401


async def test_A21_new_passwords_wait_in_no_endless_queue(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("ada", admin=True)
    hasher = SlowMaker()
    browser = await signed_in("ada")
    slow = admin.client(dataclasses.replace(admin.services, passwords=Passwords(hasher)))
    slow.http.cookies, slow.csrf = browser.http.cookies, browser.csrf
    tasks = [
        asyncio.create_task(slow.call("POST", "/users", {"email": f"n{number}@example.org"})) for number in range(30)
    ]
    waiting, refused = set(tasks), set()
    while len(waiting) > 14:
        done, waiting = await asyncio.wait(waiting, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert done
        refused |= done
    assert {(task.result().status_code, task.result().headers["retry-after"]) for task in refused} == {(429, "2")}
    hasher.may_go_on.set()
    assert {(await task).status_code for task in waiting} == {201}


async def slow_body(body: Any, arrived: asyncio.Event, may_go_on: asyncio.Event) -> AsyncIterator[bytes]:
    data = json.dumps(body).encode()
    arrived.set()
    yield data[:1]
    await may_go_on.wait()
    yield data[1:]


@pytest.mark.parametrize("change", ["session ended", "role lost", "disabled"])
async def test_A20_a_body_that_arrives_late_is_judged_by_what_holds_then(
    admin: Admin, signed_in: SignedIn, change: str
) -> None:
    ana = await admin.user("ana")
    await admin.user("bo")
    await admin.project("lab", ana=Role.OWNER, bo=Role.OWNER)
    browser = await signed_in("ana")
    arrived, may_go_on = asyncio.Event(), asyncio.Event()
    headers = {"origin": ORIGIN, "x-csrf-token": browser.csrf, "content-type": "application/json"}
    content = slow_body({"name": "mine"}, arrived, may_go_on)
    sent = browser.http.post("/api/v1/projects/lab/keys", content=content, headers=headers)
    under_way = asyncio.create_task(sent)
    await asyncio.wait_for(arrived.wait(), 20)
    if change == "session ended":
        (session,) = await admin.services.sessions.of_user(ana.id)
        await admin.services.sessions.end(ana.id, session.id, by=TEST)
    elif change == "disabled":
        await admin.services.users.change(ana, dataclasses.replace(ana, disabled_ms=1), by=TEST)
    else:
        await admin.services.members.change("lab", ana.id, Role.VIEWER, seen=None, by=TEST)
    may_go_on.set()
    assert (await under_way).status_code == (403 if change == "role lost" else 401)
    assert await admin.services.keys.page("lab", after=None, limit=5) == []


async def test_A21_a_long_queue_of_password_checks_refuses_at_once(admin: Admin) -> None:
    await admin.user("ana")
    services, hasher = slowly(admin)
    hasher.may_go_on.set()
    mine, honest = admin.client(services), admin.client(services, address="10.0.1.1")
    assert (await mine.sign_in("ana@example.org")).status_code == 200
    hasher.may_go_on.clear()
    strangers = [admin.client(services, address=f"10.0.0.{number}") for number in range(100)]
    waiting = {
        asyncio.create_task(stranger.sign_in(f"n{number}@example.org", "wrong"))
        for number, stranger in enumerate(strangers)
    }
    refused = set()
    while len(waiting) > 14:
        done, waiting = await asyncio.wait(waiting, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert done
        refused |= done
    assert {task.result().status_code for task in refused} == {429}
    answer = await honest.sign_in("ana@example.org")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    # A browser that was signed in before waits its turn.
    again = asyncio.create_task(mine.sign_in("ana@example.org"))
    hasher.may_go_on.set()
    assert (await again).status_code == 200
    assert {(await task).status_code for task in waiting} == {401}
    assert (await honest.sign_in("ana@example.org")).status_code == 200
