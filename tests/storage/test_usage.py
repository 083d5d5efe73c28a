"""Reading the ledger: the sums are those of the rows, and each kind of bad row is found."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmaas.domain.prices import NANO, Price
from llmaas.domain.usage import COLUMNS, Grouping, UsageFilter, UsageRow
from llmaas.storage.database import Database, prepare
from llmaas.storage.usage import SqlUsageReader, row_faults
from tests.storage.rows import row

PRICE = Price(7, "m", 0, input=2 * NANO, cached_input=NANO, output=8 * NANO, reasoning=4 * NANO, request=11)
PRICES = {7: PRICE}
# 3 input and 5 output tokens: 3 × 2000 + 5 × 8000 nano-units, and 11 for the request.
GOOD = row(price_version=7, cost_nano=46_011)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    prepare(tmp_path / "llmaas.db")
    database = Database(tmp_path / "llmaas.db")
    yield database
    await database.close()


def put(database: Database, rows: list[UsageRow]) -> None:
    statement = f"INSERT INTO usage ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
    with sqlite3.connect(database.path) as connection:
        connection.executemany(statement, [msgspec.structs.astuple(r) for r in rows])
    connection.close()


def test_a_good_row_has_no_fault() -> None:
    assert row_faults(GOOD, PRICES) == []
    assert row_faults(row(), {}) == []
    assert (
        row_faults(msgspec.structs.replace(GOOD, outcome="client_aborted", billing_reason="read_to_end"), PRICES) == []
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"outcome": "lost"}, "outcome is 'lost'"),
        ({"billing_reason": "why not"}, "billing_reason is"),
        ({"usage_source": ""}, "usage_source is"),
        ({"reasoning_tokens": -1}, "negative"),
        ({"duration_ms": -1}, "times contradict"),
        ({"ttft_ms": 21}, "times contradict"),
        ({"attempts": 0}, "without an attempt"),
        ({"price_version": 8}, "price version 8 does not exist"),
        ({"cost_nano": 46_012}, "costs 46012"),
        ({"output_tokens": 6}, "make 54011"),
        ({"billing_reason": "refused"}, "make 0"),
        ({"price_version": None}, "make 0"),
    ],
)
async def test_each_kind_of_bad_row_is_found(database: Database, change: dict[str, Any], says: str) -> None:
    bad = msgspec.structs.replace(GOOD, **change)
    assert any(says in fault for fault in row_faults(bad, PRICES)), row_faults(bad, PRICES)
    put(database, [msgspec.structs.replace(GOOD, id="good"), bad])
    found = [fault async for fault in SqlUsageReader(database).faults(PRICES)]
    assert found
    assert all(fault.startswith(f"{bad.id}: ") for fault in found)


async def test_sums_are_those_of_the_rows(database: Database) -> None:
    made = [
        row(id=f"a{n}", model_id=f"m{n % 2}", project_id=f"p{n % 3}", started_ms=n, input_tokens=n, cost_nano=2**40 + n)
        for n in range(30)
    ]
    put(database, made)
    reader = SqlUsageReader(database)
    sums = await reader.sums(UsageFilter(project_id="p1", from_ms=4, to_ms=20), [Grouping.MODEL])
    chosen = [one for one in made if one.project_id == "p1" and 4 <= one.started_ms < 20]
    for total in sums:
        mine = [one for one in chosen if (one.model_id,) == total.group]
        assert total.requests == len(mine)
        assert total.input_tokens == sum(one.input_tokens for one in mine)
        assert total.cost_nano == sum(one.cost_nano for one in mine)
    assert sum(total.requests for total in sums) == len(chosen)


async def test_rows_come_newest_first_as_they_were_put(database: Database) -> None:
    made = [msgspec.structs.replace(GOOD, id=f"a{n}", started_ms=n, streamed=bool(n % 2)) for n in range(5)]
    put(database, made)
    assert [one async for one in SqlUsageReader(database).rows(UsageFilter())] == made[::-1]
    assert [one async for one in SqlUsageReader(database).rows(UsageFilter(), limit=2)] == made[:2:-1]
