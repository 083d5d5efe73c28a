"""CPU of the gateway for a plain request, a burst stream and an event of a paced stream, beside the floor in the same run.

usage: scripts/bench [--rig DIR] [--seconds N]
Needs `wrk` and two cores: the gateway on core 1, load and mock upstreams on core 0. `--rig` is the folder of the measuring tool
(`cost.py`, `mock_upstream.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from llmaas import settings
from llmaas.domain.fleet import Fleet
from llmaas.domain.models import Backend, Deployment, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.prices import NANO, Price
from llmaas.engine.probe import free_port
from llmaas.installation import Installation

ROOT = Path(__file__).parents[1]
KINDS = ("plain_us", "burst_us", "paced_event_us")


@contextmanager
def running(command: Sequence[str], core: int, environment: dict[str, str]) -> Iterator[int]:
    """A program pinned to a core; its process id."""
    process = subprocess.Popen(["taskset", "-c", str(core), *command], env=environment, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


async def prepare(data_dir: Path, burst_port: int, paced_port: int) -> str:
    """A data directory with two priced models on the mock upstreams; gives a key."""
    installation = await Installation(settings.load({"data_dir": str(data_dir)}, {}).settings).open()
    ports = {"burst": burst_port, "paced": paced_port}
    price: dict[str, Any] = {"input": 18 * NANO // 10, "output": 8 * NANO}
    await installation.catalogue.apply(
        Fleet(
            providers=(Provider("mock", ProviderKind.OPENAI),),
            backends=tuple(Backend(n, "mock", f"http://127.0.0.1:{p}/v1", n, "mock") for n, p in ports.items()),
            models=tuple(Model(n, ModelKind.CHAT, 0, price=Price(0, n, 0, **price)) for n in ports),
            deployments=tuple(Deployment(n, n, "m") for n in ports),
        ),
        now_ms=installation.clock.now_ms(),
        prune=True,
    )
    token, _ = await installation.create_key(project_id="default", name="bench")
    await installation.close()
    return token


def measure(rig: Path, name: str, pid: int, port: int, key: str, *, paced: bool, seconds: int) -> dict[str, Any]:
    command = [
        sys.executable,
        str(rig / "cost.py"),
        "--name",
        name,
        "--pid",
        str(pid),
        "--key",
        key,
        "--model",
        "burst",
    ]
    command += ["--url", f"http://127.0.0.1:{port}/v1/chat/completions", "--seconds", str(seconds)]
    if paced:
        command += ["--paced-model", "paced"]
    done = subprocess.run(["taskset", "-c", "0", *command], capture_output=True, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("--rig", type=Path, default=ROOT.parent / "shared" / "rig")
    parser.add_argument("--seconds", type=int, default=6)
    given = parser.parse_args()
    burst, paced, floor, floor_paced, port = (free_port() for _ in range(5))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data_dir = Path(folder) / "data"
        key = asyncio.run(prepare(data_dir, burst, paced))
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LLMAAS_DATA_DIR": str(data_dir),
            "LLMAAS_PORT": str(port),
        }
        mock = [sys.executable, str(given.rig / "mock_upstream.py")]
        stack.enter_context(running([*mock, str(burst)], 0, environment))
        stack.enter_context(running([*mock, str(paced), "50", "0.02"], 0, environment))
        floor_pid = stack.enter_context(
            running([sys.executable, "-m", "bench.floor", str(floor), str(burst)], 1, environment)
        )
        paced_pid = stack.enter_context(
            running([sys.executable, "-m", "bench.floor", str(floor_paced), str(paced)], 1, environment)
        )
        gateway = stack.enter_context(running([sys.executable, "-P", "-m", "llmaas", "gateway"], 1, environment))
        for open_port in (burst, paced, floor, floor_paced, port):
            wait_for(open_port)
        base = measure(given.rig, "floor", floor_pid, floor, key, paced=False, seconds=given.seconds)
        base |= {
            name: value
            for name, value in measure(
                given.rig, "floor", paced_pid, floor_paced, key, paced=True, seconds=given.seconds
            ).items()
            if name.startswith("paced")
        }
        row = measure(given.rig, "llmaas", gateway, port, key, paced=True, seconds=given.seconds)
    print(json.dumps(base))
    print(json.dumps(row))
    print(json.dumps({f"{kind} of floor": round(row[kind] / base[kind], 2) for kind in KINDS}))


def wait_for(port: int) -> None:
    end_s = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    main()
