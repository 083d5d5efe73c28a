"""`keys` with limits: they are taken, shown, changed, lifted, and handed to a successor."""

from __future__ import annotations

import sqlite3

import pytest

from tests.cli.running import Cli

OPTIONS = [
    *("--requests-per-minute", "60", "--tokens-per-minute", "1000", "--concurrent-requests", "4"),
    *("--output-tokens-per-hour", "500", "--output-tokens-per-day", "5000"),
    *("--budget", "5.00", "--budget-period", "month", "--network", "10.0.0.0/8", "--network", "2001:DB8::/32"),
]
LIMITS = {
    "requests_per_minute": 60,
    "tokens_per_minute": 1000,
    "concurrent_requests": 4,
    "output_tokens_per_hour": 500,
    "output_tokens_per_day": 5000,
    "budget_per_month": "5.00",
}


def make(cli: Cli, *options: str) -> str:
    made: str = cli.good("keys", "create", "--name", "k", "--json", *options).json["id"]
    return made


def test_limits_are_kept_and_shown(llmaas: Cli) -> None:
    kid = make(llmaas, *OPTIONS)
    shown = llmaas.good("keys", "show", kid, "--json").json
    assert shown["limits"] == LIMITS
    assert shown["networks"] == ["10.0.0.0/8", "2001:db8::/32"]
    assert shown.pop("spent") == {"budget_per_month": "0.00"}
    assert llmaas.good("keys", "list", "--json").json == [shown]
    text = llmaas.good("keys", "show", kid).out
    assert "budget_per_month" in text
    assert "5.00" in text
    assert "{" not in text
    assert llmaas("keys", "show", "nobody").errors == ["There is no key `nobody`."]


@pytest.mark.parametrize(("period", "field"), [("total", "budget_total"), ("day", "budget_per_day")])
def test_a_budget_has_a_period(llmaas: Cli, period: str, field: str) -> None:
    kid = make(llmaas, "--budget", "0.000000001", "--budget-period", period)
    assert llmaas.good("keys", "show", kid, "--json").json["limits"] == {field: "0.000000001"}


def test_what_is_not_named_stays(llmaas: Cli) -> None:
    kid = make(llmaas, *OPTIONS, "--expires", "30d")
    before = llmaas.good("keys", "show", kid, "--json").json
    del before["spent"]
    changed = llmaas.good("keys", "change", kid, "--name", "new", "--requests-per-minute", "5", "--json").json
    assert changed == {**before, "name": "new", "limits": {**LIMITS, "requests_per_minute": 5}}
    lifted = llmaas.good(
        *("keys", "change", kid, "--no-limit", "budget-month", "--no-limit", "network", "--expires", "never", "--json"),
        *("--budget", "1", "--budget-period", "day"),
    ).json
    assert "budget_per_month" not in lifted["limits"]
    assert (lifted["limits"]["budget_per_day"], lifted["networks"], lifted["expires"]) == ("1.00", [], None)
    assert llmaas.good("keys", "show", kid, "--json").json == {**lifted, "spent": {"budget_per_day": "0.00"}}
    assert llmaas("keys", "change", "nobody", "--name", "x").code == 1


def test_a_successor_has_the_limits(llmaas: Cli) -> None:
    kid = make(llmaas, *OPTIONS)
    new = llmaas.good("keys", "rotate", kid, "--json").json["id"]
    shown = llmaas.good("keys", "show", new, "--json").json
    assert (shown["limits"], shown["networks"]) == (LIMITS, ["10.0.0.0/8", "2001:db8::/32"])


@pytest.mark.parametrize(
    "options",
    [
        ("--requests-per-minute", "0"),
        ("--requests-per-minute", "1.5"),
        ("--tokens-per-minute", "-1"),
        ("--budget", "-1"),
        ("--budget", "1e3"),
        ("--budget", "1.0000000001"),
        ("--budget", "5", "--budget-period", "year"),
        ("--network", "10.0.0.5/8"),
        ("--network", "office"),
    ],
)
def test_wrong_limits_make_no_key(llmaas: Cli, options: tuple[str, ...]) -> None:
    assert llmaas("keys", "create", "--name", "k", *options).code == 2
    assert llmaas.good("keys", "list", "--json").json == []


def test_an_unknown_limit_is_not_lifted(llmaas: Cli) -> None:
    ran = llmaas("keys", "change", make(llmaas), "--no-limit", "budget")
    assert ran.code == 2
    assert "budget-total" in ran.err


def test_who_did_it_is_in_the_log(llmaas: Cli) -> None:
    kid = make(llmaas, "--budget", "5")
    llmaas.good("keys", "change", kid, "--budget", "6")
    changed, made = llmaas.good("audit", "list", "--subject", kid, "--json").json
    assert (made["action"], changed["action"], changed["by"]["kind"]) == ("key.create", "key.change", "cli")
    assert (changed["before"]["limits"], changed["after"]["limits"]) == (
        {"budget_total": "5.00"},
        {"budget_total": "6.00"},
    )


def test_what_is_spent_of_its_budgets_is_shown_with_a_key(llmaas: Cli) -> None:
    kid = llmaas.good("keys", "create", "--name", "k", "--budget", "5.00", "--json").json["id"]
    with sqlite3.connect(llmaas.data_dir / "llmaas.db") as database:
        database.execute("INSERT INTO budgets (id) VALUES (?)", (f"key:{kid}:total",))
        database.execute("INSERT INTO budget_shares VALUES (?, '', 1250000000, 0, 0)", (f"key:{kid}:total",))
    database.close()
    shown = llmaas.good("keys", "show", kid, "--json").json
    assert (shown["limits"], shown["spent"]) == ({"budget_total": "5.00"}, {"budget_total": "1.25"})
    assert "5.00, 1.25 spent, 3.75 left" in llmaas.good("keys", "show", kid).out
