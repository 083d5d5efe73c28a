"""When a process counts as frozen, look by look."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmaas.cli.watch import Watch
from llmaas.pulse import Life

FROZEN = "its event loop stands still"


class Process:
    """`state` and the CPU time that each look finds."""

    def __init__(self, state: str = "S", ticks_a_look: int = 0) -> None:
        self.state = state
        self.ticks_a_look = ticks_a_look
        self.ticks = 0

    def life(self, _pid: int) -> Life | None:
        self.ticks += self.ticks_a_look
        return Life(self.state, self.ticks) if self.state else None


def watching(process: Process, *, ready: bool = True) -> Watch:
    watch = Watch(1, 6, process.life)
    if ready:
        watch.heard(b"1")
        assert not watch.look()
    return watch


def looks_until_killed(watch: Watch) -> int:
    return next(number for number in range(1, 1000) if watch.look())


@pytest.mark.parametrize(
    ("process", "looks"),
    [
        (Process("T"), 6),  # stopped
        (Process("S"), 6),  # it waits for something that is no request
        (Process("R", 50), 6),  # it hangs in a loop, on a processor of its own
        (Process("R", 10), 16),  # the same, on a busy machine
        (Process("R", 2), 60),  # it wants a processor and gets hardly any
        (Process("D"), 60),  # the disk, or memory that is being fetched from it
        (Process(""), 60),  # the system does not tell
    ],
)
def test_F20_silence_is_judged_by_what_the_process_does_meanwhile(process: Process, looks: int) -> None:
    watch = watching(process)
    assert looks_until_killed(watch) == looks
    assert watch.look() == FROZEN


def test_F20_a_beat_is_an_excuse_and_so_is_a_late_look() -> None:
    watch = watching(Process("T"))

    def silent() -> Iterator[str]:
        return (watch.look() for _ in range(5))

    assert not any(silent())
    watch.heard(b"1")
    assert not watch.look()
    assert not any(silent())
    watch.doubt()
    assert not any(silent())
    assert watch.look() == FROZEN


def test_a_process_that_a_debugger_holds_is_left_alone() -> None:
    assert not any(watching(Process("t")).look() for _ in range(500))


def test_one_that_does_not_get_ready_has_a_minute_and_one_that_does_not_end_three_seconds() -> None:
    slow = watching(Process("S"), ready=False)
    assert looks_until_killed(slow) == 120
    assert slow.look() == "it does not get ready"
    hastened = watching(Process("S"), ready=False)
    hastened.hasten(6)
    assert looks_until_killed(hastened) == 6
    done = watching(Process("S"))
    done.silent_looks = 20
    done.heard(b"")
    assert not done.look()
    assert looks_until_killed(done) == 6
    assert done.look() == "it has done its work and does not end"
