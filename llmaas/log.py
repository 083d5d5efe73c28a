"""Structured logs on stderr: lines for people on a terminal, JSON otherwise. Nothing secret goes into an event."""

from __future__ import annotations

import contextlib
import logging
import select
import sys
from typing import Literal, TextIO, cast

import structlog

_PATIENCE_MS = 200
_PIECE_CHARS = 1024
"""At most four bytes each: a pipe that has room at all has room for a page."""


def configure(level: str = "info", form: Literal["auto", "console", "json"] = "auto", **bound: str) -> None:
    """Set up logging of this process; `bound` is put on each event (for example `process="gateway"`)."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=cast("TextIO", _Unfailing(sys.stderr))),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(**bound)


class _Unfailing:
    """A full disk under the log, or nobody who reads it, must not stop what is being logged about.

    Whoever reads a pipe may stand still: a pager, a log driver that hangs. A process that waited for them would serve nobody, so
    it waits a moment once, and then leaves lines out until there is room again.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._line: list[str] = []
        self._stuck = self._torn = False
        self._writable: select.poll | None = None
        with contextlib.suppress(OSError, ValueError):  # what is no file to the system never stands still
            number = file.fileno()
            self._writable = select.poll()
            self._writable.register(number, select.POLLOUT)

    def write(self, text: str) -> None:
        self._line.append(text)

    def flush(self) -> None:
        line = "".join(self._line)
        self._line.clear()
        if self._torn:
            line = f"\n{line}"
        with contextlib.suppress(OSError, ValueError):
            for start in range(0, len(line), _PIECE_CHARS):
                if not self._has_room():
                    return
                self._file.write(line[start : start + _PIECE_CHARS])
                self._file.flush()
                self._torn = start + _PIECE_CHARS < len(line)

    def _has_room(self) -> bool:
        if self._writable is not None:
            self._stuck = not self._writable.poll(0 if self._stuck else _PATIENCE_MS)
        return not self._stuck
