"""Reading the ledger: the sums are those of the rows, and each kind of bad row is found."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from llmaas.clock import iso
from llmaas.domain.prices import NANO, Price
from llmaas.domain.usage import Cursor, Grouping, UsageFilter, UsageRow, UsageSum
from llmaas.storage.database import Database
from llmaas.storage.end_users import SqlEndUsers
from llmaas.storage.rollups import SqlRollups
from llmaas.storage.tables import keys, prices, projects
from llmaas.storage.usage import SqlUsageReader, row_faults
from tests.storage.recording import keep
from tests.storage.rows import row

PRICE = Price(7, "m", 0, input=2 * NANO, cached_input=NANO, output=8 * NANO, reasoning=4 * NANO, request=11)
PRICES = {7: PRICE}
# 3 input and 5 output tokens: 3 × 2000 + 5 × 8000 nano-units, and 11 for the request.
GOOD = row(price_version=7, cost_nano=46_011)


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
    await keep(database, [msgspec.structs.replace(GOOD, id="good"), bad])
    found = [fault async for fault in SqlUsageReader(database).faults(PRICES)]
    assert found
    assert all(fault.startswith(f"{bad.id}: ") for fault in found)


BASE_MS = 1_780_012_800_000  # 2026-05-29T00:00Z
HOUR, DAY = 3_600_000, 86_400_000


def mixed(count: int, seed: int) -> list[UsageRow]:
    """Rows of five days, many of them at the very edges of hours and days."""
    dice = random.Random(seed)
    return [
        row(
            id=f"chatcmpl-{seed}-{n}",
            started_ms=BASE_MS + dice.randrange(5) * DAY + dice.randrange(24) * HOUR + dice.choice(EDGES),
            project_id=dice.choice(("lab", "shop")),
            key_id=dice.choice(("k1", "k2", "k3")),
            model_id=dice.choice(("granite", "apertus")),
            backend_id=dice.choice(("b1", None)),
            outcome=dice.choice(("completed", "engine_failed")),
            tier_id=dice.choice(("gold", None)),
            end_user=dice.choice(("ann", "bob", None)),
            price_version=dice.choice((7, None)),
            ttft_ms=dice.choice((10, None)),
            cost_nano=2**40 + dice.randrange(1000),
            input_tokens=dice.randrange(10_000),
            energy_uwh=dice.randrange(1000),
            documents=dice.randrange(5),
        )
        for n in range(count)
    ]


EDGES = (0, 1, HOUR - 1, HOUR // 2)
SPANS = [
    (None, None),
    (BASE_MS, BASE_MS + 5 * DAY),
    (BASE_MS + 1, BASE_MS + 5 * DAY - 1),
    (BASE_MS + HOUR // 2, BASE_MS + 3 * DAY + HOUR),
    (BASE_MS + DAY, None),
    (None, BASE_MS + 2 * DAY + 7 * HOUR + 5),
    (BASE_MS + DAY + 3 * HOUR, BASE_MS + DAY + 9 * HOUR),
    (BASE_MS + DAY + 3 * HOUR + 1, BASE_MS + DAY + 3 * HOUR + 9),
    (BASE_MS + DAY - 1, BASE_MS + DAY + 1),
    (BASE_MS + DAY, BASE_MS + DAY),
    (BASE_MS - 28 * DAY, BASE_MS + 3 * DAY),
    (BASE_MS - 28 * DAY, BASE_MS + 33 * DAY),
    (BASE_MS - 60 * DAY + 1, BASE_MS + 4 * DAY + HOUR + 1),
    (None, BASE_MS + 3 * DAY),
    (-62_135_596_800_000, 253_402_300_799_999),  # the years 1 to 9999
    (253_402_300_799_999, None),
]
GROUPINGS: list[list[Grouping]] = [
    [],
    [Grouping.MODEL],
    [Grouping.MONTH],
    [Grouping.DAY, Grouping.KEY],
    [Grouping.HOUR],
    [Grouping.MONTH, Grouping.BACKEND, Grouping.OUTCOME],
    [Grouping.END_USER],
    [Grouping.END_USER, Grouping.PROJECT],
    [Grouping.DAY, Grouping.END_USER],
    [Grouping.END_USER, Grouping.MONTH],
    [Grouping.END_USER, Grouping.HOUR],
    [Grouping.END_USER, Grouping.KEY],
    [Grouping.TIER],
]
ATTRIBUTE: dict[Grouping, Callable[[UsageRow], str | None]] = {
    Grouping.MODEL: lambda r: r.model_id,
    Grouping.KEY: lambda r: r.key_id,
    Grouping.BACKEND: lambda r: r.backend_id,
    Grouping.OUTCOME: lambda r: r.outcome,
    Grouping.PROJECT: lambda r: r.project_id,
    Grouping.END_USER: lambda r: r.end_user or None,
    Grouping.TIER: lambda r: r.tier_id,
    Grouping.DAY: lambda r: iso(r.started_ms)[:10],
    Grouping.HOUR: lambda r: iso(r.started_ms)[:13] + ":00Z",
    Grouping.MONTH: lambda r: iso(r.started_ms)[:7],
}


def counted(rows: Sequence[UsageRow], where: UsageFilter, by: Sequence[Grouping]) -> list[UsageSum]:
    """The same sums, counted one row at a time."""
    groups: dict[tuple[str | None, ...], list[UsageRow]] = {}
    for one in rows:
        if where.from_ms is not None and one.started_ms < where.from_ms:
            continue
        if where.to_ms is not None and one.started_ms >= where.to_ms:
            continue
        wanted = {name: getattr(where, name) for name in ("project_id", "key_id", "model_id", "end_user")}
        if all(value is None or getattr(one, name) == value for name, value in wanted.items()):
            groups.setdefault(tuple(ATTRIBUTE[name](one) for name in by), []).append(one)
    return [
        UsageSum(
            group=group,
            currency="EUR",
            requests=len(mine),
            ttft_ms=sum(one.ttft_ms or 0 for one in mine),
            ttft_requests=sum(one.ttft_ms is not None for one in mine),
            unpriced_requests=sum(
                one.price_version is None and one.outcome in {"completed", "client_aborted"} for one in mine
            ),
            **{name: sum(getattr(one, name) for one in mine) for name in NUMBERS},
        )
        for group, mine in groups.items()
    ]


NUMBERS = (
    *("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens"),
    *("cost_nano", "documents", "energy_uwh", "duration_ms"),
)


def by_group(sums: Sequence[UsageSum]) -> list[UsageSum]:
    return sorted(sums, key=lambda total: [(value is not None, value or "") for value in total.group])


async def test_sums_of_any_span_are_those_of_the_rows(database: Database) -> None:
    """Some hours folded into days, some twice over because rows came late, some not yet."""
    reader, rollups, end_users = SqlUsageReader(database), SqlRollups(database), SqlEndUsers(database)
    first, second, third = mixed(400, 1), mixed(100, 2), mixed(100, 3)
    await keep(database, first, shard=0)
    await rollups.fold(BASE_MS + 3 * DAY)
    assert await end_users.make(BASE_MS + 3 * DAY) > 2
    await keep(database, second, shard=1)
    await rollups.fold(BASE_MS + 2 * DAY)
    assert await end_users.make(BASE_MS + 2 * DAY)
    await keep(database, third, shard=3)
    await end_users.make(BASE_MS + 3 * DAY)
    await keep(database, mixed_day := [row(id="z", project_id="lab", end_user="", started_ms=BASE_MS - 9 * DAY)])
    await rollups.fold(BASE_MS - 8 * DAY)
    assert await end_users.make(BASE_MS + 3 * DAY)
    rows = [*first, *second, *third, *mixed_day]
    filters: list[dict[str, Any]] = [
        {},
        {"project_id": "lab"},
        {"key_id": "k2", "model_id": "granite"},
        {"end_user": "ann"},
        {"end_user": "ann", "project_id": "lab"},
        {"end_user": "bob", "key_id": "k1"},
    ]
    for at, ((start, end), by) in enumerate(itertools.product(SPANS, GROUPINGS)):
        also = filters[at % len(filters)]  # 13 groupings: each comes with each filter
        where = UsageFilter(from_ms=start, to_ms=end, **also)
        assert await reader.sums(where, by) == by_group(counted(rows, where, by)), (where, by)
    assert [fault async for fault in rollups.faults()] == []
    assert [fault async for fault in end_users.faults()] == []


async def test_a_month_is_one_sum(database: Database) -> None:
    await keep(database, [row(id=f"a{n}", started_ms=BASE_MS + n * DAY) for n in range(5)])
    sums = await SqlUsageReader(database).sums(UsageFilter(), [Grouping.MONTH])
    assert [(total.group, total.requests) for total in sums] == [(("2026-05",), 3), (("2026-06",), 2)]


async def test_a_members_sums_are_those_of_the_keys_that_it_owns(database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(sa.insert(projects), [{"id": "default", "name": "D", "created_ms": 1}])
        plain = {"project_id": "default", "name": "k", "secret_hash": b"x", "created_ms": 1}
        owned = [("k1", "user-1"), ("k2", "user-1"), ("k3", None)]
        await connection.execute(
            sa.insert(keys),
            [{**plain, "id": k, "owner_id": o, "allowed_models": [], "permissions": []} for k, o in owned],
        )
    await keep(database, [row(id=f"a{n}", key_id=k) for n, k in enumerate(("k1", "k2", "k3", "gone"))])
    reader = SqlUsageReader(database)
    sums = await reader.sums(UsageFilter(), [Grouping.MEMBER])
    assert [(total.group, total.requests) for total in sums] == [((None,), 2), (("user-1",), 2)]
    (mine,) = await reader.sums(UsageFilter(member_id="user-1"), [])
    assert mine.requests == 2


async def test_classes_of_tokens_add_up_to_the_bill(database: Database) -> None:
    async with database.begin() as connection:
        values = {name: getattr(PRICE, name) for name in Price.__dataclass_fields__}
        await connection.execute(sa.insert(prices), [{**values, "documents": 0}])
    free = row(id="c", price_version=7, outcome="engine_failed", billing_reason="failed_after_output", input_tokens=99)
    await keep(database, [GOOD, msgspec.structs.replace(GOOD, id="b"), free, row(id="d")])
    sums = await SqlUsageReader(database).class_sums(UsageFilter(), [Grouping.PROJECT])
    assert [(s.token_class, s.tokens, s.cost_nano) for s in sums] == [
        ("input", 3 * 3 + 99, 2 * 3 * 2000),
        ("cached_input", 0, 0),
        ("output", 20, 2 * 5 * 8000),
        ("reasoning", 0, 0),
        ("other", 0, 22),
    ]
    assert sum(s.cost_nano for s in sums) == 2 * GOOD.cost_nano
    assert {s.requests for s in sums} == {4}
    assert {s.unpriced_requests for s in sums} == {1}


async def test_rows_come_newest_first_as_they_were_put(database: Database) -> None:
    made = [msgspec.structs.replace(GOOD, id=f"a{n}", started_ms=n, streamed=bool(n % 2)) for n in range(5)]
    await keep(database, made)
    assert [one async for one in SqlUsageReader(database).rows(UsageFilter())] == made[::-1]
    assert [one async for one in SqlUsageReader(database).rows(UsageFilter(), limit=2)] == made[:2:-1]


async def test_pages_join_without_gap_or_repeat(database: Database) -> None:
    made = [row(id=f"a{n:03}", started_ms=n // 7) for n in range(50)]
    await keep(database, made)
    reader = SqlUsageReader(database)
    seen: list[UsageRow] = []
    cursor: Cursor | None = None
    while page := await reader.page(UsageFilter(), limit=4, after=cursor):
        seen += page
        cursor = Cursor.parse(str(Cursor.after(page[-1])))
    assert seen == sorted(made, key=lambda one: (one.started_ms, one.id), reverse=True)


async def test_more_rows_than_a_page_are_streamed(database: Database) -> None:
    made = [row(id=f"a{n:05}", started_ms=n // 3) for n in range(2_500)]
    await keep(database, made)
    reader = SqlUsageReader(database)
    assert [one.id async for one in reader.rows(UsageFilter())] == [one.id for one in reversed(made)]
    assert len([one async for one in reader.rows(UsageFilter(), limit=1_700)]) == 1_700


async def test_rows_are_found_by_what_is_on_them(database: Database) -> None:
    made = [
        row(id="a", end_user="ann", outcome="completed"),
        row(id="b", end_user="bob", backend_id="b2", model_id="granite"),
        row(id="c", key_id="other"),
    ]
    await keep(database, made)
    reader = SqlUsageReader(database)
    for where, expected in (
        (UsageFilter(end_user="ann"), ["a"]),
        (UsageFilter(backend_id="b2"), ["b"]),
        (UsageFilter(id="c"), ["c"]),
        (UsageFilter(id="c", project_id="another"), []),
        (UsageFilter(key_id="other", model_id="m"), ["c"]),
    ):
        assert [one.id async for one in reader.rows(where)] == expected, where


@pytest.mark.parametrize("text", ["", ":", "5", "5:", "-1:a", "x:a", "٣:a", f"{10**15}:a"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        Cursor.parse(text)
