"""What single servers do not take of the members that we add to a request, or under which name they take one.

The bound on an answer is such a member too, where the caller set none: a server whose own bound or window is smaller is asked without.

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

from llmaas.engines.refusals import told_window

REMEMBERED_S: Final = 3600.0
MOST_TRIES: Final = 4
"""Other forms in which one request is sent after it was refused."""
OWN_BOUND: Final = "own bound"
"""Stands for the bound on an answer in place of its name, when it is not the caller's."""
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
_BOUNDS: Final = ("max_tokens", "max_completion_tokens")
_OF_BOUND = re.compile(
    r"max_(?:\w+_)?tokens|maxoutputtokens|\bmax(?:imum)? tokens|(?:completion|output|new|generated) tokens"
)
"""How servers call the bound on an answer."""
_NUMBER = re.compile(r"\d[\d,]{0,12}")
_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()
Place = tuple[str, str]
"""A backend, and its own name of the model."""


class OtherForm(Struct, frozen=True):
    """A request without one of its members, or with another in its place. `too_much`: bounds from there on are refused, whatever is
    asked; None: the refusal does not tell.
    """

    member: str
    body: bytes
    too_much: int | None = None


class _Habit(Struct, frozen=True):
    members: tuple[str, ...]
    until_s: float
    too_much: int | None = None


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

    def adapted(self, place: Place, body: bytes, *, own_bound: bool = False) -> bytes:
        """The body of a request as this place takes it. `own_bound`: its caller set none on the answer."""
        habit = self._of.get(place)
        if habit is None:
            return body
        if self._now_s() > habit.until_s:
            del self._of[place]  # it may have been taught meanwhile
            self.known = bool(self._of)
            return body
        for member in habit.members:
            body = _without(member, body) or body
        if own_bound and habit.too_much is not None:
            bound, other = _unbounded(body)
            if bound is not None and bound >= habit.too_much:
                return other
        return body

    def other_form(
        self, status: int, said: bytes, body: bytes, *, own_bound: bool = False, tried: Sequence[str] = ()
    ) -> OtherForm | None:
        """The same request in a form that may be taken, when a refusal of this `body` names a member that we added. `tried`: members
        that it was already sent without.
        """
        if status not in {400, 404, 422}:
            return None
        text = said.decode("utf-8", "replace").lower()
        try:
            if _REFUSED.search(text) is not None and (found := _by_name(text, body, tried)) is not None:
                return found
            return _without_bound(text, body) if own_bound else None
        except RecursionError:
            return None  # it is nested as deep as can be written, which cannot be read here

    def learn(self, place: Place, members: Sequence[str], too_much: int | None = None) -> None:
        """Remember what a request was accepted without."""
        habit = self._of.get(place)
        known = habit.members if habit is not None else ()
        # A form that was taken back is no habit any more: of two names for one thing the later one holds.
        kept = tuple(one for one in known if one not in members and _FORMS[one] not in members)
        if habit is not None and habit.too_much is not None:
            too_much = habit.too_much if too_much is None else min(too_much, habit.too_much)
        if len(self._of) >= _MOST_PLACES:
            self._of.clear()
        self._of[place] = _Habit((*kept, *members), self._now_s() + REMEMBERED_S, too_much)
        self.known = True


def _by_name(text: str, body: bytes, tried: Sequence[str]) -> OtherForm | None:
    own = body.lower()
    for member, instead in _FORMS.items():
        if (
            instead not in tried
            and re.search(rf"\b{member}\b", text)
            and own.count(member.encode()) == 1  # else a caller's own words may be meant
            and not (member in _BOUNDS and _OUT_OF_RANGE.search(text))
            and (other := _without(member, body)) is not None
        ):
            return OtherForm(member, other)
    return None


def _without_bound(text: str, body: bytes) -> OtherForm | None:
    """An engine that refuses a bound of ours makes less by itself, so it needs none."""
    bound, other = _unbounded(body)
    window = told_window(text)
    if bound is None or (window is None and _OF_BOUND.search(text) is None):
        return None
    if window is not None:
        return OtherForm(OWN_BOUND, other, window if 0 < window <= bound else None)
    smaller = [number for n in _NUMBER.findall(text) if (number := int(n.replace(",", ""))) < bound]
    return OtherForm(OWN_BOUND, other, max(smaller) + 1 if smaller else None)


def _unbounded(body: bytes) -> tuple[int | None, bytes]:
    """The bound of a request, and the request without it."""
    fields = _decoder.decode(body)
    bounds = [int(bytes(value)) for name in _BOUNDS if (value := fields.pop(name, None)) is not None]
    return (bounds[0], _encoder.encode(fields)) if bounds else (None, body)


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
