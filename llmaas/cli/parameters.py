"""Values of options that are more than a word: durations, instants, lists, names. Wrong ones are usage errors."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

import typer

from llmaas.domain.prices import parse_amount
from llmaas.domain.values import name_fault

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_LONGEST_S = 100 * 366 * 86_400


def duration_ms(text: str, option: str, *, at_least_s: int = 1) -> int:
    """A duration such as `90s`, `15m`, `24h`, `30d` or `2w` in milliseconds."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is no duration; write for example 90s, 15m, 24h, 30d or 2w", param_hint=option
        )
    seconds = int(match[1]) * _UNITS_S[match[2]]
    if not at_least_s <= seconds <= _LONGEST_S:
        raise typer.BadParameter(f"{text!r} is not between {at_least_s}s and 100 years", param_hint=option)
    return seconds * 1000


def instant_ms(text: str, option: str, now_ms: int) -> int:
    """A day or time in ISO 8601 (UTC unless it says otherwise), or a duration: so long ago. In ms since 1970."""
    text = text.strip()
    if _DURATION.fullmatch(text):
        return now_ms - duration_ms(text, option)
    try:
        moment = datetime.fromisoformat(text)
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        message = f"{text!r} is no time; write for example 2026-01-31, 2026-01-31T12:00Z, or 24h for so long ago"
        raise typer.BadParameter(message, param_hint=option) from None


def span_ms(start: str | None, end: str | None, now_ms: int) -> tuple[int | None, int | None]:
    """What `--from` and `--to` say; None: nothing. A span that ends before it begins holds nothing and is a slip of the pen."""
    first = instant_ms(start, "--from", now_ms) if start else None
    last = instant_ms(end, "--to", now_ms) if end else None
    if first is not None and last is not None and last < first:
        raise typer.BadParameter("comes after --to", param_hint="--from")
    return first, last


def words(text: str | None) -> list[str]:
    """`a, b` as two words, each once, in order."""
    return list(dict.fromkeys(word for part in (text or "").split(",") if (word := part.strip())))


def name(text: str, option: str) -> str:
    """A name that can be shown on one line."""
    if fault := name_fault(text):
        raise typer.BadParameter(f"the name {fault}", param_hint=option)
    return text


def amount_nano(text: str, option: str) -> int:
    """An amount of money such as `12.50` in nano-units, not negative."""
    try:
        return parse_amount(text.strip())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
