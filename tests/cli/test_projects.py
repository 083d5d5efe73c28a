"""`projects` and `users`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import argon2
import pytest

from llmaas.datadir import Installation
from llmaas.settings import load
from tests.cli.ledgers import record, usage_row
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


def test_a_project_is_put_on_a_tier(llmaas: Cli, tmp_path: Path) -> None:
    fleet = tmp_path / "tiers.toml"
    fleet.write_text('[[tiers]]\nid = "tier-1"\nrequests_per_minute = 5\n')
    llmaas.good("apply", str(fleet))
    llmaas.good("projects", "create", "lab", "--tier", "tier-1", "--low-credit", "20.00")
    llmaas.good("projects", "set", "default", "--tier", "tier-1", "--name", "All")

    def tiers() -> dict[str, str | None]:
        return {p["id"]: p["tier"] for p in llmaas.good("projects", "list", "--json").json}

    assert tiers() == {"default": "tier-1", "lab": "tier-1"}
    llmaas.good("projects", "set", "lab", "--tier", "none")
    assert tiers() == {"default": "tier-1", "lab": None}
    assert llmaas("projects", "create", "x", "--tier", "gold").errors == ["There is no tier `gold`."]
    assert llmaas("projects", "set", "lab", "--tier", "gold").errors == ["There is no tier `gold`."]
    assert llmaas("projects", "set", "nobody", "--tier", "tier-1").errors == ["There is no project `nobody`."]
    assert llmaas("projects", "set", "lab").code == 2


def test_credit_is_put_in_and_taken_out(llmaas: Cli) -> None:
    assert llmaas.good("projects", "credit", "default").out == "0.00 credited, 0.00 spent, 0.00 left\n"
    for _ in range(2):
        llmaas.good("projects", "credit", "default", "--add", "200.00", "--note", "invoice 7", "--once", "invoice-7")
    record(llmaas.data_dir, [usage_row(1, cost_nano=12_500_000_000)])
    shown = llmaas.good("projects", "credit", "default", "--take", "20", "--json").json
    assert {name: shown[name] for name in ("project", "credited", "spent", "left")} == {
        "project": "default",
        "credited": "180.00",
        "spent": "12.50",
        "left": "167.50",
    }
    assert [(e["amount"], e["kind"], e["note"]) for e in shown["entries"]] == [
        ("-20.00", "correction", ""),
        ("200.00", "top-up", "invoice 7"),
    ]
    assert shown["entries"][0]["actor"].startswith("cli:")
    head, *rows = llmaas.good("projects", "credit", "default").out.splitlines()
    assert head == "180.00 credited, 12.50 spent, 167.50 left"
    assert rows[0].split() == ["CREATED", "AMOUNT", "KIND", "NOTE"]


def test_a_project_that_has_spent_pays_in_advance_only_on_demand(llmaas: Cli, tmp_path: Path) -> None:
    fleet = tmp_path / "tiers.toml"
    fleet.write_text('[[tiers]]\nid = "early"\nprepaid_credit = "10.00"\n')
    llmaas.good("apply", str(fleet))
    record(llmaas.data_dir, [usage_row(1, cost_nano=12_500_000_000)])
    refused = llmaas("projects", "set", "default", "--tier", "early")
    assert refused.code == 1
    assert "-12.50 left" in refused.errors[0]
    llmaas.good("projects", "set", "default", "--tier", "early", "--below-zero")


def test_more_than_is_left_is_taken_only_on_demand(llmaas: Cli) -> None:
    llmaas.good("projects", "credit", "default", "--add", "5")
    refused = llmaas("projects", "credit", "default", "--take", "5.01")
    said = "That is more than `default` has left (5.00). Take less, or give --below-zero."
    assert (refused.code, refused.errors) == (1, [said])
    taken = llmaas.good("projects", "credit", "default", "--take", "5.01", "--below-zero", "--kind", "refund", "--json")
    assert (taken.json["left"], taken.json["entries"][0]["kind"]) == ("-0.01", "refund")


@pytest.mark.parametrize("options", [["--add", "0"], ["--add", "-5"], ["--add", "1e3"], ["--add", "1", "--take", "1"]])
def test_amounts_of_credit_are_plain_decimals(options: list[str], llmaas: Cli) -> None:
    assert llmaas("projects", "credit", "default", *options).code == 2
    assert llmaas("projects", "credit", "nobody", "--add", "5").errors == ["There is no project `nobody`."]


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
