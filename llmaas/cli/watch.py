"""Whether a process of `serve` still turns its event loop. One that stands still holds connections that nobody answers.

Silence alone proves nothing: the machine may be overloaded, a debugger may hold the process, or the one who watches was stopped
with all others (a laptop that slept, a container that was frozen).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmaas.pulse import BEAT_S, Life, life_of

LOOK_S = BEAT_S
_STARVED_LOOKS = 60
_START_LOOKS = 120
_LEAVE_LOOKS = 6
_TRACED = "t"
_WAITING_FOR_THE_MACHINE = frozenset("RD")
_HANGS_S = 1.5
"""Nothing in an event loop works so long on one thing."""


@dataclass(slots=True)
class Watch:
    """`pid`: of whom. `silent_looks`: after so many looks without a beat it is taken for frozen.

    `look` is called each `LOOK_S`, and `doubt` in its place when the one who looks was late himself.
    """

    pid: int
    silent_looks: int
    life: Callable[[int], Life | None] = life_of
    _start_looks: int = _START_LOOKS
    _ready: bool = False
    _beat: bool = False
    _leaving: bool = False
    _silent: int = 0
    _cpu_s: float = 0.0

    def heard(self, beats: bytes) -> None:
        """`beats` empty: its end of the pipe is closed, so it is about to end."""
        self._beat = True
        self._ready = True
        self._leaving = self._leaving or not beats

    def doubt(self) -> None:
        """Count anew."""
        self._silent = 0

    def hasten(self, looks: int) -> None:
        """It is to end, so little is lost with it."""
        self.silent_looks = self._start_looks = looks

    def look(self) -> str:
        """Why it has to be killed, else empty."""
        if self._beat:
            self._beat = False
            self._silent = 0
            return ""
        life = self.life(self.pid)
        if life is not None and life.state == _TRACED:
            self._silent = 0
            return ""
        self._silent += 1
        if self._silent == 1:
            self._cpu_s = life.cpu_s if life is not None else 0.0
        limit = self.silent_looks
        if self._leaving:
            limit = _LEAVE_LOOKS
        elif not self._ready:
            limit = self._start_looks
        if self._silent < limit or (self._silent < _STARVED_LOOKS and self._starves(life)):
            return ""
        if self._leaving:
            return "it has done its work and does not end"
        return "its event loop stands still" if self._ready else "it does not get ready"

    def _starves(self, life: Life | None) -> bool:
        """Whether it may only be waiting for a processor or a disk. One that hangs in a loop uses up a processor, and one that
        was stopped or waits for a lock wants none.
        """
        if life is None:
            return True
        return life.state in _WAITING_FOR_THE_MACHINE and life.cpu_s - self._cpu_s < _HANGS_S
