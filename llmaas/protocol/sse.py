"""Server-sent events of engines: bytes in any portions to the payloads of `data` (WHATWG HTML, section 9.2, as far as
engines use it). LF, CRLF and CR end lines; comments, `event:` and `id:` are left out.
"""

from __future__ import annotations

from llmaas.errors import EngineFailed

DONE = b"[DONE]"
MAX_EVENT_BYTES = 4 * 1024 * 1024
_CR, _LF = b"\r\n"
"""As numbers: `in` takes whatever else it is given for a number first, and fails within before it looks for bytes."""


class SseDecoder:
    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads completed by this portion. EngineFailed when an event is longer than MAX_EVENT_BYTES."""
        buffer = self._rest + data if self._rest else data
        if _CR in buffer:
            buffer = _unify(buffer)
        events = buffer.split(b"\n\n")
        self._rest = events.pop()
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EngineFailed("The engine sent an event that is too long.")
        payloads = []
        for event in events:
            if event.startswith(b"data: ") and _LF not in event:
                payloads.append(event[6:])
            elif (payload := _payload(event)) is not None:
                payloads.append(payload)
        return payloads

    def finish(self) -> list[bytes]:
        """The last event of an engine that forgot the blank line after it."""
        payload = _payload(self._rest.rstrip(b"\r"))
        self._rest = b""
        return [] if payload is None else [payload]


def _unify(buffer: bytes) -> bytes:
    """All line ends as LF. A CR at the very end may be half of a CRLF, so it stays until more is there."""
    held = b"\r" if buffer.endswith(b"\r") else b""
    body = buffer[:-1] if held else buffer
    return body.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held


def _payload(event: bytes) -> bytes | None:
    lines = [line[6 if line[5:6] == b" " else 5 :] for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
