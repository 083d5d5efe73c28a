"""The overview: figures of today and this month, states of models, latest errors, and a part that is fetched anew."""

from __future__ import annotations

import pytest

from llmaas.domain.prices import NANO
from llmaas.storage.tables import budget_shares
from tests.console.lab import Lab
from tests.console.reading import Shown, parse, words

OVERVIEW = "/projects/lab/overview"


async def test_figures_are_of_today_and_this_month(lab: Lab) -> None:
    await lab.asked(
        lab.row(1, days_ago=0.1, reasoning_tokens=100, energy_uwh=1_500_000),
        lab.row(2, days_ago=3, cached_input_tokens=200, energy_uwh=2_000_000_000),
        lab.row(3, days_ago=20),
        lab.row(4, days_ago=0.1, project_id="other"),
    )
    facts = (await (await lab.reader("viewer")).get(OVERVIEW)).facts()
    assert (facts["Requests today"], facts["Tokens today"]) == ("1", "1,600")
    assert (facts["Requests this month"], facts["Tokens this month"]) == ("2", "3,300")
    assert facts["Cost today"] == "0.0034 EUR"
    assert facts["Energy this month"].startswith("2.00 kWh")


async def test_credit_left_is_what_was_paid_in_less_what_was_spent(lab: Lab) -> None:
    spent = {"budget_id": "project:lab:total", "worker_id": "", "spent_nano": 3 * NANO, "leased_nano": NANO}
    async with lab.admin.database.begin() as connection:
        await connection.execute(budget_shares.insert(), [spent])
    await lab.asked(lab.row(1))
    page = await (await lab.reader("viewer")).get(OVERVIEW)
    assert page.facts()["Credit left"].startswith("17.00 EUR")
    assert "Credit left" not in (await (await lab.reader("viewer")).get("/projects/empty/overview")).facts()


async def test_models_stand_with_their_state(lab: Lab) -> None:
    page = await (await lab.reader("viewer")).get(OVERVIEW)
    assert "idle Not served" in page.text
    assert "granite3.3:8b Operational" in page.text
    (target,) = lab.admin.services.live.catalogue.entries["granite3.3:8b"].targets
    for _ in range(5):
        lab.admin.services.live.health.failed(target)
    page = await (await lab.reader("viewer")).get(OVERVIEW)
    assert "granite3.3:8b Down" in page.text


async def test_latest_errors_are_of_the_last_day_and_lead_to_the_request(lab: Lab) -> None:
    failed = {"outcome": "engine_timeout", "billing_reason": "failed_before_output", "output_tokens": 0}
    await lab.asked(
        lab.row(1, days_ago=0.2),
        lab.row(2, days_ago=0.5, **failed),
        lab.row(3, days_ago=2, **failed),
        lab.row(4, days_ago=0.1, project_id="other", **failed),
    )
    page = await (await lab.reader("viewer")).get(OVERVIEW)
    found = [href for href in page.links.values() if "/usage/requests/" in href]
    assert found == ["/projects/lab/usage/requests/chatcmpl-2"]
    assert "Too slow" in page.text


async def test_the_part_that_is_renewed_is_the_same_without_the_page(lab: Lab) -> None:
    await lab.asked(lab.row(1))
    reader = await lab.reader("viewer")
    whole = await reader.get(OVERVIEW)
    answer = await reader.browser.http.get(OVERVIEW, headers={"x-fragment": "1"})
    assert answer.status_code == 200
    assert "<html" not in answer.text
    part = words(parse(f"<main>{answer.text}</main>"))
    assert part in whole.text
    assert "Requests today" in part


async def test_a_part_asked_for_after_the_session_ended_is_no_page(lab: Lab) -> None:
    """Else the sign-in page would stand inside the overview."""
    answer = await lab.admin.client().http.get(OVERVIEW, headers={"x-fragment": "1", "accept": "*/*"})
    assert answer.status_code == 401


@pytest.mark.parametrize("language", ["en", "es", "fr"])
async def test_a_new_project_is_told_how_to_begin(lab: Lab, language: str) -> None:
    page = await (await lab.reader("dev", language)).get("/projects/empty/overview")
    assert {"/projects/empty/playground", "/projects/empty/keys/new"} <= set(page.links.values())
    assert "http://console.test/v1" in page.text


async def test_A01_only_members_see_it(lab: Lab) -> None:
    assert (await (await lab.reader("stranger")).get(OVERVIEW)).status == 404
    assert (await (await lab.reader("root")).get(OVERVIEW)).status == 200


async def test_what_is_used_most_stands_first_and_what_works_before_what_does_not(lab: Lab) -> None:
    def listed(page: Shown) -> list[str]:
        return [words(link) for link in page.main.iter("a") if "/models/" in link.get("href", "")]

    await lab.asked(*(lab.row(n, model_id="org/coder:1.5b") for n in range(3)), lab.row(9, model_id="embed"))
    page = await (await lab.reader("viewer")).get(OVERVIEW)
    assert listed(page) == ["org/coder:1.5b", "embed", "granite3.3:8b", "idle"]
    empty = await (await lab.reader("viewer")).get("/projects/empty/overview")
    assert listed(empty) == ["embed", "granite3.3:8b", "org/coder:1.5b", "idle"]
