"""`projects` and `users`."""

from __future__ import annotations

import asyncio

import argon2
import pytest

from llmaas.app import Installation
from llmaas.settings import load
from tests.cli.running import Cli


def test_there_is_a_first_project(llmaas: Cli) -> None:
    (project,) = llmaas.good("projects", "list", "--json").json
    assert (project["id"], project["name"], project["tier"]) == ("default", "Default", None)
    assert llmaas.good("projects", "list").out.splitlines()[0].split() == ["ID", "NAME", "TIER", "CREATED"]


def test_projects_are_made_once(llmaas: Cli) -> None:
    llmaas.good("projects", "create", "lab-1", "--name", "El laboratorio [red]")
    again = llmaas("projects", "create", "lab-1")
    assert (again.code, again.errors) == (1, ["There is a project `lab-1` already."])
    names = {p["id"]: p["name"] for p in llmaas.good("projects", "list", "--json").json}
    assert names == {"default": "Default", "lab-1": "El laboratorio [red]"}


@pytest.mark.parametrize("project_id", ["", "UPPER", "a b", "-x", "x-", "../x", "x" * 65, "ñ", "a\n"])
def test_project_ids_have_a_form(project_id: str, llmaas: Cli) -> None:
    ran = llmaas("projects", "create", "--", project_id)
    assert ran.code == 2
    (error,) = ran.errors
    assert error.startswith("Invalid value for ID: must be 1 to 64 lower-case letters, digits, dots, dashes and")


def test_a_user_gets_a_password_that_works_once(llmaas: Cli) -> None:
    ran = llmaas.good("users", "create", "Ana@Example.org", "--admin")
    password = ran.out.removesuffix("\n")

    async def read() -> list[tuple[str, bool, bool]]:
        installation = await Installation(load({"data_dir": llmaas.data_dir}, {}).settings).open()
        users = await installation.users.list()
        await installation.close()
        assert argon2.PasswordHasher().verify(users[0].password_hash, password)
        return [(user.email, user.is_admin, user.must_change_password) for user in users]

    assert asyncio.run(read()) == [("ana@example.org", True, True)]
    again = llmaas("users", "create", "ana@example.org")
    assert (again.code, again.errors) == (1, ["There is a user `ana@example.org` already."])
    made = llmaas.good("users", "create", "bo@example.org", "--json").json
    assert made.keys() == {"email", "one_time_password"}


@pytest.mark.parametrize("email", ["", "ana", "ana@", "@x", "a b@x", "a@x y", "a@-x", "a\u202e@x", "<a@x>", "a@x\n"])
def test_what_is_no_address_is_refused(email: str, llmaas: Cli) -> None:
    ran = llmaas("users", "create", "--", email)
    assert ran.code == 2
    assert ran.errors[0].startswith("Invalid value for EMAIL: ")
