"""`keys`: what a key may be made with, and that it works, stops and is succeeded as said."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from llmaas.datadir import Installation
from llmaas.domain import keys as keys_domain
from llmaas.domain.keys import Key
from llmaas.settings import load
from tests.cli.running import Cli, Start, finish

MODELS = """
[[models]]
id = "granite3.3:8b"
aliases = ["granite"]
[[models]]
id = "org/embedder"
kind = "embedding"
[[models]]
id = "old"
lifecycle = { phase = "retired", successor = "granite3.3:8b" }
"""

NASTY = [
    "'; DROP TABLE keys; --",
    "100%_\\%",
    "{{7*7}} ${7*7} %s {0}",
    "a\r\nSet-Cookie: x=1",
    "../../etc/passwd",
    "nul\x00byte",
    "right\u202eleft",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "@SUM(A1)",
    "\x1b[31mred\x1b[0m",
    "\x9b31m",
    "[red]markup[/red] [/]",
    "<script>alert(1)</script>",
    "ñandú 日本語 🙂",
    "broken\udcff",
    "x" * 200,
    "x" * 201,
    "",
    "   ",
    " edge",
    "tab\there",
    "--help",
]


def stored(cli: Cli, key_id: str) -> tuple[Key | None, bytes]:
    async def read() -> tuple[Key | None, bytes]:
        installation = await Installation(load({"data_dir": cli.data_dir}, {}).settings).open()
        try:
            return await installation.keys.get(key_id), installation.pepper
        finally:
            await installation.close()

    return asyncio.run(read())


def test_a_key_is_made_on_an_empty_data_directory(llmaas: Cli) -> None:
    shutil.rmtree(llmaas.data_dir)
    ran = llmaas.good("keys", "create", "--project", "default", "--name", "first", "--json")
    assert ran.json.keys() == {"key", "id"}
    said = f"made a new data directory: {llmaas.data_dir}"
    assert said in ran.err.splitlines()
    assert said not in llmaas.good("keys", "list").err
    presented = keys_domain.parse(ran.json["key"])
    assert presented is not None
    assert presented.kid == ran.json["id"]
    key, pepper = stored(llmaas, ran.json["id"])
    assert key is not None
    assert (key.project_id, key.name, key.expires_ms) == ("default", "first", None)
    assert key.secret_hash == keys_domain.hash_secret(presented, pepper)
    assert ran.json["key"].encode() not in b"".join(f.read_bytes() for f in llmaas.data_dir.iterdir() if f.is_file())


def test_without_json_only_the_key_is_on_stdout(llmaas: Cli) -> None:
    ran = llmaas.good("keys", "create", "--name", "first", "--expires", "30d")
    assert keys_domain.parse(ran.out.removesuffix("\n")) is not None
    assert "shown only now" in ran.err
    assert " until 2" in ran.err


def test_what_a_key_may_do(llmaas: Cli) -> None:
    llmaas.good("apply", "-", stdin=MODELS)
    before = llmaas.good("projects", "create", "lab")
    assert before.out == "created project lab\n"
    llmaas.good(
        *("keys", "create", "--project", "lab", "--name", "narrow", "--models", "GRANITE, org/embedder,granite"),
        *("--permission", "metrics:read", "--permission", "inference:use", "--expires", "24h"),
    )
    llmaas.good("keys", "create", "--name", "plain")
    narrow, plain = llmaas.good("keys", "list", "--json").json
    assert narrow["models"] == ["granite3.3:8b", "org/embedder"]
    assert narrow["permissions"] == ["inference:use", "metrics:read"]
    assert (narrow["project"], narrow["state"], narrow["expires"][:2]) == ("lab", "active", "20")
    assert (plain["models"], plain["permissions"], plain["expires"]) == ([], ["inference:use"], None)
    assert [k["name"] for k in llmaas.good("keys", "list", "--project", "lab", "--json").json] == ["narrow"]
    assert llmaas("keys", "list", "--project", "nowhere").errors == ["There is no project `nowhere`."]


def test_a_retired_model_means_its_successor(llmaas: Cli) -> None:
    llmaas.good("apply", "-", stdin=MODELS)
    llmaas.good("keys", "create", "--name", "k", "--models", "old")
    assert llmaas.good("keys", "list", "--json").json[0]["models"] == ["granite3.3:8b"]


def test_unknown_models_are_refused_with_the_known_ones(llmaas: Cli) -> None:
    none = llmaas("keys", "create", "--name", "k", "--models", "gpt")
    assert (none.code, none.errors) == (1, ["There is no model `gpt`. Known models: none yet."])
    llmaas.good("apply", "-", stdin=MODELS)
    ran = llmaas("keys", "create", "--name", "k", "--models", "gpt,granite,\x1b[31m")
    assert ran.code == 1
    assert ran.errors == ["There is no model `gpt`, `\\x1b[31m`. Known models: granite3.3:8b, org/embedder."]
    assert llmaas.good("keys", "list", "--json").json == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--expires", "soon"], "Invalid value for --expires: 'soon' is no duration; write for example 90s, 15m, 24h"),
        (["--expires", "0s"], "Invalid value for --expires: '0s' is not between 1s and 100 years"),
        (["--expires", "-1d"], "Invalid value for --expires: '-1d' is no duration"),
        (["--expires", "999999999w"], "Invalid value for --expires: '999999999w' is not between 1s and 100 years"),
        (["--expires", "1.5h"], "Invalid value for --expires: '1.5h' is no duration"),
        (["--models", " , "], "Invalid value for --models: names no model"),
        (["--permission", "root"], "Invalid value for '--permission'"),
        (["--unknown"], "No such option: --unknown"),
    ],
)
def test_wrong_options_are_usage_errors(options: list[str], error: str, llmaas: Cli) -> None:
    ran = llmaas("keys", "create", "--name", "k", *options)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.errors[0].startswith(error)
    assert "Usage: llmaas keys create" in ran.err


@pytest.mark.parametrize("name", NASTY)
def test_A02_names_are_kept_to_the_letter_or_refused(name: str, llmaas: Cli) -> None:
    ran = llmaas("keys", "create", f"--name={name}")
    listed = llmaas.good("keys", "list", "--json").json
    if ran.code == 0:
        assert [key["name"] for key in listed] == [name]
        table = llmaas.good("keys", "list").out
        assert name in table
        assert table.replace("\n", "").isprintable()
    else:
        assert ran.code == 2
        assert ran.errors[0].startswith("Invalid value for --name: the name ")
        assert listed == []
    assert ran.err.replace("\n", "").isprintable()


def test_a_change_names_what_changes(llmaas: Cli) -> None:
    llmaas.good("keys", "create", "--name", "k")
    (key,) = llmaas.good("keys", "list", "--json").json
    ran = llmaas("keys", "change", key["id"])
    assert (ran.code, ran.out) == (2, "")
    assert "nothing to change" in ran.errors[0]


def test_a_revoked_key_stays_in_the_list(llmaas: Cli) -> None:
    made = llmaas.good("keys", "create", "--name", "gone", "--json").json
    assert llmaas.good("keys", "revoke", made["id"]).out == f"revoked {made['id']} (gone)\n"
    (listed,) = llmaas.good("keys", "list", "--json").json
    assert listed["state"] == "revoked"
    assert llmaas.good("keys", "revoke", made["id"]).code == 0
    ran = llmaas("keys", "revoke", "nobody")
    assert (ran.code, ran.errors) == (1, ["There is no key `nobody`."])


def test_a_leaked_key_itself_may_be_named(llmaas: Cli) -> None:
    made = llmaas.good("keys", "create", "--name", "leaked", "--json").json
    ran = llmaas.good("keys", "revoke", made["key"])
    assert made["key"] not in ran.out + ran.err
    assert llmaas.good("keys", "list", "--json").json[0]["state"] == "revoked"


def test_a_rotated_key_goes_on_for_the_overlap(llmaas: Cli) -> None:
    old = llmaas.good("keys", "create", "--name", "k", "--expires", "30d", "--json").json
    new = llmaas.good("keys", "rotate", old["id"], "--overlap", "2h", "--json").json
    assert new["id"] != old["id"]
    before, after = llmaas.good("keys", "list", "--json").json
    assert (before["state"], after["state"]) == ("expiring", "active")
    shown = llmaas.good("keys", "show", old["id"]).out
    assert ("stops" in shown, "revoked" in shown) == (True, False), "it works until then"
    assert (after["rotated_from"], after["expires"], after["name"]) == (old["id"], before["expires"], "k")
    again = llmaas("keys", "rotate", old["id"])
    assert (again.code, again.errors) == (1, [f"Key `{old['id']}` is revoked or rotated already."])
    at_once = llmaas.good("keys", "rotate", new["id"], "--overlap", "0s")
    assert f"{new['id']} stops working now" in at_once.err
    assert [k["state"] for k in llmaas.good("keys", "list", "--json").json] == ["expiring", "revoked", "active"]
    assert llmaas("keys", "rotate", "nobody").errors == ["There is no key `nobody`."]


def test_a_period_without_a_budget_is_no_limit(llmaas: Cli) -> None:
    ran = llmaas("keys", "create", "--name", "k", "--budget-period", "day")
    assert (ran.code, llmaas.good("keys", "list", "--json").json) == (2, [])


def test_two_commands_at_once_on_an_empty_data_directory(start: Start, data_dir: Path) -> None:
    running = [start("keys", "create", "--name", f"k{n}", "--json") for n in range(2)]
    made = [finish(process) for process in running]
    assert {ran.code for ran in made} == {0}
    assert {ran.err for ran in made} <= {"", f"made a new data directory: {data_dir}\n"}
    assert len({ran.json["id"] for ran in made}) == 2
    (data_dir / "llmaas.db").stat()
    assert data_dir.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in data_dir.iterdir())
