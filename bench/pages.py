"""Server time of every page of the console over a ledger of many rows: python -m bench.pages [--rows 10000000] [--data DIR]

The demo's installation, with that many rows more in the last 31 days: half of them its project's (four keys, 5,000 end users, four
models on three machines), the others of 19 projects with 190 keys. Pages are fetched one after the other from a gateway of one
worker. Each figure is the best and the worst of five, in ms, from the request to the last byte. With --data the installation is
made once and kept there.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import sqlalchemy as sa

from bench.ledger_size import insert_rows
from llmaas.storage.rollups import DAY_MS, HOUR_MS
from llmaas.storage.tables import keys
from tests.console.demo import PASSWORD, PROJECT, fill
from tests.console.places import SPOTS
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess

_DAYS = 31
_END_USERS = 5_000
_ACTIVE = 800
"""Of them on a day."""
_USAGE = f"/projects/{PROJECT}/usage"
_MORE = (
    *(f"{_USAGE}?by={by}&measure=cost" for by in ("model", "key", "member", "end-user", "token-class", "outcome")),
    f"{_USAGE}?by=key&from=LONG_AGO&to=TODAY",
    f"{_USAGE}?by=end-user&from=LONG_AGO&to=TODAY",
    f"{_USAGE}?end_user=u-123",
    f"{_USAGE}/requests?model=bge-m3",
    f"{_USAGE}/requests?outcome=engine_failed",
    f"{_USAGE}/requests?end_user=u-123",
    f"{_USAGE}/requests?key=KEY&outcome=client_aborted",
)


async def make(process: GatewayProcess, url: str, rows: int) -> None:
    installation = await process.installation()
    await fill(installation, process.data_dir, url)
    now_ms = installation.clock.now_ms()
    first_ms = now_ms - _DAYS * DAY_MS
    async with installation.database.connect() as connection:
        query = sa.select(keys.c.id).where(keys.c.project_id == PROJECT).order_by(keys.c.id)
        ids = (await connection.execute(query)).scalars().all()
    mine = " ".join(f"WHEN {n} THEN '{key}'" for n, key in enumerate(ids))
    values = {
        "project_id": f"CASE WHEN n % 2 = 0 THEN '{PROJECT}' ELSE 'p' || (n / 2 % 19) END",
        "key_id": f"CASE WHEN n % 2 = 1 THEN 'k' || (n / 2 % 190) ELSE (CASE n / 2 % {len(ids)} {mine} END) END",
        "end_user": f"'u-' || ((n / 3 % {_ACTIVE} + n * {_DAYS} / {rows} * 137) % {_END_USERS})",
        "model_id": "CASE n / 11 % 4 WHEN 0 THEN 'qwen2.5-coder:1.5b' WHEN 1 THEN 'mistral-small:24b' WHEN 2 THEN 'bge-m3'"
        " ELSE 'granite3.3:8b' END",
        "backend_id": "CASE n / 11 % 4 WHEN 0 THEN 'ma02' WHEN 1 THEN 'cloud' WHEN 2 THEN 'ma01'"
        " ELSE 'ma0' || (1 + n / 5 % 2) END",
        "started_ms": f"{first_ms} + n * {_DAYS * DAY_MS} / {rows}",
    }
    began = time.perf_counter()
    await insert_rows(installation.database, rows, values)
    await installation.rollups.rebuild(first_ms, now_ms - HOUR_MS)
    while await installation.end_users.make(now_ms):
        pass
    print(f"{rows} rows and their rollups in {time.perf_counter() - began:.0f} s", flush=True)


async def measure(process: GatewayProcess) -> None:
    clients: dict[str, httpx.AsyncClient] = {}
    installation = await process.installation()
    now_ms = installation.clock.now_ms()
    key = (await installation.keys.page(PROJECT, after=None, limit=1))[0].id
    said = {"TODAY": _day(now_ms), "LONG_AGO": _day(now_ms - 360 * DAY_MS), "KEY": key}
    asked = [(spot.path, spot.reader) for spot in SPOTS] + [(path, "owner") for path in _MORE]
    slowest = 0.0
    for path, reader in asked:
        address = path
        for name, value in said.items():
            address = address.replace(name, value)
        client = clients.get(reader) or await _signed_in(process.url, reader)
        clients[reader] = client
        times, size = [], 0
        for _ in range(5):
            began = time.perf_counter()
            answer = await client.get(address)
            times.append((time.perf_counter() - began) * 1000)
            size = len(answer.content)
        slowest = max(slowest, min(times))
        print(f"{path:70} {answer.status_code} {size / 1024:6.0f} KiB {min(times):8.1f} {max(times):8.1f}", flush=True)
    print(f"slowest page: {slowest:.1f} ms")
    for client in clients.values():
        await client.aclose()


async def _signed_in(url: str, reader: str) -> httpx.AsyncClient:
    client = httpx.AsyncClient(base_url=url, timeout=120)
    if reader:
        given = {"email": f"{reader}@example.org", "password": PASSWORD}
        (await client.post("/api/v1/sign-in", json=given, headers={"origin": url})).raise_for_status()
    return client


def _day(ms: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(ms / 1000))


async def run(folder: Path, rows: int) -> None:
    async with FakeUpstream() as upstream:
        process = GatewayProcess(folder)
        try:
            if not (folder / "llmaas.db").exists():
                await make(process, upstream.base_url, rows)
            await process.start()
            await measure(process)
        finally:
            await process.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pages")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = given.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        asyncio.run(run(folder, given.rows))


if __name__ == "__main__":
    main()
