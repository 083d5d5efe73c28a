"""The pages for admins: projects with their terms and credit, users, tiers, and every version of a price."""

from __future__ import annotations

from typing import Any

import pytest

from llmaas.domain.prices import NANO
from llmaas.domain.projects import Project
from llmaas.domain.tiers import Tier
from llmaas.domain.users import User
from llmaas.storage.tables import budget_shares
from tests.console.lab import Lab
from tests.console.reading import Reader, Shown, values_of
from tests.console.site import PASSWORD

MODEL_FORM = "/admin/fleet/edit-model/granite3.3%3A8b"
PROJECT = "/admin/projects/lab"
PAGES = (
    "/admin/projects",
    PROJECT,
    "/admin/users",
    "/admin/users/user-dev",
    "/admin/tiers",
    "/admin/tiers/basic",
    "/admin/prices",
)


async def _project(lab: Lab, project_id: str) -> Project:
    found = await lab.admin.services.projects.get(project_id)
    assert found is not None
    return found


async def _user(lab: Lab, name: str) -> User:
    found = await lab.admin.services.users.by_email(f"{name}@example.org")
    assert found is not None
    return found


async def _tier(lab: Lab, tier_id: str) -> Tier:
    found = (await lab.admin.services.fleet.state()).fleet.find("tier", tier_id)
    assert isinstance(found, Tier)
    return found


async def _press(reader: Reader, page: Shown, path: str, **values: Any) -> Shown:
    """Send a form of the page that is not its first."""
    return await reader.post(path, {"csrf": values_of(page.form())["csrf"], **values})


async def test_projects_are_listed_with_what_they_cost(lab: Lab) -> None:
    await lab.asked(lab.row(1, cost_nano=3 * NANO))
    page = await (await lab.reader("root")).get("/admin/projects")
    row = page.row("Lab")
    assert (row["Id"], row["Tier"], row["Requests, this month"]) == ("lab", "basic", "1")
    assert row["Cost, this month"].startswith("3.00")
    assert page.row("Other")["Tier"] == "None"


async def test_a_project_is_made_by_a_form(lab: Lab) -> None:
    reader = await lab.reader("root")
    form = await reader.get("/admin/projects/new")
    for values, field in (
        ({"id": "A B", "name": "X"}, "id"),
        ({"id": "lab", "name": "X"}, "id"),
        ({"id": "x"}, "name"),
    ):
        again = await reader.send(form, **values)
        assert (again.status, bool(again.fault(field))) == (422, True)
    made = await reader.send(form, id="support", name="Support", tier="basic")
    assert (made.status, made.path, (await _project(lab, "support")).tier_id) == (
        200,
        "/admin/projects/support",
        "basic",
    )


async def test_terms_are_set(lab: Lab) -> None:
    reader = await lab.reader("root")
    page = await reader.get(PROJECT)
    wrong = await reader.send(page, retention_days="soon")
    assert (wrong.status, bool(wrong.fault("retention_days"))) == (422, True)
    wrong = await reader.send(page, tier="nothing")
    assert (wrong.status, bool(wrong.fault("tier"))) == (422, True)
    done = await reader.send(page, tier="", retention_days="90")
    project = await _project(lab, "lab")
    assert (done.status, project.tier_id, project.retention_days) == (200, None, 90)
    late = await reader.send(page, retention_days="80")
    assert (late.status, "Somebody else changed this" in late.text) == (422, True)
    assert (await _project(lab, "lab")).retention_days == 90


async def test_credit_is_added_once_however_often_the_form_is_sent(lab: Lab) -> None:
    reader = await lab.reader("root")
    page = await reader.get(PROJECT)
    form = page.main.findall(".//form")[1]
    values = {**values_of(form), "amount": "12,50", "note": "Order 9", "sure": "12.50"}
    for _ in range(2):
        assert (await reader.post(f"{PROJECT}/credit", values)).status == 200
    entries = await lab.admin.services.credit.page("lab", limit=9)
    assert sorted((entry.amount_nano, entry.note) for entry in entries) == [
        (12_500_000_000, "Order 9"),
        (20 * NANO, "Order 7"),
    ]
    for amount in ("", "much", "-3", "0"):
        again = await reader.post(f"{PROJECT}/credit", {**values, "amount": amount})
        assert (again.status, bool(again.fault("amount"))) == (422, True)
    assert (await lab.admin.services.credit.balance("lab")).credited_nano == 32_500_000_000


async def test_credit_is_shown_as_it_was_understood_before_it_is_made(lab: Lab) -> None:
    reader = await lab.reader("root")
    form = (await reader.get(PROJECT)).main.findall(".//form")[1]
    sure = await reader.post(f"{PROJECT}/credit", {**values_of(form), "amount": "1 000,50", "note": "Order 9"})
    assert sure.facts()["Amount"] == "1,000.50 EUR = 1000 + 50/100 EUR"
    assert (sure.facts()["Left now"], sure.facts()["Left then"]) == ("20.00 EUR", "1,020.50 EUR")
    assert (await lab.admin.services.credit.balance("lab")).credited_nano == 20 * NANO
    changed = await reader.send(sure, again="on")
    assert values_of(changed.main.findall(".//form")[1])["amount"] == "1 000,50"
    other = await reader.send(sure, amount="2000")  # what was agreed to is the amount that was shown
    assert other.facts()["Amount"].startswith("2,000.00 EUR")
    for _ in range(2):
        assert "1,000.50 EUR" in (await reader.send(sure)).text
    assert (await lab.admin.services.credit.balance("lab")).credited_nano == 1_020 * NANO + NANO // 2


@pytest.mark.parametrize(("language", "smaller"), [("en", "1.00"), ("es", "1,00"), ("fr", "1,00")])
async def test_no_form_takes_an_amount_that_can_be_two(lab: Lab, language: str, smaller: str) -> None:
    reader = await lab.reader("root", language)
    forms = {
        "amount": (f"{PROJECT}/credit", (await reader.get(PROJECT)).main.findall(".//form")[1]),
        "low_credit": ("/projects/lab/billing", (await reader.get("/projects/lab/billing")).form()),
        "budget_total": ("/projects/lab/keys/new", (await reader.get("/projects/lab/keys/new")).form()),
        "monthly_cap": ("/admin/tiers/basic", (await reader.get("/admin/tiers/basic")).form()),
        "model_0_output": ("/admin/tiers/basic", (await reader.get("/admin/tiers/basic")).form()),
        "price_output": (MODEL_FORM, (await reader.get(MODEL_FORM)).form()),
        "card_energy_kwh_per_mtok": (MODEL_FORM, (await reader.get(MODEL_FORM)).form()),
    }
    for name, (path, form) in forms.items():
        for typed in ("1,000", "1.000"):
            page = await reader.post(path, {**values_of(form), name: typed})
            assert page.status == 422, name
            assert "1000" in page.fault(name)
            assert smaller in page.fault(name)


@pytest.mark.parametrize("language", ["en", "es", "fr"])
async def test_a_form_that_is_sent_untouched_changes_nothing(lab: Lab, language: str) -> None:
    reader, services = await lab.reader("root", language), lab.admin.services
    await reader.post(
        "/projects/lab/billing",
        {**values_of((await reader.get("/projects/lab/billing")).form()), "low_credit": "19999"},
    )
    tier = await reader.get("/admin/tiers/basic")
    await reader.send(tier, monthly_cap="1.1250", model_0_output="0,125", tokens_per_minute="20000")
    await reader.send(await reader.get(MODEL_FORM), price_output="1,1250", card_energy_kwh_per_mtok="0,125")

    async def stored() -> object:
        fleet = (await services.fleet.state()).fleet
        key = await services.keys.get(lab.keys["bot"].id)
        assert key is not None
        return fleet, await services.projects.get("lab"), key.limits

    before = await stored()
    for path in (
        "/projects/lab/billing",
        "/admin/tiers/basic",
        MODEL_FORM,
        f"/projects/lab/keys/{lab.keys['bot'].id}/edit",
    ):
        page = await reader.send(await reader.get(path))
        assert page.status == 200, path
    assert await stored() == before
    project = await services.projects.get("lab")
    assert project is not None
    assert project.low_credit_nano == 19_999 * NANO


async def test_more_than_is_left_is_taken_only_with_a_tick(lab: Lab) -> None:
    reader = await lab.reader("root")
    form = (await reader.get(PROJECT)).main.findall(".//form")[1]
    values = {**values_of(form), "amount": "-5000", "kind": "correction", "sure": "-5000.00"}
    refused = await reader.post(f"{PROJECT}/credit", values)
    assert (refused.status, bool(refused.fault("amount"))) == (422, True)
    assert (await reader.post(f"{PROJECT}/credit", {**values, "below_zero": "on"})).status == 200
    assert (await lab.admin.services.credit.balance("lab")).left_nano < 0


async def test_a_project_is_archived_after_a_question(lab: Lab) -> None:
    reader = await lab.reader("root")
    done = await reader.send(await reader.get(f"{PROJECT}/archive"))
    assert (done.status, (await _project(lab, "lab")).archived_ms) == (200, lab.now_ms)
    assert "archived" in done.text


async def test_a_user_is_added_and_the_password_shown_once(lab: Lab) -> None:
    reader = await lab.reader("root")
    form = await reader.get("/admin/users/new")
    for email in ("", "nobody", "dev@example.org"):
        again = await reader.send(form, email=email)
        assert (again.status, bool(again.fault("email"))) == (422, True)
    made = await reader.send(form, email="mei@example.org", name="Mei")
    password = made.main.find(".//*[@id='password']")
    assert made.status == 200
    assert password is not None
    user = await _user(lab, "mei")
    assert (user.name, user.is_admin, user.must_change_password) == ("Mei", False, True)
    answer = await lab.admin.client().sign_in("mei@example.org", password.text or "")
    assert answer.status_code == 200
    assert (password.text or "-") not in (await reader.get(f"/admin/users/{user.id}")).text


async def test_a_user_is_changed_and_disabled_and_comes_back(lab: Lab) -> None:
    reader = await lab.reader("root")
    page = await reader.get("/admin/users/user-dev")
    assert (await reader.send(page, name="Daniel", is_admin="on")).status == 200
    user = await _user(lab, "dev")
    assert (user.name, user.is_admin) == ("Daniel", True)
    assert (await reader.send(await reader.get("/admin/users/user-dev"), is_admin=None)).status == 200
    disabled = await reader.send(await reader.get("/admin/users/user-dev/disable"))
    assert (disabled.status, (await _user(lab, "dev")).disabled_ms) == (200, lab.now_ms)
    assert (await lab.admin.client().sign_in("dev@example.org", PASSWORD)).status_code == 401
    back = await _press(reader, disabled, "/admin/users/user-dev/enable")
    assert (back.status, (await _user(lab, "dev")).disabled_ms, (await _user(lab, "dev")).is_admin) == (
        200,
        None,
        False,
    )


async def test_A01_a_form_from_before_makes_nobody_an_admin_again(lab: Lab) -> None:
    reader = await lab.reader("root")
    await reader.send(await reader.get("/admin/users/user-dev"), is_admin="on")
    old = await reader.get("/admin/users/user-dev")
    await reader.send(await reader.get("/admin/users/user-dev"), is_admin=None)
    late = await reader.send(old, name="Daniel")
    assert (late.status, "Somebody else changed this" in late.text) == (422, True)
    assert not (await _user(lab, "dev")).is_admin


async def test_the_last_admin_stays_one(lab: Lab) -> None:
    reader = await lab.reader("root")
    page = await reader.send(await reader.get("/admin/users/user-root"), is_admin=None)
    assert (page.status, (await _user(lab, "root")).is_admin) == (422, True)
    page = await reader.send(await reader.get("/admin/users/user-root/disable"))
    assert (page.status, (await _user(lab, "root")).disabled_ms) == (422, None)


async def test_a_password_is_reset_after_a_question(lab: Lab) -> None:
    reader = await lab.reader("root")
    done = await reader.send(await reader.get("/admin/users/user-dev/reset-password"))
    password = done.main.find(".//*[@id='password']")
    assert password is not None
    assert (await lab.admin.client().sign_in("dev@example.org", PASSWORD)).status_code == 401
    assert (await lab.admin.client().sign_in("dev@example.org", password.text or "")).status_code == 200


async def test_a_tier_is_made_changed_and_removed(lab: Lab) -> None:
    reader = await lab.reader("root")
    form = await reader.get("/admin/tiers/new")
    for field, value in (("id", "basic"), ("requests_per_minute", "0.5"), ("monthly_cap", "lots")):
        again = await reader.send(form, **{"id": "gold", field: value})
        assert (again.status, bool(again.fault(field))) == (422, True)
    assert (await reader.send(form, id="gold", concurrent_requests="8", monthly_cap="99,90")).status == 200
    tier = await _tier(lab, "gold")
    assert (tier.concurrent_requests, tier.monthly_cap, tier.prices) == (8, 99_900_000_000, ())
    kept = await reader.send(await reader.get("/admin/tiers/basic/remove"))
    assert (kept.status, "lab" in kept.text) == (422, True)
    gone = await reader.send(await reader.get("/admin/tiers/gold/remove"))
    assert (gone.status, (await lab.admin.services.fleet.state()).fleet.find("tier", "gold")) == (200, None)


async def test_prices_of_a_tier_go_to_the_models_that_they_were_typed_for(lab: Lab) -> None:
    """Also when the fleet was changed while the form was open."""
    reader = await lab.reader("root")
    form = await reader.get("/admin/tiers/basic")
    before = await _tier(lab, "basic")
    await reader.send(await reader.get("/admin/fleet/remove-model/embed"))
    values = values_of(form.form())
    number = next(name.split("_")[1] for name, value in values.items() if value == "idle")
    assert (await reader.send(form, **{f"model_{number}_output": "3"})).status == 200
    after = {price.model_id: price for price in (await _tier(lab, "basic")).prices}
    assert after["idle"].output == after["idle"].reasoning == 3 * NANO
    assert after["granite3.3:8b"].output == before.prices[0].output
    late = await reader.send(form, requests_per_minute="7")
    assert (late.status, (await _tier(lab, "basic")).requests_per_minute) == (422, 60)


async def test_every_version_of_a_price_is_shown(lab: Lab) -> None:
    reader = await lab.reader("root")
    lab.admin.clock.advance(60)
    await reader.send(await reader.get("/admin/fleet/edit-model/granite3.3%3A8b"), price_output="9")
    prices = await reader.get("/admin/prices")
    assert prices.rows()[0]["Output"] == "9.00 EUR"
    page = await reader.get("/admin/prices?model=granite3.3%3A8b")
    shown = [(row["Tier"], row["Output"], row["Until"]) for row in page.rows()]
    assert shown[0] == ("Every", "9.00 EUR", "now")
    assert ("basic", "4.00 EUR", "now") in shown
    old = next(row for row in shown if row[1] == "8.00 EUR")
    assert old[2] not in {"now", "taken away"}
    versions = (await reader.browser.call("GET", "/prices?model=granite3.3%3A8b")).json()
    assert [one["price"]["output"] for one in versions if one["tier"] is None] == ["9.00", "8.00"]
    assert (await reader.get("/admin/prices?model=nothing")).status == 404


@pytest.mark.parametrize("name", ["owner", "dev", "viewer", "stranger"])
async def test_A01_only_an_admin_administers(lab: Lab, name: str) -> None:
    reader = await lab.reader(name)
    for path in PAGES:
        assert (await reader.get(path)).status == 403
    csrf = values_of((await reader.get("/profile")).form())["csrf"]
    values = {"csrf": csrf, "amount": "5", "kind": "grant", "is_admin": "on", "name": "x", "id": "x"}
    for path in (f"{PROJECT}/credit", f"{PROJECT}/terms", f"{PROJECT}/archive", f"/admin/users/user-{name}"):
        assert (await reader.post(path, values)).status == 403
    assert not (await _user(lab, name)).is_admin
    assert (await _project(lab, "lab")).archived_ms is None


async def test_a_tier_with_projects_without_credit_becomes_prepaid_with_open_eyes(lab: Lab) -> None:
    reader, path = await lab.reader("root"), "/admin/tiers/team"
    await reader.send(await reader.get("/admin/tiers/new"), id="team", monthly_cap="100")
    await lab.admin.project("empty-1")
    for project_id in ("other", "empty-1"):
        await reader.send(await reader.get(f"/admin/projects/{project_id}"), tier="team")
    await reader.send(await reader.get("/admin/projects/empty-1"), tier="team")
    refused = await reader.send(await reader.get(path), prepaid_credit="50.00")
    assert (refused.status, "2 projects on this tier have no credit left" in refused.text) == (422, True)
    assert values_of(refused.form())["prepaid_credit"] == "50.00", "what was typed stays"

    async def credit() -> int | None:
        fleet = (await lab.admin.services.fleet.state()).fleet
        return next(tier.prepaid_credit for tier in fleet.tiers if tier.id == "team")

    assert await credit() is None
    assert (await reader.send(refused, sure="on")).status == 200
    assert await credit() == 50 * NANO
    again = await reader.send(await reader.get(path), prepaid_credit="60.00")
    assert (again.status, await credit()) == (200, 60 * NANO), "it is prepaid already"


async def test_a_tier_becomes_prepaid_unasked_when_it_stops_nobody(lab: Lab) -> None:
    reader = await lab.reader("root")
    await reader.send(await reader.get("/admin/tiers/new"), id="team", monthly_cap="100")
    await reader.send(await reader.get("/admin/projects/other"), tier="team")
    entry = {"amount": "5.00", "kind": "top-up"}
    assert (await reader.browser.call("POST", "/projects/other/credit/entries", entry)).status_code == 201
    done = await reader.send(await reader.get("/admin/tiers/team"), prepaid_credit="50.00")
    assert (done.status, "team is changed." in done.text) == (200, True)


async def test_a_project_that_has_spent_goes_to_a_prepaid_tier_with_open_eyes(lab: Lab) -> None:
    share = {"budget_id": "project:other:total", "worker_id": "", "spent_nano": 12 * NANO + NANO // 2, "leased_nano": 0}
    async with lab.admin.database.begin() as connection:
        await connection.execute(budget_shares.insert(), [share])
    reader, path = await lab.reader("root"), "/admin/projects/other"
    refused = await reader.send(await reader.get(path), tier="basic")
    assert (refused.status, "-12.50 EUR left" in refused.text) == (422, True)
    assert (await _project(lab, "other")).tier_id is None
    done = await reader.send(refused, below_zero="on")
    assert (done.status, (await _project(lab, "other")).tier_id) == (200, "basic")
    await reader.send(await reader.get(path), tier="")
    terms = {"tier": "basic", "retention_days": None}
    answer = await reader.browser.call("PUT", "/projects/other/terms", terms)
    assert (answer.status_code, answer.json()["error"]["param"]) == (409, "below_zero")
    assert "-12.50" in answer.json()["error"]["message"]
    answer = await reader.browser.call("PUT", "/projects/other/terms", {**terms, "below_zero": True})
    assert answer.status_code == 200
