"""Logs never stop what they tell of."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.hosting.serving import environment

PROGRAM = """
import structlog
from llmaas import log

log.configure("info", "json", process="test")
for number in range(5000):
    structlog.get_logger().info("event", number=number, text="x" * {length})
print("done", flush=True)
input()
structlog.get_logger().info("last")
"""


@pytest.mark.parametrize(("length", "least"), [(100, 100), (3000, 5)])
def test_a_reader_that_stands_still_stops_nothing(length: int, least: int) -> None:
    command = [sys.executable, "-P", "-c", PROGRAM.format(length=length)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "done\n"  # though nobody has read a line of its log
        told = [process.stderr.readline()]
        process.stdin.write("\n")
        process.stdin.close()
        told += process.stderr.readlines()
        assert process.wait() == 0
    *whole, last = [json.loads(line) for line in told if line.endswith("}\n")]
    assert len(told) - len(whole) - 1 <= 1  # one that was cut when there was no more room
    assert [event["number"] for event in whole] == list(range(len(whole)))
    assert least <= len(whole) < 5000
    assert last["event"] == "last"
