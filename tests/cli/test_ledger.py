"""`ledger check` and `ledger correct`."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.cli.ledgers import record, spool, usage_row
from tests.cli.running import Cli

PRICED = """
[[providers]]
id = "lab"
kind = "vllm"
[[backends]]
id = "b1"
provider = "lab"
base_url = "http://127.0.0.1:9/v1"
[[models]]
id = "granite"
kind = "chat"
price = { input = "1.00", output = "2.00" }
[[deployments]]
model = "granite"
backend = "b1"
"""
COST = (10 + 2 * 100) * 1000


@pytest.fixture
def priced(llmaas: Cli, tmp_path: Path) -> Cli:
    """Five requests at a price of their model."""
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(PRICED)
    llmaas.good("apply", str(fleet))
    row = {
        "price_version": 1,
        "cached_input_tokens": 0,
        "reasoning_tokens": 0,
        "cost_nano": COST,
        "hold_nano": 2 * COST,
    }
    record(llmaas.data_dir, [usage_row(n, **row) for n in range(5)])
    return llmaas


def change(llmaas: Cli, statement: str) -> None:
    with sqlite3.connect(llmaas.data_dir / "llmaas.db") as connection:
        connection.execute(statement)
    connection.close()


def test_a_clean_ledger_is_ok(priced: Cli) -> None:
    assert priced.good("ledger", "check").out == "ok\n"


def test_each_fault_has_its_line(priced: Cli) -> None:
    change(priced, "UPDATE budget_shares SET spent_nano = spent_nano + 1 WHERE budget_id = 'key:k1:2026-05'")
    change(priced, f"UPDATE usage SET hold_nano = 7 WHERE id = '{usage_row(2).id}'")
    ran = priced("ledger", "check")
    assert ran.code == 1
    assert ran.out.splitlines() == [
        f"{usage_row(2).id}: it costs {COST}, 7 was held for it",
        "budget key:k1:2026-05: its shares differ from what the rows cost by 1",
    ]


def test_rows_in_the_spool_are_mentioned(priced: Cli) -> None:
    spool(priced.data_dir, [usage_row(9)])
    ran = priced.good("ledger", "check")
    assert (ran.out, "1 rows wait in the spool" in ran.err) == ("ok\n", True)


def test_B11_a_correction_changes_what_a_request_costs(priced: Cli) -> None:
    row = usage_row(3).id
    said = priced.good("ledger", "correct", row, "--cost", "0.0001", "--note", "ticket 12").out
    assert said.startswith(f"corrected {row} by -0.00011 EUR: correction-")
    assert priced.good("ledger", "check").out == "ok\n"
    spent = priced.good("projects", "credit", "default", "--json").json["spent"]
    assert spent == "0.00094"
    assert any("ticket 12" in line for line in priced.good("audit", "list", "--json").out.splitlines())
    assert priced("ledger", "correct", row, "--cost", "0.0001", "--note", "again").code == 1
    assert priced("ledger", "correct", "no-row", "--cost", "1", "--note", "x").errors == [
        "There is no usage row `no-row`."
    ]
    assert priced("ledger", "correct", row, "--cost", "-1", "--note", "x").code == 2
