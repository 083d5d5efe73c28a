"""`users`: listing, disabling, new passwords."""

from __future__ import annotations

import asyncio

import argon2

from llmaas.datadir import Installation
from llmaas.domain.users import User
from llmaas.settings import load
from tests.cli.running import Cli


def user(llmaas: Cli, email: str) -> User:
    async def read() -> User | None:
        installation = await Installation(load({"data_dir": llmaas.data_dir}, {}).settings).open()
        found = await installation.users.by_email(email)
        await installation.close()
        return found

    found = asyncio.run(read())
    assert found is not None
    return found


def test_users_are_listed_disabled_and_let_in_again(llmaas: Cli) -> None:
    llmaas.good("users", "create", "root@example.org", "--admin")
    llmaas.good("users", "create", "ana@example.org")
    listed = {row["email"]: row for row in llmaas.good("users", "list", "--json").json}
    assert (listed["root@example.org"]["admin"], listed["ana@example.org"]["admin"]) == (True, False)
    assert "ana@example.org" in llmaas.good("users", "list").out
    llmaas.good("users", "disable", "Ana@example.org")
    assert user(llmaas, "ana@example.org").disabled_ms is not None
    llmaas.good("users", "disable", "ana@example.org", "--undo")
    assert user(llmaas, "ana@example.org").disabled_ms is None
    last = llmaas("users", "disable", "root@example.org")
    assert (last.code, last.errors) == (1, ["There must be another admin first."])
    assert llmaas("users", "disable", "nobody@example.org").code == 1


def test_a_new_one_time_password_replaces_the_old_one(llmaas: Cli) -> None:
    first = llmaas.good("users", "create", "ana@example.org").out.strip()
    second = llmaas.good("users", "reset-password", "ana@example.org", "--json").json["one_time_password"]
    found = user(llmaas, "ana@example.org")
    assert first != second
    assert found.must_change_password
    assert argon2.PasswordHasher().verify(found.password_hash, second)
    actor = llmaas.good("audit", "list", "--json").json
    assert {line["action"] for line in actor} >= {"user.create", "user.set-password"}
