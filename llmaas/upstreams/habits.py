"""What single servers do not take of the members that we add to a request, or under which name they take one.

A refusal that names the member has the request sent again in the other form, at once, and once that was accepted the form is
remembered for the model on that backend for a while. A caller must not be told of a member that he did not send, and must not
have one left out for others by a refusal of his own words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

REMEMBERED_S: Final = 3600.0
MOST_TRIES: Final = 2
"""Other forms in which one request is sent after it was refused."""
_MOST_PLACES = 10_000
_FORMS: Mapping[str, str | None] = {
    "continuous_usage_stats": "include_usage",
    "stream_options": None,
    "timings_per_token": None,
    "return_progress": None,
    "max_completion_tokens": "max_tokens",
    "max_tokens": "max_completion_tokens",
}
"""A member that a server may not know, and what it is sent in its place."""
_REFUSED = re.compile(
    r"unsupported|not supported|n[o']t support|unrecognized|unrecognised|unknown|unexpected|not (?:permitted|allowed)"
    r"|extra (?:inputs|fields)|extra_forbidden|additional propert|no such|not accepted|not a valid (?:parameter|field)"
    r"|invalid (?:parameter|argument|field)|use '?max_(?:completion_)?tokens"
)
_LLAMA_CPP: Final = ("timings_per_token", "return_progress")
"""A server that does not know one of them does not know the other."""
_OUT_OF_RANGE = re.compile(
    r"(?:must|should|has to|cannot|can't) |range|at (?:most|least)|too (?:large|big|small|high|low)|exceed|\[\d"
)
"""What is said of a number that is known, and wrong."""
_BOUNDS: Final = frozenset({"max_tokens", "max_completion_tokens"})
_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()
Place = tuple[str, str]
"""A backend, and its own name of the model."""


class _Habit(Struct, frozen=True):
    members: tuple[str, ...]
    until_s: float


class Habits:
    """`known` is False as long as no server is known to have one, which costs a request nothing."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.known = False
        self._now_s = now_s
        self._of: dict[Place, _Habit] = {}

    def members(self, place: Place) -> tuple[str, ...]:
        """What this place is sent otherwise."""
        habit = self._of.get(place)
        return () if habit is None else habit.members

    def adapted(self, place: Place, body: bytes) -> bytes:
        """The body of a request as this place takes it."""
        habit = self._of.get(place)
        if habit is None:
            return body
        if self._now_s() > habit.until_s:
            del self._of[place]  # it may have been taught meanwhile
            self.known = bool(self._of)
            return body
        for member in habit.members:
            body = _without(member, body) or body
        return body

    def other_form(self, status: int, said: bytes, body: bytes) -> tuple[str, bytes] | None:
        """The member that a refusal of this `body` names, when we added it, and the same request in a form that may be taken."""
        if status not in {400, 404, 422}:
            return None
        text = said.decode("utf-8", "replace").lower()
        if _REFUSED.search(text) is None:
            return None
        own = body.lower()
        for member in _FORMS:
            if (
                re.search(rf"\b{member}\b", text)
                and own.count(member.encode()) == 1  # else a caller's own words may be meant
                and not (member in _BOUNDS and _OUT_OF_RANGE.search(text))
                and (other := _without(member, body)) is not None
            ):
                return member, other
        return None

    def learn(self, place: Place, members: Sequence[str]) -> None:
        """Remember what a request was accepted without."""
        habit = self._of.get(place)
        known = habit.members if habit is not None else ()
        # A form that was taken back is no habit any more: of two names for one thing the later one holds.
        kept = tuple(one for one in known if one not in members and _FORMS[one] not in members)
        if len(self._of) >= _MOST_PLACES:
            self._of.clear()
        self._of[place] = _Habit((*kept, *members), self._now_s() + REMEMBERED_S)
        self.known = True


def _without(member: str, body: bytes) -> bytes | None:
    """The body with another form of that member; None when it does not have it."""
    fields = _decoder.decode(body)
    other = _FORMS[member]
    if member == "continuous_usage_stats":
        if member.encode() not in bytes(fields.get("stream_options", b"")):
            return None
        fields["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
        return _encoder.encode(fields)
    if member in _LLAMA_CPP:
        for one in _LLAMA_CPP:
            fields.pop(one, None)
        return _encoder.encode(fields)
    value = fields.pop(member, None)
    if value is None:
        return None
    if other is not None:
        fields.setdefault(other, value)
    return _encoder.encode(fields)
