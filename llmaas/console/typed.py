"""Numbers as people type them, and as fields show them. Money that was typed cannot be taken back, so reading never guesses.

A comma is a decimal point to some readers of every language that we have (Spanish is written both ways), and groups thousands
for others. So a text counts only when it has one reading under both habits: "1,50", "1.000,50" and "1 000" do; "1,000" does
not, and its writer is asked. What `shown` writes always has one reading, that of the number.
"""

from __future__ import annotations

import re

_SPACES = " \u00a0\u2009\u202f'\u2019"
"""Group thousands, and nothing else, wherever they stand between digits."""
_PLAIN = re.compile(r"([0-9]+)(?:[.,]([0-9]+))?")
_SPACED = re.compile(rf"([1-9][0-9]{{0,2}}(?:([{_SPACES}])[0-9]{{3}})(?:\2[0-9]{{3}})*)(?:[.,]([0-9]+))?")
_GROUPED = re.compile(r"([1-9][0-9]{0,2}(?:([.,])[0-9]{3})(?:\2[0-9]{3})*)(?:(?!\2)[.,]([0-9]+))?")
_THREE = 3


class Unclear(ValueError):
    """`readings`: what the text can mean, the larger first, as plain decimals."""

    def __init__(self, larger: str, smaller: str) -> None:
        super().__init__(f"can be {larger} or {smaller}")
        self.readings = (larger, smaller)


def read_decimal(text: str) -> str:
    """The plain decimal that the text means, such as "1000.50". ValueError when it is no number, `Unclear` when it can be two."""
    text = text.strip()
    readings = [
        _joined(found[1], found[found.re.groups])
        for form in (_GROUPED, _SPACED, _PLAIN)
        if (found := form.fullmatch(text)) is not None
    ]
    if not readings:
        raise ValueError("is no number")
    if len(readings) > 1:
        raise Unclear(*readings)
    return readings[0]


def read_whole(text: str, group: str) -> int:
    """A whole number. `group`: what the language puts between thousands, which here can mean nothing else.

    ValueError when it is none, `Unclear` when it can be one with places as well.
    """
    text = text.strip()
    try:
        plain = read_decimal(text)
    except Unclear as unclear:
        if group not in text:
            raise
        plain = unclear.readings[0]
    if not plain.isdigit():
        raise ValueError("is no whole number")
    return int(plain)


def shown(plain: str, point: str) -> str:
    """A plain decimal for a field, with the language's point and without groups."""
    whole, has_places, places = plain.partition(".")
    # Three places could be taken for a group of thousands.
    return f"{whole}{point}{places}{'0' if len(places) == _THREE else ''}" if has_places else whole


def spelled(nano_text: str) -> str:
    """An amount so that nobody can misread it, without a point: "1.50" as "1 + 50/100"."""
    whole, _, places = nano_text.partition(".")
    return f"{whole} + {places}/1{'0' * len(places)}" if places.strip("0") else whole


def _joined(whole: str, places: str | None) -> str:
    digits = re.sub("[^0-9]", "", whole)
    return f"{digits}.{places}" if places is not None else digits
