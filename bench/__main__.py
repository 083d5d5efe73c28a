"""CPU of the gateway for a plain request, a burst stream and an event of a paced stream, beside others in the same run.

usage: scripts/bench [--seconds N] [--rounds N] [--peer 'NAME=COMMAND'] …
Needs `wrk` and two cores: the gateway on core 1, load and engines (`bench/upstream.py`) on core 0. Beside it in any case: the least
relay on our own parts (`bench/floor.py`), and nginx as a proxy where it is on PATH. COMMAND starts another gateway, with `{port}` and
`{upstream}` for where it has to listen and to ask, and `{free}` for another free port:
    --peer 'vllm-router=vllm-router --port {port} --worker-urls http://127.0.0.1:{upstream} --prometheus-port {free}'
Name its policy with the figure: `--policy round_robin` costs that one half of what its own default does.
Machines differ by more than what is measured, and so does one machine from minute to minute: only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench.cost import load
from llmaas import settings
from llmaas.datadir import Installation
from llmaas.domain.fleet import Fleet
from llmaas.domain.models import Backend, Deployment, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.prices import NANO, Price
from llmaas.hosting.local.probe import free_port

ROOT = Path(__file__).parents[1]
KINDS = ("plain_us", "burst_us", "paced_event_us")
EVENTS = 50
_OTHER_EVENTS = 4
"""The first one, the end of the choice, the usage and `[DONE]`."""
GAP_S = 0.02


@contextmanager
def running(command: Sequence[str], core: int, environment: dict[str, str]) -> Iterator[int]:
    """A program pinned to a core; its process id."""
    pinned = ["taskset", "-c", str(core), *command]
    process = subprocess.Popen(pinned, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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


def measure(pid: int, port: int, key: str, kinds: Sequence[str], *, seconds: int) -> dict[str, float]:
    """Microseconds of CPU for each answer, or for each event of a paced stream, by kind."""
    row: dict[str, float] = {}
    for kind in kinds:
        paced = kind == "paced_event_us"
        done = load(
            pid,
            f"http://127.0.0.1:{port}/v1/chat/completions",
            key,
            "paced" if paced else "burst",
            stream=kind != "plain_us",
            connections=100 if paced else 32,
            seconds=seconds,
            core=0,
        )
        if done.refused or not done.answers:
            raise SystemExit(f"{kind}: {done.refused} of {done.answers} answers were refused")
        row[kind] = round(done.cpu_s / done.answers / (EVENTS + _OTHER_EVENTS if paced else 1) * 1e6, 1)
    return row


def peers(given: Sequence[str], folder: Path) -> dict[str, Callable[[int, int], list[str]]]:
    """By name, what starts it on a port for an upstream's port."""
    found: dict[str, Callable[[int, int], list[str]]] = {
        "floor": lambda port, upstream: [sys.executable, "-m", "bench.floor", str(port), str(upstream)]
    }
    if shutil.which("nginx"):
        found["nginx"] = lambda port, upstream: [
            "nginx",
            "-c",
            str(nginx_file(folder / f"nginx-{port}", port, upstream)),
        ]
    for peer in given:
        name, _, command = peer.partition("=")
        found[name] = partial(peer_command, command)
    return found


def peer_command(template: str, port: int, upstream: int) -> list[str]:
    return shlex.split(template.format(port=port, upstream=upstream, free=free_port()))


def nginx_file(folder: Path, port: int, upstream: int) -> Path:
    """The configuration of one that only passes on, on kept connections and without waiting for more to send."""
    folder.mkdir()
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    file = folder / "nginx.conf"
    file.write_text(
        f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors;
events {{ worker_connections 1024; }}
http {{
    access_log off; client_body_temp_path {folder}/body; {temporary}
    upstream engine {{ server 127.0.0.1:{upstream}; keepalive 256; }}
    server {{
        listen 127.0.0.1:{port}; keepalive_requests 100000000;
        location / {{
            proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
        }}
    }}
}}
"""
    )
    return file


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="in turn, so that all meet the same moods of the machine")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    given = parser.parse_args()
    burst, paced, port = (free_port() for _ in range(3))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data_dir = Path(folder) / "data"
        key = asyncio.run(prepare(data_dir, burst, paced))
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LLMAAS_DATA_DIR": str(data_dir),
            "LLMAAS_PORT": str(port),
        }

        def start(command: Sequence[str], core: int, at: int) -> int:
            pid = stack.enter_context(running(command, core, environment))
            wait_for(at)
            return pid

        engine = [sys.executable, "-m", "bench.upstream"]
        start([*engine, str(burst), str(EVENTS)], 0, burst)
        start([*engine, str(paced), str(EVENTS), str(GAP_S)], 0, paced)
        # Others route by model from one address, or have one upstream; so each kind of load has a process of its own.
        running_ones: dict[str, list[tuple[int, int]]] = {}
        for name, command in peers(given.peer, Path(folder)).items():
            for upstream in (burst, paced):
                at = free_port()
                running_ones.setdefault(name, []).append((start(command(at, upstream), 1, at), at))
        running_ones["llmaas"] = [(start([sys.executable, "-P", "-m", "llmaas", "gateway"], 1, port), port)] * 2
        found: dict[str, list[dict[str, float]]] = {name: [] for name in running_ones}
        for _ in range(given.rounds):
            for name, ((pid, at), (paced_pid, paced_at)) in running_ones.items():
                row = measure(pid, at, key, KINDS[:2], seconds=given.seconds)
                row |= measure(paced_pid, paced_at, key, KINDS[2:], seconds=given.seconds)
                found[name].append(row)
    medians = {name: {kind: median(row[kind] for row in rows) for kind in KINDS} for name, rows in found.items()}
    for name, rows in found.items():
        print(name, json.dumps({kind: [row[kind] for row in rows] for kind in KINDS}))
    ours = medians.pop("llmaas")
    for name, row in medians.items():
        print(f"llmaas / {name}", json.dumps({kind: round(ours[kind] / row[kind], 2) for kind in KINDS}))


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
