"""Billing: limits with their present use, credit and its entries, the forecast, alerts and their threshold."""

from __future__ import annotations

import pytest

from llmaas.domain.credit import CreditEntry, CreditKind
from llmaas.domain.prices import NANO
from llmaas.ids import IdSource
from llmaas.storage.alerts import SqlAlertStore
from llmaas.storage.tables import budget_shares
from tests.console.lab import DAY_MS, HOSTILE, Lab
from tests.console.site import TEST

BILLING = "/projects/lab/billing"


async def spent(lab: Lab, budget_id: str, amount_nano: int) -> None:
    share = {"budget_id": budget_id, "worker_id": "", "spent_nano": amount_nano, "leased_nano": 0}
    async with lab.admin.database.begin() as connection:
        await connection.execute(budget_shares.insert(), [share])


async def test_limits_stand_with_their_present_use(lab: Lab) -> None:
    await spent(lab, "project:lab:2025-06", 12_500_000_000)
    await lab.asked(*(lab.row(n, days_ago=n * 25 / 86_400) for n in range(5)))  # 25 s apart: three in the last minute
    page = await (await lab.reader("viewer")).get(BILLING)
    assert "12.50 EUR of 50.00 EUR" in page.text
    assert "3 of 60" in page.text
    assert "basic" in page.text


async def test_the_forecast_goes_on_as_the_last_week_went(lab: Lab) -> None:
    # 2025-06-15 15:06:40: 7 EUR within the seven days before today, 15 days and 8:53:20 h left of the month.
    await lab.asked(*(lab.row(n, days_ago=n, cost_nano=NANO) for n in range(1, 8)))
    facts = (await (await lab.reader("viewer")).get(BILLING)).facts()
    assert facts["This month"] == "7.00 EUR"
    assert facts["Forecast for the month"].startswith("22.37 EUR")
    assert facts["Credit left"] == "20.00 EUR"
    assert facts["Credit lasts"].startswith("about 20 days")


async def test_entries_come_newest_first_in_pages(lab: Lab) -> None:
    for n in range(2, 27):
        entry = CreditEntry(
            f"credit-{n:02}", "lab", lab.now_ms + n, -NANO, CreditKind.CORRECTION, f"no {n}", "user-root"
        )
        await lab.admin.services.credit.add(entry, by=TEST, below_zero=True)
    reader = await lab.reader("viewer")
    page = await reader.get(BILLING)
    assert [row["Note"] for row in page.rows()][:2] == ["no 26", "no 25"]
    assert page.rows()[0]["Amount"] == "-1.00 EUR"
    assert len(page.rows()) == 20
    (older,) = [href for href in page.links.values() if "after=" in href]
    assert len((await reader.get(older)).rows()) == 26 - 20


async def test_an_owner_sets_the_balance_to_warn_at(lab: Lab) -> None:
    reader = await lab.reader("owner")
    page = await reader.send(await reader.get(BILLING), low_credit="7,50")
    assert "The threshold is saved." in page.text
    project = await lab.admin.services.projects.get("lab")
    assert project is not None
    assert project.low_credit_nano == 7_500_000_000
    await reader.send(page, low_credit="")
    project = await lab.admin.services.projects.get("lab")
    assert project is not None
    assert project.low_credit_nano is None


@pytest.mark.parametrize("text", ["-1", "soon", "1e3", "9" * 30, "1.2345678901"])
async def test_a_wrong_threshold_stands_in_its_field_with_what_is_wrong(lab: Lab, text: str) -> None:
    reader = await lab.reader("owner")
    page = await reader.send(await reader.get(BILLING), low_credit=text)
    assert page.status == 422
    assert page.fault("low_credit")
    (field,) = [part for part in page.main.iter("input") if part.get("name") == "low_credit"]
    assert field.get("value") == text


async def test_A01_others_see_the_terms_and_cannot_change_them(lab: Lab) -> None:
    for name in ("viewer", "dev"):
        reader = await lab.reader(name)
        page = await reader.get(BILLING)
        assert page.status == 200
        assert not [part for part in page.main.iter("form") if part.get("method") == "post"]
        csrf = page.root.find(".//input[@name='csrf']")
        assert csrf is not None
        assert (await reader.post(BILLING, {"csrf": csrf.get("value"), "low_credit": "1"})).status == 403
    assert (await (await lab.reader("stranger")).get(BILLING)).status == 404


async def test_a_low_balance_is_listed_until_it_is_above_again(lab: Lab) -> None:
    reader = await lab.reader("owner")
    await reader.send(await reader.get(BILLING), low_credit="25")
    store = SqlAlertStore(lab.admin.database)
    await store.watch_credit(IdSource(), lab.now_ms)
    page = await reader.get(BILLING)
    assert "Credit fell below 25.00 EUR: 20.00 EUR left" in page.text
    assert "Open" in page.text
    entry = CreditEntry("credit-2", "lab", lab.now_ms, 10 * NANO, CreditKind.TOP_UP, HOSTILE, "user-root")
    await lab.admin.services.credit.add(entry, by=TEST)
    await store.watch_credit(IdSource(), lab.now_ms + DAY_MS)
    page = await reader.get(BILLING)
    assert "Resolved" in page.text
    assert HOSTILE in page.text
    assert page.main.find(".//script") is None


async def test_a_project_without_terms_says_so(lab: Lab) -> None:
    page = await (await lab.reader("owner")).get("/projects/empty/billing")
    assert "no limits" in page.text
    assert "Credit left" not in page.facts()
    assert "0.000" not in page.text


async def test_a_prepaid_project_without_credit_says_what_to_do(lab: Lab) -> None:
    services, refused = lab.admin.services, "its requests are refused"
    assert refused not in (await (await lab.reader("root")).get("/admin/projects/lab")).text
    entry = CreditEntry("credit-9", "lab", lab.now_ms, -20 * NANO, CreditKind.CORRECTION, "taken back", "user-root")
    await services.credit.add(entry, by=TEST)
    assert "Ask an administrator" in (await (await lab.reader("owner")).get(BILLING)).text
    reader = await lab.reader("root")
    assert (await reader.get(BILLING)).links["Add credit"] == "/admin/projects/lab"
    assert refused in (await reader.get("/admin/projects/lab")).text
    assert refused not in (await reader.get("/admin/projects/other")).text


@pytest.mark.parametrize(
    ("left", "said"), [(NANO // 2, "less than a day"), (0, "used up"), (3 * NANO // 2, "about 1 day")]
)
async def test_credit_never_lasts_about_no_days(lab: Lab, left: int, said: str) -> None:
    await lab.asked(*(lab.row(n, days_ago=n, cost_nano=NANO) for n in range(1, 8)))
    await spent(lab, "project:lab:total", 20 * NANO - left)
    assert (await (await lab.reader("viewer")).get(BILLING)).facts()["Credit lasts"].startswith(said)


async def test_the_rest_of_the_last_day_of_a_month_counts(lab: Lab) -> None:
    lab.admin.clock.advance(15 * 86_400)  # 2025-06-30 15:06:40
    await lab.asked(*(lab.row(n, days_ago=n, cost_nano=NANO) for n in range(1, 8)))
    facts = (await (await lab.reader("viewer")).get(BILLING)).facts()
    assert facts["Forecast for the month"].startswith("7.37 EUR")
