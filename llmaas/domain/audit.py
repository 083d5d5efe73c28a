"""The audit log: who did what to which thing, what of it is kept, and how a line is bound to the one before.

A line is for ever, so nothing secret may get into it: `plain` leaves out what is secret by its type or by its name.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

_SECRET_WORDS = frozenset(
    {
        "authorization",
        "cookie",
        "credential",
        "hash",
        "otp",
        "password",
        "pepper",
        "recovery",
        "secret",
        "token",
        "totp",
    }
)
_SECRET_NAMES = frozenset({"api_key", "code", "codes", "key", "master_key", "sealed"})
_OUR_TOKENS = re.compile(r"(llmaas_(?:pat_)?[0-9a-z]{12})_[0-9A-Za-z]{20,}")
_LARGEST = 2**63
FIRST_HASH = b""
"""What the first line is bound to."""


@dataclass(frozen=True, slots=True)
class Actor:
    """`kind`: user, token, cli or system. `address`: where the request came from, "" when it came from nowhere."""

    kind: str
    id: str
    address: str = ""


SYSTEM = Actor("system", "llmaas")
"""The service itself, where nobody asked it to."""


@dataclass(frozen=True, slots=True)
class Act:
    """`action`: `noun.verb`. `before` and `after`: the fields that matter, without secrets; None: it was or is not there."""

    by: Actor
    action: str
    subject_kind: str
    subject_id: str
    project_id: str | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """An act as it stands in the log. `seq` counts from 1 without gaps; `at_ms` since 1970."""

    seq: int
    at_ms: int
    act: Act
    previous_hash: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What is None does not matter. `action`: a whole one, or a noun (`key`). Times in ms, `to_ms` not included."""

    project_id: str | None = None
    actor_id: str | None = None
    action: str | None = None
    subject_kind: str | None = None
    subject_id: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`faults`: one line for each thing that is wrong, at most some. `seq` and `hash`: of the last line; 0 and "": none.

    Who notes these two elsewhere can tell later that nothing up to there was written anew.
    """

    lines: int
    seq: int
    hash: str
    faults: Sequence[str]


class AuditLog(Protocol):
    async def page(self, where: AuditFilter, *, before: int | None, limit: int) -> list[Line]:
        """Newest first; `before`: only lines below this number."""
        ...

    def export(self, where: AuditFilter) -> AsyncIterator[Line]:
        """Oldest first, read in one snapshot."""
        ...

    async def verify(self, noted: tuple[int, str] | None = None) -> Verdict:
        """Look at every line. `noted`: number and hash of a line that must be there still."""
        ...


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of these values may be kept, as JSON can say it: without what is secret by type or by name, at any depth.

    Numbers, truth values and None are never secret. Bytes and special kinds of strings always are.
    """
    kept = {}
    for name, value in values.items():
        if value is None or isinstance(value, bool | int | float) or not _secret_name(str(name)):
            word = _plain(value)
            if word is not _LEFT_OUT:
                kept[_text(str(name))] = word
    return kept


def digest(seq: int, at_ms: int, act: Act, previous_hash: bytes) -> bytes:
    """32 bytes over all that a line says and the hash of the line before. `before` and `after` must be `plain`."""
    fields = (
        seq,
        at_ms,
        (act.by.kind, act.by.id, act.by.address),
        (act.action, act.subject_kind, act.subject_id, act.project_id),
        (act.before, act.after),
        previous_hash.hex(),
    )
    return blake2b(msgspec.json.encode(fields, order="deterministic"), digest_size=32, person=b"llmaas-audit").digest()


def cleaned(act: Act) -> Act:
    """The act as the log keeps it."""
    return Act(
        by=Actor(_text(act.by.kind), _text(act.by.id), _text(act.by.address)),
        action=_text(act.action),
        subject_kind=_text(act.subject_kind),
        subject_id=_text(act.subject_id),
        project_id=None if act.project_id is None else _text(act.project_id),
        before=None if act.before is None else plain(act.before),
        after=None if act.after is None else plain(act.after),
    )


_LEFT_OUT = object()


def _plain(value: object) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -_LARGEST <= value < _LARGEST else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if type(value) is str:
        return _text(value)
    if isinstance(value, bytes | bytearray | memoryview | str):  # a string of a special kind hides what it says
        return _LEFT_OUT
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple):
        return [word for word in map(_plain, value) if word is not _LEFT_OUT]
    return _text(str(value))


def _secret_name(name: str) -> bool:
    lower = name.lower().replace("-", "_")
    if lower.endswith(("_id", "_env", "_ms")):
        return False
    return lower in _SECRET_NAMES or not _SECRET_WORDS.isdisjoint(lower.split("_"))


def _text(text: str) -> str:
    """Text that every database takes, without a key that somebody put into a name."""
    sound = text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    return _OUR_TOKENS.sub(r"\1_…", sound)
