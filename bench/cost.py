"""CPU of a running program with all its children, while `wrk` loads it with chat requests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_WARM_UP_S = 2
_MESSAGES = [
    {"role": "system", "content": "Answer in the language of the question."},
    {"role": "user", "content": "Tell me in a few words who you are and what you can do. " + "one two three " * 30},
]


class Load(NamedTuple):
    """`cpu_s`: what the program used for all answers. `refused`: answers of another status than 2xx or 3xx."""

    answers: int
    cpu_s: float
    refused: int


def family(pid: int) -> Iterator[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if (fields := _stat(folder)) is not None:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return iter(found)


def cpu_s(pid: int) -> float:
    """Of user and system, since each of them began."""
    fields = [_stat(Path(f"/proc/{one}")) for one in family(pid)]
    return sum(int(f[11]) + int(f[12]) for f in fields if f is not None) / _TICKS_PER_S


def _stat(folder: Path) -> list[str] | None:
    """The fields behind the program's name (proc(5)); None when it has ended."""
    try:
        return (folder / "stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None


def load(pid: int, url: str, key: str, model: str, *, stream: bool, connections: int, seconds: int, core: int) -> Load:
    """Loads a chat model through `url` from one core, after a warm-up."""
    body: Mapping[str, Any] = {"model": model, "messages": _MESSAGES, "max_tokens": 200, "temperature": 0.7}
    if stream:
        body = {**body, "stream": True}
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write('wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\n')
        script.write(
            f"wrk.headers.authorization = {json.dumps(f'Bearer {key}')}\nwrk.body = [=[{json.dumps(body)}]=]\n"
        )
        script.flush()

        def wrk(duration_s: int) -> str:
            command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{duration_s}s"]
            return subprocess.run([*command, "-s", script.name, url], capture_output=True, check=True, text=True).stdout

        wrk(_WARM_UP_S)
        before_s = cpu_s(pid)
        told = wrk(seconds)
        used_s = cpu_s(pid) - before_s
    answers = re.search(r"(\d+) requests in", told)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    return Load(int(answers[1]) if answers else 0, used_s, int(refused[1]) if refused else 0)
