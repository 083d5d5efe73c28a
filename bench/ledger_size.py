"""How long a month's views take over a ledger of many rows: python -m bench.ledger_size [--rows 10000000] [--only sqlite]

Fills a fresh database with a month of rows (20 projects, 100 keys, 6 models, 12 backends), makes the rollups from them,
and times what the console and `llmaas usage` ask. Each figure is the best and the worst of five, in ms.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import sqlalchemy as sa

from llmaas.domain.usage import COLUMNS, Cursor, Grouping, UsageFilter
from llmaas.storage.database import Database, prepare
from llmaas.storage.rollups import DAY_MS, SqlRollups
from llmaas.storage.tables import usage
from llmaas.storage.usage import SqlUsageReader
from tests.postgres import PostgresServer

MONTH_MS = 1_777_593_600_000  # 2026-05-01T00:00Z
DAYS = 31
_VALUES = {
    "request_id": "'r'",
    "project_id": "'p' || (n % 20)",
    "key_id": "'k' || (n % 100)",
    "end_user": "'u' || (n % 5003)",
    "endpoint": "'chat'",
    "streamed": "n % 2 = 0",
    "duration_ms": "900 + n % 97",
    "ttft_ms": "100 + n % 89",
    "model_id": "'m' || (n / 7 % 6)",
    "requested_model": "'m'",
    "provider_id": "'lab'",
    "backend_id": "'b' || (n / 7 % 12)",
    "engine_type": "'vllm'",
    "machine_name": "'ma01'",
    "routing_reason": "'only'",
    "attempts": "1",
    "catalogue_revision": "1",
    "outcome": "CASE WHEN n % 31 = 0 THEN 'client_aborted' WHEN n % 101 = 0 THEN 'engine_failed' ELSE 'completed' END",
    "finish_reason": "'stop'",
    "input_tokens": "500 + n % 1009",
    "cached_input_tokens": "n % 211",
    "output_tokens": "100 + n % 307",
    "reasoning_tokens": "n % 53",
    "usage_source": "'engine'",
    "usage_suspect": "n < 0",
    "billing_reason": "'answered'",
    "price_version": "1",
    "currency": "'EUR'",
    "cost_nano": "1000000 + n % 4099",
    "documents": "0",
    "energy_uwh": "40 + n % 13",
}


async def insert_rows(database: Database, rows: int, changes: Mapping[str, str]) -> None:
    """Usage rows, but not their rollups. `changes`: columns that are not as in _VALUES, in SQL over `n`, the row's number."""
    postgres = database.file is None
    number = "to_hex(n)" if postgres else "printf('%x', n)"
    values = {**_VALUES, "id": f"'chatcmpl-' || {number}", **changes}
    columns = [name for name in COLUMNS if name in values]
    series = (
        f"generate_series(0, CAST({rows} - 1 AS bigint)) AS s(n)"
        if postgres
        else f"(WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < {rows} - 1) SELECT n FROM s)"
    )
    async with database.begin(long=True) as connection:
        for index in usage.indexes:
            await connection.execute(sa.schema.DropIndex(index))
        chosen = ", ".join(values[name] for name in columns)
        await connection.exec_driver_sql(f"INSERT INTO usage ({', '.join(columns)}) SELECT {chosen} FROM {series}")
        for index in usage.indexes:
            await connection.execute(sa.schema.CreateIndex(index))


async def views(database: Database) -> None:
    reader = SqlUsageReader(database)
    month = UsageFilter(from_ms=MONTH_MS, to_ms=MONTH_MS + DAYS * DAY_MS)
    of_one = dataclasses.replace(month, project_id="p3")
    ragged = UsageFilter(from_ms=MONTH_MS + 1_234_567, to_ms=MONTH_MS + DAYS * DAY_MS - 7_654_321)
    place = Cursor(MONTH_MS + 9 * DAY_MS, "z")
    asked: dict[str, Callable[[], Awaitable[object]]] = {
        "month, all, by model": lambda: reader.sums(month, [Grouping.MODEL]),
        "month, all, by day": lambda: reader.sums(month, [Grouping.DAY]),
        "month, all, by project and key": lambda: reader.sums(month, [Grouping.PROJECT, Grouping.KEY]),
        "month, all, by class": lambda: reader.class_sums(month, []),
        "month, one project, by key": lambda: reader.sums(of_one, [Grouping.KEY]),
        "month, one project, by day and model": lambda: reader.sums(of_one, [Grouping.DAY, Grouping.MODEL]),
        "month, one project, by hour": lambda: reader.sums(of_one, [Grouping.HOUR]),
        "month with ragged ends, all, by model": lambda: reader.sums(ragged, [Grouping.MODEL]),
        "everything, by month": lambda: reader.sums(UsageFilter(), [Grouping.MONTH]),
        "a page of 50 rows": lambda: reader.page(UsageFilter(), limit=50, after=place),
        "a page of 50 rows of one project": lambda: reader.page(UsageFilter("p3"), limit=50, after=place),
    }
    for name, ask in asked.items():
        times = []
        for _ in range(5):
            began = time.perf_counter()
            await ask()
            times.append((time.perf_counter() - began) * 1000)
        print(f"  {name:40} {min(times):8.1f} {max(times):8.1f}", flush=True)


async def measure(place: str | Path, rows: int) -> None:
    prepare(place)
    database = Database(place)
    try:
        began = time.perf_counter()
        await insert_rows(database, rows, {"started_ms": f"{MONTH_MS} + n * {DAYS * DAY_MS} / {rows}"})
        filled = time.perf_counter()
        await SqlRollups(database).rebuild(MONTH_MS, MONTH_MS + DAYS * DAY_MS)
        print(f"  filled in {filled - began:.0f} s, rolled up in {time.perf_counter() - filled:.0f} s", flush=True)
        if database.file is None:
            async with database.begin(long=True) as connection:
                await connection.exec_driver_sql("ANALYZE")
        async with database.connect(long=True) as connection:
            for table in ("usage", "usage_hours", "usage_days", "usage_months"):
                count = (await connection.exec_driver_sql(f"SELECT count(*) FROM {table}")).scalar()
                print(f"  {table}: {count} rows")
        await views(database)
    finally:
        await database.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ledger_size")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    given = parser.parse_args()
    if given.only != "postgresql":
        with tempfile.TemporaryDirectory() as folder:
            print("sqlite", flush=True)
            asyncio.run(measure(Path(folder) / "llmaas.db", given.rows))
    if given.only != "sqlite":
        server = PostgresServer()
        try:
            server.start()
            print("postgresql", flush=True)
            asyncio.run(measure(server.url(), given.rows))
        finally:
            server.close()


if __name__ == "__main__":
    main()
