"""A worker process with one limit. Each line on its input is `REQUESTS`, made all at once; each line of its output is
how many were admitted. Usage: limited_worker.py URL WORKER_ID REQUESTS_PER_MINUTE WORKERS
"""

from __future__ import annotations

import asyncio
import sys

import structlog

from llmaas.clock import SystemClock
from llmaas.domain.limits import Limits
from llmaas.errors import RateLimited
from tests.state.worlds import NOTHING, ONE, caller, shared_limiter


async def main(url: str, worker: str, limit: int, workers: int) -> None:
    who = caller(Limits(requests_per_minute=limit, concurrent_requests=1000))
    async with shared_limiter(url, worker, SystemClock(), workers=workers) as limiter:

        async def request() -> bool:
            try:
                hold = await limiter.hold(who, None, ONE)
            except RateLimited:
                return False
            await asyncio.sleep(0)
            hold.settle(NOTHING)
            return True

        while line := await asyncio.to_thread(sys.stdin.readline):
            admitted = sum(await asyncio.gather(*(request() for _ in range(int(line)))))
            print(admitted, flush=True)


structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
