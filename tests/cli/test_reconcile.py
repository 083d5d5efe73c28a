"""`ledger reconcile` and `ledger rebuild`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from llmaas.domain.usage import UsageRow
from tests.cli.ledgers import record, usage_row
from tests.cli.running import Cli


def line(row: UsageRow, **changes: Any) -> str:
    made = {
        "id": row.id,
        "prompt_tokens": row.input_tokens + row.cached_input_tokens,
        "completion_tokens": row.output_tokens + row.reasoning_tokens,
    }
    return json.dumps({**made, **changes}) + "\n"


def log(folder: Path, *lines: str) -> str:
    path = folder / "engine.jsonl"
    path.write_text("".join(lines))
    return str(path)


def test_a_ledger_that_is_the_engines_log_is_ok(llmaas: Cli, tmp_path: Path) -> None:
    rows = [usage_row(n) for n in range(5)]
    failed = usage_row(9, usage_source="none", outcome="engine_failed", billing_reason="failed_before_output")
    record(llmaas.data_dir, [*rows, failed])
    lines = [line(row) for row in rows[:3]]
    by_request = {"id": None, "request_id": rows[3].request_id}
    nested = {"id": rows[4].id, "usage": {"prompt_tokens": 11, "completion_tokens": 107}}
    given = log(tmp_path, *lines, line(rows[3], **by_request), "\n", json.dumps(nested), "\n")
    assert llmaas.good("ledger", "reconcile", "--engine-log", given).out == "ok\n"


def test_each_difference_is_a_line(llmaas: Cli, tmp_path: Path) -> None:
    rows = [usage_row(n) for n in range(3)]
    record(llmaas.data_dir, rows)
    given = log(tmp_path, line(rows[0]), line(rows[1], completion_tokens=106), line(usage_row(7)))
    ran = llmaas("ledger", "reconcile", "--engine-log", given)
    assert ran.code == 1
    assert ran.out.splitlines() == [
        f"{rows[2].id}: the engine's log has no such request",
        f"{rows[1].id}: the ledger has 11 + 107 tokens, the engine 11 + 106",
        f"{usage_row(7).id}: the engine served it, the ledger has no row",
    ]


def test_a_request_that_was_tried_again_has_one_line_that_fits(llmaas: Cli, tmp_path: Path) -> None:
    row = usage_row(1)
    record(llmaas.data_dir, [row])
    given = log(tmp_path, line(row, completion_tokens=0), line(row))
    assert llmaas.good("ledger", "reconcile", "--engine-log", given).out == "ok\n"


@pytest.mark.parametrize("bad", ["[]", "{", '{"id": "x"}', '{"prompt_tokens": 1}'])
def test_a_log_that_says_nothing_is_refused(llmaas: Cli, tmp_path: Path, bad: str) -> None:
    ran = llmaas("ledger", "reconcile", "--engine-log", log(tmp_path, line(usage_row(1)), bad))
    assert (ran.code, "line 2" in ran.errors[0]) == (2, True)
    assert llmaas("ledger", "reconcile").code == 2


class Engine(ThreadingHTTPServer):
    text = ""


@pytest.fixture
def engine() -> Iterator[Engine]:
    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = Engine.text.encode()
            self.send_response(200 if self.path == "/metrics" else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Silent."""

    with Engine(("127.0.0.1", 0), Metrics) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


FLEET = """
[[providers]]
id = "lab"
kind = "vllm"
[[backends]]
id = "b1"
provider = "lab"
base_url = "http://127.0.0.1:{port}/v1"
"""


@pytest.mark.parametrize("kind", ["vllm", "llama.cpp"])
def test_counters_grow_by_what_the_ledger_has(llmaas: Cli, tmp_path: Path, engine: Engine, kind: str) -> None:
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
    if kind == "llama.cpp":
        names = ("llamacpp:prompt_tokens_total", "llamacpp:tokens_predicted_total")

    def show(prompt: int, completion: int) -> None:
        Engine.text = f'# HELP x y\n{names[0]}{{a="b"}} {prompt}.0\n{names[0]}{{a="c"}} 0\n{names[1]} {completion}\n'

    llmaas.good("apply", "-", stdin=FLEET.format(port=engine.server_port))
    baseline = tmp_path / "baseline.json"
    show(1000, 2000)
    first = llmaas.good("ledger", "reconcile", "--baseline", str(baseline))
    assert (first.out, first.err.split(";")[0]) == ("", f"{baseline} made")
    since_ms = json.loads(baseline.read_text())["made_ms"]
    record(llmaas.data_dir, [usage_row(1, started_ms=since_ms), usage_row(2, started_ms=since_ms - 1)])
    prompt = 11 if kind == "vllm" else 10
    show(1000 + prompt, 2107)
    assert llmaas.good("ledger", "reconcile", "--baseline", str(baseline)).out == "ok\n"
    show(1000 + prompt, 2108)
    ran = llmaas("ledger", "reconcile", "--baseline", str(baseline))
    assert ran.out == f"b1: the ledger has {prompt} + 107 tokens, the engine {prompt} + 108\n"
    show(5, 5)
    ran = llmaas("ledger", "reconcile", "--baseline", str(baseline))
    assert (ran.code, "restarted" in ran.out) == (1, True)


def test_sums_are_made_anew_from_rows(llmaas: Cli) -> None:
    record(llmaas.data_dir, [usage_row(n, started_ms=n * 86_400_000) for n in range(3)])
    with sqlite3.connect(llmaas.data_dir / "llmaas.db") as connection:
        connection.execute("DELETE FROM usage_hours")
        connection.execute("DELETE FROM usage_days")
    connection.close()
    assert llmaas.good("usage", "--json").json == []
    assert llmaas.good("ledger", "rebuild").out == "3 days made anew\n"
    assert [s["requests"] for s in llmaas.good("usage", "--json").json] == [3]
    assert llmaas.good("ledger", "rebuild", "--from", "2020-01-01").out == "0 days made anew\n"
