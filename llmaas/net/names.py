"""Looking up host names: each one once at a time, whoever asks, in threads that nobody waits for.

The C library's look-up blocks a thread and cannot be ended, for 10 s and more when a name server is silent. So callers wait
for an answer and not for a thread; they wait a short time; and one name has few threads, so that the other names have the
rest. A look-up that got no answer soon is made again beside the one that hangs: that is what finds a name server that is back,
and a changed `resolv.conf`. Numeric addresses never come to a thread.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

Place = tuple[Any, ...]
"""As `socket.getaddrinfo` gives it."""
LookUp = Callable[..., Sequence[Place]]

_KEPT_S = 5.0
_MOST_KEPT = 1_000
_AGAIN_S = 0.7
_PATIENCE_S = 2.0
_MOST_THREADS = 32
_MOST_OF_ONE = 4


class _Wanted(NamedTuple):
    host: str
    family: int
    kind: int
    proto: int
    flags: int


class _Question:
    """What somebody waits to know. `asked_s`: when the last look-up for it began; `at_work`: how many go on."""

    def __init__(self) -> None:
        self.answer: Future[Sequence[Place]] = Future()
        self.answer.set_running_or_notify_cancel()  # who gives up waiting must not end it for the others
        self.asked_s = float("-inf")
        self.at_work = 0


class HostNames:
    """For event loops by `find`, for threads by `find_now`. Both raise OSError: `socket.gaierror` for a name that leads nowhere
    or is none, TimeoutError when no name server says anything.
    """

    def __init__(self, look_up: LookUp = socket.getaddrinfo) -> None:
        self._look_up = look_up
        self._lock = threading.Lock()
        self._open: dict[_Wanted, _Question] = {}
        self._kept: dict[_Wanted, tuple[float, Future[Sequence[Place]]]] = {}
        self._threads = 0
        self._queue: deque[tuple[_Wanted, _Question]] = deque()

    async def find(
        self, host: str, port: int, *, family: int = 0, kind: int = socket.SOCK_STREAM, proto: int = 0, flags: int = 0
    ) -> list[Place]:
        """The places that a host leads to."""
        wanted = _Wanted(host, family, kind, proto, flags)
        places = _numeric(wanted)
        if places is None:
            places = await self._answer(wanted)
        return _with_port(places, port)

    def find_now(self, host: str, port: int) -> list[Place]:
        """The same for TCP, in a thread that may wait."""
        wanted = _Wanted(host, 0, socket.SOCK_STREAM, 0, 0)
        places = _numeric(wanted)
        until_s = time.monotonic() + _PATIENCE_S
        while places is None:
            try:
                places = self._asked(wanted).result(min(_AGAIN_S, until_s - time.monotonic()))
            except TimeoutError:
                if time.monotonic() >= until_s:
                    raise _silent(host) from None
        return _with_port(places, port)

    async def _answer(self, wanted: _Wanted) -> Sequence[Place]:
        until_s = time.monotonic() + _PATIENCE_S
        while True:
            answer = asyncio.wrap_future(self._asked(wanted))
            done, _ = await asyncio.wait((answer,), timeout=min(_AGAIN_S, until_s - time.monotonic()))
            if done:
                return answer.result()
            answer.cancel()
            if time.monotonic() >= until_s:
                raise _silent(wanted.host)

    def _asked(self, wanted: _Wanted) -> Future[Sequence[Place]]:
        """What is kept, or will be known by the look-ups that go on; begins one where the youngest of them is old."""
        now_s = time.monotonic()
        with self._lock:
            until_s, kept = self._kept.get(wanted, (now_s, None))
            if kept is not None and until_s > now_s:
                return kept
            question = self._open.get(wanted)
            if question is None:
                question = self._open[wanted] = _Question()
            # Names that have a thread already leave half of them to those that have none.
            room = _MOST_THREADS // 2 if question.at_work else _MOST_THREADS
            if now_s - question.asked_s >= _AGAIN_S and question.at_work < _MOST_OF_ONE:
                if self._threads < room:
                    question.asked_s = now_s
                    question.at_work += 1
                    self._threads += 1
                    threading.Thread(target=self._work, args=(wanted, question), name="names", daemon=True).start()
                elif not question.at_work:
                    question.asked_s = now_s
                    question.at_work += 1
                    self._queue.append((wanted, question))
            return question.answer

    def _work(self, wanted: _Wanted, question: _Question) -> None:
        """One look-up after the other while there are names that wait for a thread."""
        while True:
            places, failure = _tried(self._look_up, wanted)
            with self._lock:
                question.at_work -= 1
                told = self._settled(wanted, question, places, failure)
                following = self._queue.popleft() if self._queue else None
                if following is None:
                    self._threads -= 1
            if told and failure is not None:
                question.answer.set_exception(failure)
            elif told:
                question.answer.set_result(places)
            if following is None:
                return
            wanted, question = following

    def _settled(self, wanted: _Wanted, question: _Question, places: Sequence[Place], failure: OSError | None) -> bool:
        """Whether this is the answer, and not the end of a look-up whose question has one, or may get a better one."""
        if self._open.get(wanted) is not question:
            return False
        if isinstance(failure, socket.gaierror) and failure.errno == socket.EAI_AGAIN and question.at_work:
            return False
        del self._open[wanted]
        if failure is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[wanted] = (time.monotonic() + _KEPT_S, question.answer)
        return True


def _tried(look_up: LookUp, wanted: _Wanted) -> tuple[Sequence[Place], OSError | None]:
    host, *hints = wanted
    try:
        return look_up(host, None, *hints), None
    except OSError as error:
        return [], error


def _numeric(wanted: _Wanted) -> Sequence[Place] | None:
    """The places of a numeric address; None for a name."""
    host, family, kind, proto, flags = wanted
    try:
        if "\0" in host:
            raise ValueError("a NUL")  # or what stands before it would be taken for the name
        return socket.getaddrinfo(host, None, family, kind, proto, flags | socket.AI_NUMERICHOST)
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            return None
        raise
    except ValueError:  # also for half of a character, and for parts that are empty or too long
        raise socket.gaierror(socket.EAI_NONAME, "it is no host name") from None


def _with_port(places: Sequence[Place], port: int) -> list[Place]:
    return [(*place[:4], (place[4][0], port, *place[4][2:])) for place in places]


def _silent(host: str) -> TimeoutError:
    return TimeoutError(f"no name server answers for {host[:200]}")
