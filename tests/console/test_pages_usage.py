"""The pages of usage: sums that agree with the rows, filters in the address, single requests, and never another project."""

from __future__ import annotations

import csv
import io
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.console.lab import HOSTILE, Lab
from tests.console.reading import Shown, values_of, words

USAGE = "/projects/lab/usage"
_FIRST_OF_MONTH = "2025-06-01"


@pytest.fixture
async def used(lab: Lab) -> Lab:
    """On 2025-06-15: twelve requests within six days of two keys, models and end users, and two before this month."""
    await lab.key("nightly", owner="owner")
    rows = [
        lab.row(
            n,
            days_ago=n * 0.5,
            end_user="u-1" if n % 2 else None,
            key_id=lab.keys["bot" if n % 3 else "nightly"].id,
            **({} if n % 4 else {"model_id": "embed", "output_tokens": 0}),
        )
        for n in range(12)
    ]
    failed = {"outcome": "engine_failed", "billing_reason": "failed_before_output", "error_code": "engine_failed"}
    rows += [
        lab.row(50, days_ago=2, ttft_ms=None, input_tokens=0, output_tokens=0, **failed),
        lab.row(60, days_ago=30, input_tokens=7),
        lab.row(61, days_ago=300, input_tokens=9),
        lab.row(90, days_ago=1, project_id="other", key_id=lab.keys["foreign"].id, model_id="secret-model"),
    ]
    await lab.asked(*rows)
    return lab


def _chart(page: Shown) -> list[str]:
    """What each column that has values tells."""
    told = [words(title) for title in page.main.iter("title")]
    return [text for text in told if ":" in text]


async def test_requests_without_a_price_are_counted_and_told_apart(used: Lab) -> None:
    await used.asked(used.row(70, model_id="forgotten", price_version=None, cost_nano=0))
    viewer = await used.reader("viewer")
    page = await viewer.get(USAGE)
    assert page.row("forgotten")["Cost"] == "No price"
    assert page.row("Total")["Cost"] == "0.0270 EUR"
    assert "1 request cost nothing, because its model had no price." in page.text
    assert "Set prices" not in page.text, "a viewer cannot"
    assert "Set prices" in (await (await used.reader("root")).get(USAGE)).text
    listed = await viewer.get(f"{USAGE}/requests")
    assert [row["Cost"] for row in listed.rows() if row["Model"] == "forgotten"] == ["No price"]
    for path in ("/projects/lab/overview", "/projects/lab/billing"):
        assert "1 request without a price" in (await viewer.get(path)).text, path


async def test_sums_by_model_are_those_of_the_rows(used: Lab) -> None:
    page = await (await used.reader("viewer")).get(USAGE)
    granite, total = page.row("granite3.3:8b"), page.row("Total")
    assert (granite["Requests"], granite["Input"], granite["Output"]) == ("10", "9,000", "4,500")
    assert granite["Cost"] == "0.0270 EUR"  # 9 × (1,000 × 1 + 500 × 4) EUR a million
    assert page.row("embed")["Output"] == "0"
    assert (total["Requests"], total["Input"], total["Cost"]) == ("13", "12,000", "0.0270 EUR")
    assert len(_chart(page)) == 6
    assert "secret-model" not in page.text


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("key", {"bot": "9", "nightly": "4"}),
        ("member", {"dev@example.org": "9", "owner@example.org": "4"}),
        ("end-user", {"u-1": "6", "Not given": "7"}),
        ("outcome", {"Completed": "12", "Engine failed": "1"}),
    ],
)
async def test_usage_is_grouped_by_what_one_likes(used: Lab, by: str, names: dict[str, str]) -> None:
    page = await (await used.reader("owner")).get(f"{USAGE}?by={by}&measure=requests")
    shown = {row[""]: row["Requests"] for row in page.rows() if row[""] != "Total"}
    assert shown == names


async def test_classes_of_tokens_each_have_their_cost(used: Lab) -> None:
    page = await (await used.reader("owner")).get(f"{USAGE}?by=token-class&measure=tokens")
    assert page.row("Input")["Input"] == "12,000"
    assert page.row("Output")["Output"] == "4,500"
    assert [row[""] for row in page.rows()] == ["Input", "Output", "Requests and rounding", "Total"]


async def test_filters_and_spans_are_in_the_address_and_in_the_form(used: Lab) -> None:
    reader = await used.reader("owner")
    key = used.keys["nightly"].id
    page = await reader.get(f"{USAGE}?month=2025-06&key={key}&model=granite3.3:8b")
    assert page.row("Total")["Requests"] == "3"
    form = values_of(page.form("get"))
    assert (form["key"], form["model"], form["from"], form["to"]) == (
        key,
        "granite3.3:8b",
        _FIRST_OF_MONTH,
        "2025-06-30",
    )
    ranged = await reader.get(f"{USAGE}?from=2025-05-01&to=2025-06-15")
    assert ranged.row("Total")["Requests"] == "14"
    long = await reader.get(f"{USAGE}?from=2024-07-01&to=2025-06-15")
    assert long.row("Total")["Requests"] == "15"
    assert any(text.startswith("2025-06") and not text.startswith("2025-06-") for text in _chart(long))  # by month
    before = await reader.get(page.links["← 2025-05"])
    assert urlsplit(before.path).query.count("key=") == 1
    assert "No usage in this time" in before.text


@pytest.mark.parametrize(
    "query",
    [
        "month=2025-99",
        "from=tomorrow",
        "from=2025-06-10&to=2025-06-01",
        "from=2000-01-01&to=2025-06-01",
        "by=colour&measure=weight&outcome=unheard",
        "month=%00",
        "key=%27%3B--&model=%3Cb%3E&end_user=" + "x" * 5_000,
    ],
)
async def test_an_address_that_makes_no_sense_shows_something_all_the_same(used: Lab, query: str) -> None:
    reader = await used.reader("owner")
    for path in (USAGE, f"{USAGE}/requests"):
        assert (await reader.get(f"{path}?{query}")).status == 200


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("model=granit", "Model: there is nothing here called granit, and no usage of it."),
        ("key=nokey", "Key: there is nothing here called nokey, and no usage of it."),
        ("member=user-root-2", "Member: there is nothing here called user-root-2, and no usage of it."),
        ("model=secret-model", "Model: there is nothing here called secret-model, and no usage of it."),
        ("outcome=great", "Outcome: there is nothing here called great, and no usage of it."),
    ],
)
async def test_a_name_that_nothing_ever_had_is_told(used: Lab, query: str, told: str) -> None:
    reader = await used.reader("owner")
    for path in (USAGE, f"{USAGE}/requests"):
        page = await reader.get(f"{path}?{query}")
        assert told in page.text, path
        assert "No usage in this time" in page.text
    assert "nothing here called" not in (await reader.get(f"{USAGE}?model=embed&member=user-dev")).text


async def test_sums_by_end_user_are_left_out_of_long_spans(used: Lab) -> None:
    page = await (await used.reader("owner")).get(f"{USAGE}?by=end-user&from=2025-01-01&to=2025-06-15")
    assert "at most 31 days" in page.text
    assert page.row("Total")["Requests"] == "14"


async def test_the_export_holds_what_the_page_sums(used: Lab) -> None:
    reader = await used.reader("owner")
    page = await reader.get(f"{USAGE}?month=2025-06&key={used.keys['nightly'].id}")
    (address,) = [href for href in page.links.values() if "/export?" in href]
    answer = await reader.browser.http.get(address)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == int(page.row("Total")["Requests"]) == 4


async def test_single_requests_come_newest_first_in_pages(used: Lab) -> None:
    await used.asked(*(used.row(1_000 + n, days_ago=8 + n / 100) for n in range(60)))
    reader = await used.reader("viewer")
    page = await reader.get(f"{USAGE}/requests?month=2025-06")
    seen = [row[""] for row in page.rows()]
    assert len(seen) == 50
    assert seen == sorted(seen, reverse=True)
    (following,) = [href for href in page.links.values() if "after=" in href]
    rest = await reader.get(following)
    assert len(rest.rows()) == 13 + 60 - 50
    assert [href for href in rest.links.values() if href.startswith(f"{USAGE}/requests?") and "after=" not in href]


async def test_a_request_tells_all_that_is_known_and_is_found_by_its_id(used: Lab) -> None:
    reader = await used.reader("viewer")
    page = await reader.get(f"{USAGE}/requests?id=chatcmpl-1")
    assert urlsplit(page.path).path == f"{USAGE}/requests/chatcmpl-1"
    facts = page.facts()
    assert (facts["Model"], facts["Asked for"], facts["Key"], facts["End user"]) == (
        "granite3.3:8b",
        "granite",
        "bot",
        "u-1",
    )
    assert (facts["Duration"], facts["First token"], facts["Tokens/s"]) == ("5,200 ms", "200 ms", "100")
    assert (facts["Backend"], facts["Chosen as"], facts["Cost"]) == ("ma01", "The only one", "0.003 EUR")
    failed = (await reader.get(f"{USAGE}/requests/chatcmpl-50")).facts()
    assert failed["Error code"] == "engine_failed"
    assert "No request of this project has that id." in (await reader.get(f"{USAGE}/requests?id=chatcmpl-nothing")).text


async def test_tokens_of_a_request_are_the_same_in_the_list_and_on_its_page(used: Lab) -> None:
    tokens = {"input_tokens": 8, "cached_input_tokens": 90, "output_tokens": 20, "reasoning_tokens": 30}
    await used.asked(used.row(2_000, days_ago=0.1, model_id="cached-model", **tokens))
    reader = await used.reader("viewer")
    (line,) = [row for row in (await reader.get(f"{USAGE}/requests")).rows() if row["Model"] == "cached-model"]
    facts = (await reader.get(f"{USAGE}/requests/chatcmpl-2000")).facts()
    for name, count in (("Input with cached", "98"), ("Output with reasoning", "50")):
        assert (line[name], facts[name]) == (count, count)
    assert (facts["of it cached"], facts["of it reasoning"]) == ("90", "30")


async def test_A02_requests_of_others_are_not_there(used: Lab) -> None:
    reader = await used.reader("owner")
    assert (await reader.get(f"{USAGE}/requests/chatcmpl-90")).status == 404
    assert "chatcmpl-90" not in (await reader.get(f"{USAGE}/requests?id=chatcmpl-90")).links.values()
    assert (await reader.get("/projects/other/usage")).status == 404
    foreign = await reader.get(f"{USAGE}?key={used.keys['foreign'].id}")
    assert "No usage in this time" in foreign.text


@pytest.mark.parametrize("by", ["end-user", "key"])
async def test_of_thousands_the_largest_have_lines_and_all_others_one(used: Lab, by: str) -> None:
    names = [f"u{n:03}" for n in range(150)]
    changes: list[dict[str, Any]] = [{"end_user": name} if by == "end-user" else {"key_id": name} for name in names]
    await used.asked(*(used.row(200 + n, input_tokens=5_000 + n, **change) for n, change in enumerate(changes)))
    page = await (await used.reader("owner")).get(f"{USAGE}?by={by}")
    lines = [row[""] for row in page.rows()]
    assert len([name for name in lines if "u" in name and name != "All others"]) >= 98
    others, total = page.row("All others"), page.row("Total")
    shown = sum(
        int(row["Requests"].replace(",", "")) for row in page.rows() if row.get("Requests") and row[""] != "Total"
    )
    assert shown == int(total["Requests"]) == 163
    assert int(others["Requests"]) > 50
    assert "and 52 more" in page.text
    assert any("All others\u2069: " in text for text in _chart(page))


async def test_A12_end_users_are_only_text(used: Lab) -> None:
    await used.asked(used.row(70, end_user=HOSTILE))
    reader = await used.reader("owner")
    for path in (
        f"{USAGE}?by=end-user",
        f"{USAGE}/requests",
        f"{USAGE}/requests/chatcmpl-70",
        f"{USAGE}?end_user=%22%3E%3Cscript%3E",
    ):
        page = await reader.get(path)
        assert page.status == 200
        assert page.main.find(".//script") is None
    assert HOSTILE in (await reader.get(f"{USAGE}?by=end-user")).text


async def test_money_of_two_currencies_is_never_added_up(used: Lab) -> None:
    await used.asked(used.row(80, currency="USD", cost_nano=5_000_000_000))
    page = await (await used.reader("owner")).get(f"{USAGE}?measure=cost")
    assert sorted(row["Cost"] for row in page.rows() if row[""] == "Total") == ["0.0270 EUR", "5.00 USD"]
    assert not any("5.0" in text for text in _chart(page))


async def test_a_project_without_usage_says_so(lab: Lab) -> None:
    page = await (await lab.reader("dev")).get("/projects/empty/usage")
    assert "No usage in this time" in page.text
    assert not page.rows()


@pytest.mark.parametrize("path", ["/projects/lab/usage", "/projects/lab/usage/requests"])
async def test_days_in_the_wrong_order_are_kept_and_told(used: Lab, path: str) -> None:
    page = await (await used.reader("viewer")).get(f"{path}?from=2025-06-20&to=2025-06-10&model=embed")
    assert "The first day, 2025-06-20, comes after the last, 2025-06-10." in page.text
    (form,) = [one for one in page.main.iter("form") if one.get("class") == "filters" and "to" in values_of(one)]
    values = values_of(form)
    assert (values["from"], values["to"], values["model"]) == ("2025-06-20", "2025-06-10", "embed")
    assert page.main.find(".//details[@open]") is not None
    reader = await used.reader("viewer")
    assert "more than 366 days" in (await reader.get(f"{path}?from=2020-01-01&to=2025-06-10")).text
    answer = await reader.browser.call("GET", "/projects/lab/usage?from=2025-06-20&to=2025-06-10")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "from")
