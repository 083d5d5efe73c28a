"""`audit`: what was done is shown, exported and verified."""

from __future__ import annotations

import json
import sqlite3

import pytest

from tests.cli.running import Cli


def spoil(cli: Cli) -> None:
    with sqlite3.connect(cli.data_dir / "llmaas.db") as connection:
        connection.execute("UPDATE audit SET actor_id = 'eve' WHERE seq = 1")
    connection.close()


def test_an_act_is_shown_and_verifies(llmaas: Cli) -> None:
    llmaas.good("projects", "create", "lab", "--name", "Lab")
    (line,) = llmaas.good("audit", "list", "--subject", "lab", "--json").json
    assert (line["action"], line["subject"], line["project"]) == (
        "project.create",
        {"kind": "project", "id": "lab"},
        "lab",
    )
    assert line["after"]["name"] == "Lab"
    assert "project.create" in llmaas.good("audit", "list").out
    exported = [json.loads(text) for text in llmaas.good("audit", "export").out.splitlines()]
    assert [entry["seq"] for entry in exported] == list(range(1, len(exported) + 1))
    assert exported[-1] == line
    verified = llmaas.good("audit", "verify")
    assert verified.out == f"ok, {len(exported)} lines\n"
    noted = f"{line['seq']}:{line['hash']}"
    assert noted in verified.err
    assert llmaas.good("audit", "verify", "--expect", noted).out == verified.out


def test_a_changed_line_fails_the_verification(llmaas: Cli) -> None:
    llmaas.good("projects", "create", "lab", "--name", "Lab")
    spoil(llmaas)
    ran = llmaas("audit", "verify")
    assert ran.code == 1
    assert ran.out == "FAULT: line 1 does not say what it was written with\n"
    assert llmaas("audit", "verify", "--json").json["ok"] is False


@pytest.mark.parametrize("text", ["", "5", "0:" + "a" * 64, "1:xyz"])
def test_what_was_not_printed_is_not_expected(llmaas: Cli, text: str) -> None:
    assert llmaas("audit", "verify", "--expect", text).code == 2


def test_nothing_is_no_mistake(llmaas: Cli) -> None:
    assert llmaas.good("audit", "list", "--by", "nobody").err == "no such acts\n"
    assert llmaas.good("audit", "list", "--action", "nothing", "--json").json == []
