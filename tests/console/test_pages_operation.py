"""What operators look at: the audit log, system health and settings, as pages and through the API."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from llmaas.console.pages import audit
from llmaas.console.pages.audit import differences
from llmaas.control.status.process import System
from llmaas.control.status.settings import setting_lines
from llmaas.domain.audit import Act, Actor, Line
from llmaas.domain.workers import Worker
from llmaas.errors import Unavailable
from llmaas.settings import Secret, Settings
from tests.console.lab import DAY_MS, HOSTILE, Lab
from tests.console.reading import Reader, values_of, words
from tests.console.site import Admin, make_system

AUDIT, HEALTH, SETTINGS = "/admin/audit", "/admin/health", "/admin/settings"


async def _away() -> None:
    raise Unavailable("The database does not answer.")


async def _with(lab: Lab, **more: Any) -> Reader:
    """The admin at an installation some of whose services are others."""
    browser = lab.admin.client(dataclasses.replace(lab.admin.services, **more))
    assert (await browser.sign_in("root@example.org")).status_code == 200
    return Reader(browser)


def _system(lab: Lab, **more: Any) -> System:
    return make_system(lab.admin.clock, **more)


async def _api(reader: Reader, path: str) -> Any:
    answer = await reader.browser.call("GET", path)
    assert answer.status_code == 200, answer.text
    return answer.json()


# Audit


async def test_acts_are_listed_newest_first_with_what_changed(lab: Lab) -> None:
    reader = await lab.reader("root")
    form = await reader.get("/admin/projects/new")
    await reader.send(form, id="support", name="Support", tier="basic")
    rows = (await reader.get(AUDIT)).rows()
    assert (rows[0]["Act"], rows[0]["By"]) == ("project.create", "root@example.org")
    assert rows[0]["To"].startswith("Support")
    assert "Support" in rows[0]["What changed"]
    assert rows[-1]["By"] == "The service"


@pytest.mark.parametrize(
    ("query", "acts"),
    [
        ("action=key.create", {"key.create"}),
        ("action=credit", {"credit.add"}),
        ("project=lab&action=key", {"key.create"}),
        ("subject=user-dev&action=user", {"user.create"}),
        ("by=test&action=member", {"member.add"}),
        ("action=nothing", set()),
        ("by=user-root&action=key", set()),
        ("from=2999-01-01", set()),
    ],
)
async def test_acts_are_found_by_filters(lab: Lab, query: str, acts: set[str]) -> None:
    page = await (await lab.reader("root")).get(f"{AUDIT}?{query}")
    assert {row["Act"] for row in page.rows()} == acts
    filled = values_of(page.form("get"))
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        assert filled[name] == value
    if not acts:
        assert page.links["Clear"] == AUDIT


async def test_the_days_of_a_filter_are_whole(lab: Lab) -> None:
    reader = await lab.reader("root")
    day = (await _api(reader, "/audit"))["data"][0]["at"][:10]
    assert (await reader.get(f"{AUDIT}?from={day}&to={day}&action=key")).rows()
    assert (await reader.get(f"{AUDIT}?from=soon&action=key")).rows()


async def test_many_acts_are_read_page_by_page(lab: Lab) -> None:
    for number in range(60):
        await lab.key(f"key {number}")
    reader = await lab.reader("root")
    page = await reader.get(f"{AUDIT}?action=key.create")
    assert len(page.rows()) == 50
    following = await reader.get(f"{AUDIT}{page.links['Next page']}")
    assert 10 <= len(following.rows()) < 50
    assert {row["Act"] for row in following.rows()} == {"key.create"}
    assert (await reader.get(following.links["First page"])).rows() == page.rows()
    assert len((await reader.get(f"{AUDIT}?before=x")).rows()) == 50


async def test_days_of_the_audit_log_in_the_wrong_order_are_told(lab: Lab) -> None:
    reader = await lab.reader("root")
    page = await reader.get(f"{AUDIT}?from=2025-06-16&to=2025-06-15")
    assert "The first day, 2025-06-16, comes after the last, 2025-06-15, so no act matches." in page.text
    assert page.main.findall(".//input[@aria-invalid='true']")
    for fine in ("", "?from=2025-06-15&to=2025-06-15", "?from=2025-06-16"):
        assert "comes after" not in (await reader.get(f"{AUDIT}{fine}")).text


async def test_the_log_is_verified_and_a_change_shows(lab: Lab) -> None:
    reader = await lab.reader("root")
    sound = await reader.send(await reader.get(AUDIT))
    assert "nothing was changed" in sound.text
    verdict = await _api(reader, "/audit/verify")
    assert verdict["ok"]
    assert verdict["hash"] in sound.text
    async with lab.admin.database.begin() as connection:
        await connection.execute(text("UPDATE audit SET action = 'key.revoke' WHERE seq = 2"))
    broken = await reader.send(await reader.get(AUDIT))
    assert "The log was changed" in broken.text
    assert not (await _api(reader, "/audit/verify"))["ok"]


def test_differences_are_only_what_changed() -> None:
    act = Act(
        Actor("user", "u"), "key.change", "key", "k", None, {"name": "a", "n": 1}, {"name": "b", "n": 1, "m": [2]}
    )
    found = differences(Line(1, 0, act, b"", b""))
    assert [(one.name, one.before, one.after) for one in found] == [("name", "a", "b"), ("m", None, "[2]")]


async def test_A12_hostile_names_are_only_text_in_the_log(lab: Lab) -> None:
    await lab.key(HOSTILE)
    page = await (await lab.reader("root")).get(f"{AUDIT}?action=key&by=%22%3E%3Cscript%3E")
    assert page.main.find(".//script") is None
    page = await (await lab.reader("root")).get(f"{AUDIT}?action=key")
    assert HOSTILE in page.text


# Health


async def test_all_is_well_and_the_api_says_the_same(lab: Lab) -> None:
    reader = await lab.reader("root")
    page = await reader.get(HEALTH)
    assert "Everything works." in page.text
    assert page.row("Database")["State"].startswith("Answers in")
    assert page.row("Counters")["State"] == "In memory"
    health = await _api(reader, "/health")
    assert (health["ok"], health["spooled"], health["counters"], health["worker"]) == (True, 0, None, "worker-1")
    assert health["disk_free_bytes"] <= health["disk_bytes"]


@pytest.mark.parametrize(
    ("fault", "row", "state", "says"),
    [
        ({"ask_database": _away}, "Database", "Does not answer", "database_url"),
        ({"ask_counters": _away, "counters_place": "valkey://h"}, "Counters", "Does not answer", "state_url"),
        ({"accepting": lambda: False}, "Ledger", "Takes no rows", "spool"),
        ({"count_spooled": lambda: 3}, "Spool", "3 rows wait", "by themselves"),
        ({"draining": lambda: True, "in_flight": lambda: 2}, "Requests", "Ending", "2 under way"),
    ],
)
async def test_what_does_not_work_is_told_with_what_to_do(
    lab: Lab, fault: dict[str, Any], row: str, state: str, says: str
) -> None:
    reader = await _with(lab, system=_system(lab, **fault))
    page = await reader.get(HEALTH)
    assert "Something needs attention." in page.text
    assert page.row(row)["State"] == state
    assert says in page.row(row)["Note"]
    assert not (await _api(reader, "/health"))["ok"]


async def test_it_answers_while_the_list_of_processes_cannot_be_read(lab: Lab) -> None:
    async def no_workers() -> list[Worker]:
        raise Unavailable("The database does not answer.")

    page = await (await _with(lab, workers=no_workers, system=_system(lab, ask_database=_away))).get(HEALTH)
    assert page.status == 200
    assert "which does not answer" in page.text


async def test_each_process_is_shown_and_the_one_that_answers_is_marked(lab: Lab) -> None:
    now_ms = lab.now_ms
    listed = [
        Worker("worker-1", "alpha", 11, now_ms - DAY_MS, now_ms, 7),
        Worker("worker-2", "beta", 22, now_ms - DAY_MS, now_ms - 4_000, 6),
    ]

    async def workers() -> list[Worker]:
        return listed

    page = await (await _with(lab, workers=workers)).get(HEALTH)
    assert page.row("alpha")[""].endswith("answers this page")
    assert page.row("alpha")["Last heard of"] == "Now"
    assert page.row("beta")["Revision"] == "6"


async def test_only_the_part_that_changes_comes_as_a_fragment(lab: Lab) -> None:
    reader = await lab.reader("root")
    answer = await reader.browser.http.get(HEALTH, headers={"accept": "text/html", "x-fragment": "1"})
    assert "<html" not in answer.text
    assert "Database" in answer.text


# Settings


async def test_settings_tell_value_and_origin(lab: Lab) -> None:
    reader = await lab.reader("root")
    page = await reader.get(SETTINGS)
    assert page.row("port")["From"] == "flag"
    assert page.row("session_idle_s")["From"] == "default"
    changed = await reader.get(f"{SETTINGS}?only=set")
    assert [row["Value"] for row in changed.rows()] == ["8080"]
    shown = {one["name"]: one for one in await _api(reader, "/settings")}
    assert set(shown) == {field.name for field in dataclasses.fields(Settings)}
    assert shown["port"]["origin"] == "flag"


async def test_secrets_of_settings_are_masked(lab: Lab) -> None:
    settings = Settings(oidc_client_secret=Secret("hunter2-secret"), database_url=Secret("postgresql://u:hunter2@h/d"))
    origins = {"oidc_client_secret": "environment", "database_url": "/etc/llmaas.toml"}
    reader = await _with(lab, settings=setting_lines(settings, origins))
    page = await reader.get(SETTINGS)
    assert "hunter2" not in page.text
    assert page.row("oidc_client_secret")["From"] == "LLMAAS_OIDC_CLIENT_SECRET"
    assert page.row("database_url")["From"] == "/etc/llmaas.toml"
    assert "hunter2" not in (await reader.browser.call("GET", "/settings")).text


async def test_nothing_set_says_how_to_set_something(lab: Lab) -> None:
    reader = await _with(lab, settings=setting_lines(Settings(), {}))
    assert "llmaas.toml" in (await reader.get(f"{SETTINGS}?only=set")).text


# All of them


async def test_live_state_is_that_of_the_process_that_answers(lab: Lab) -> None:
    live = lab.admin.services.live
    target = live.catalogue.entries["granite3.3:8b"].targets[0]
    live.load.begin(target)
    shown = await _api(await lab.reader("root"), "/live")
    (line,) = [one for one in shown["data"] if one["model"] == "granite3.3:8b"]
    assert line == {"model": "granite3.3:8b", "backend": "ma01", "aside": False, "in_flight": 1}
    assert (shown["worker"], shown["revision"]) == ("worker-1", live.catalogue.revision)


@pytest.mark.parametrize("path", [AUDIT, HEALTH, SETTINGS])
async def test_A01_only_an_admin_gets_there(lab: Lab, path: str) -> None:
    for name in ("viewer", "dev", "owner", "stranger"):
        reader = await lab.reader(name)
        page = await reader.get(path)
        assert page.status == 403, name
        assert path not in page.links.values()
    anonymous = await Reader(lab.admin.client()).get(path)
    assert anonymous.path.startswith("/sign-in?next=")


@pytest.mark.parametrize("language", ["en", "es", "fr"])
async def test_they_speak_the_language_of_the_reader(admin: Admin, language: str) -> None:
    await admin.user("root", admin=True)
    browser = admin.client()
    await browser.sign_in("root@example.org")
    for path in (AUDIT, HEALTH, SETTINGS, f"{SETTINGS}?only=set", f"{AUDIT}?by=nobody"):
        page = await Reader(browser, language).get(path)
        assert (page.status, page.root.get("lang")) == (200, language)


def test_details_of_an_act_are_written_for_people() -> None:
    before = {"expires_ms": None, "cost_nano": 1_500_000_000, "timeout_ms": 5_000}
    after = {"expires_ms": 1_767_225_600_000, "cost_nano": 2_000_000_000, "timeout_ms": 6_000}
    act = Act(Actor("user", "u", ""), "key.change", "key", "k", None, before, after)
    found = {one.name: (one.before, one.after) for one in differences(Line(1, 0, act, b"", b""))}
    assert found["timeout"] == ("5000", "6000")
    assert found["cost"] == ("1.50", "2.00")
    assert "2026-01-01 00:00:00 UTC" in str(found["expires"][1])


async def test_the_log_is_filtered_by_names_that_are_chosen(lab: Lab) -> None:
    reader = await lab.reader("root")
    page = await reader.get(AUDIT)
    choices = {
        select.get("name"): {words(option): option.get("value") for option in select.iter("option")}
        for select in page.main.iter("select")
    }
    assert choices["action"]["API keys"] == "key"
    assert choices["by"]["dev@example.org"] == "user-dev"
    assert choices["project"]["Lab"] == "lab"
    named = await reader.get(f"{AUDIT}?project=lab&action=member")
    assert {row["To"] for row in named.rows()} >= {"dev@example.org Lab"}
    assert "user-dev" not in named.text
    one = await reader.get(named.links["dev@example.org"])
    assert {row["To"].split()[0] for row in one.rows()} == {"dev@example.org"}


def test_every_act_that_is_recorded_can_be_chosen() -> None:
    source = "".join(path.read_text() for path in Path(audit.__file__).parents[2].rglob("*.py"))
    recorded = set(re.findall(r'Act\([^)]*?"([a-z_-]+)\.[a-z-]+"', source))
    assert recorded
    assert recorded - set(audit.NOUNS) == set()
