"""Server-sent events of engines: bytes in any portions to the payloads of `data` (WHATWG HTML, section 9.2, as far as
engines use it). LF, CRLF and CR end lines; comments, `event:` and `id:` are left out, and so is a byte order mark in front.
"""

from __future__ import annotations

import msgspec

from llmaas.errors import EngineFailed

DONE = b"[DONE]"
MAX_EVENT_BYTES = 4 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
_SAYS_NOTHING = (b"{}", b"[]", b'""', b'"null"')
_CR, _LF = b"\r\n"
"""As numbers: `in` takes whatever else it is given for a number first, and fails within before it looks for bytes."""


def is_stream(data: bytes) -> bool:
    """Whether what begins so is a stream of events, whatever it is called."""
    return data.removeprefix(_BOM).lstrip().startswith(_FIELDS)


class SseDecoder:
    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads completed by this portion. EngineFailed when an event is longer than MAX_EVENT_BYTES."""
        if self._rest:
            if not self._completes(data):
                return []
            data = bytes(self._rest)
        buffer = data
        if _CR in buffer:
            buffer = _unify(buffer)
        events = buffer.split(b"\n\n")
        rest = events.pop()
        if rest or self._rest:
            self._rest = bytearray(rest)
        if len(rest) > MAX_EVENT_BYTES:
            raise _too_long()
        payloads = []
        for event in events:
            if event.startswith(b"data: ") and _LF not in event:
                payloads.append(event[6:])
            elif (payload := _payload(event)) is not None:
                payloads.append(payload)
        return payloads

    def _completes(self, data: bytes) -> bool:
        """Add a portion to what is kept; whether that has an event in it now. Only the seam is looked at: an engine that sends
        a long event byte by byte must not have all of it read again with each.
        """
        rest = self._rest
        seam = max(0, len(rest) - 3)
        rest += data
        if b"\n\n" in _unify(bytes(rest[seam:])):
            return True
        if len(rest) > MAX_EVENT_BYTES:
            raise _too_long()
        return False

    def finish(self) -> list[bytes]:
        """The last event of an engine that forgot the blank line after it."""
        payload = _payload(_unify(bytes(self._rest)).rstrip(b"\r"))
        self._rest = bytearray()
        return [] if payload is None else [payload]


def _too_long() -> EngineFailed:
    return EngineFailed("The engine sent an event that is too long.")


def _unify(buffer: bytes) -> bytes:
    """All line ends as LF. A CR at the very end may be half of a CRLF, so it stays until more is there."""
    held = b"\r" if buffer.endswith(b"\r") else b""
    body = buffer[:-1] if held else buffer
    return body.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held


def is_done(payload: bytes) -> bool:
    """Whether it is the mark at the end: whatever stands around it, and in quotes too."""
    return payload.lstrip(b" \t\"'")[: len(DONE)].upper() == DONE


def _payload(event: bytes) -> bytes | None:
    """The data of an event. Errors that stand elsewhere are made `{"error": …}`: those of an `event: error`, of llama.cpp's older
    field `error`, and a line of bare JSON.
    """
    event = event.removeprefix(_BOM)
    lines: list[bytes] = []
    failed = False
    for line in [line.lstrip(b" \t") for line in event.split(b"\n")]:
        if line.startswith(b"data:"):
            lines.append(line[6 if line[5:6] == b" " else 5 :])
        elif line.startswith(b"error:"):
            lines.append(_as_error(line[6:]))
        elif line.startswith(b"{"):
            lines.append(line)
        elif line.startswith(b"event:") and line[6:].strip().lower() == b"error":
            failed = True
    if failed:
        return _as_error(b"\n".join(lines))
    return b"\n".join(lines) if lines else None


def _as_error(said: bytes) -> bytes:
    said = said.strip()
    if not said.startswith((b"{", b"[", b'"')):
        said = msgspec.json.encode(said.decode("utf-8", "replace"))
    return b'{"error":' + (b'"error"' if said in _SAYS_NOTHING else said) + b"}"
