"""The pulse of a process: a byte into a pipe twice a second, from its event loop, for whoever started it; and what the system
knows of a process that has none. The first byte says that the process is ready, the end of the pipe that it has nothing left to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Each of them asks a process to stop in order, whoever sends it: a manager of services, Ctrl-C, a terminal that is closed."""
ENGINE_END = signal.SIGUSR1
"""Ends the built-in engine, which heeds none of the above; a program that does not know it ends by it as well."""
BEAT_S = 0.5


def ignore_stops() -> None:
    """All is done, and the process ends with the code that says so. A signal that came while the interpreter takes itself apart
    would end it with another.
    """
    loop = asyncio.get_running_loop()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    for number in STOPS:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


class Pulse:
    """`fd` None: nobody listens."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._timer: asyncio.TimerHandle | None = None
        if fd is not None:
            os.set_inheritable(fd, False)
            os.set_blocking(fd, False)

    def start(self) -> None:
        """Ready, and alive from now on as long as the event loop turns."""
        if self._fd is None:
            return
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self.start)
        try:
            os.write(self._fd, b"1")
        except BlockingIOError:
            pass  # whoever listens stands still itself, and needs no more beats than the pipe holds
        except OSError:
            self.stop()

    def stop(self) -> None:
        """Nothing is left to do but to end."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@dataclass(frozen=True, slots=True)
class Life:
    """`state`: the letter that the system has for it. `ticks`: CPU time of all its threads, in units of the system."""

    state: str
    ticks: int

    @property
    def cpu_s(self) -> float:
        return self.ticks / os.sysconf("SC_CLK_TCK")


def life_of(pid: int) -> Life | None:
    """None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name, in brackets, may hold blanks.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return Life(fields[0], int(fields[11]) + int(fields[12]))
    return None
