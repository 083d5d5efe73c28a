"""Times on pages: UTC as text, with the instant beside it for the browser, which shows it in the reader's zone."""

from __future__ import annotations

from datetime import UTC, datetime

from markupsafe import Markup

from llmaas.clock import iso


def shown_time(ms: int | None, otherwise: str = "–") -> Markup:
    """Date and time to the minute; `otherwise` when there is none."""
    return _shown(ms, otherwise, "%Y-%m-%d %H:%M UTC", "time")


def shown_moment(ms: int | None, otherwise: str = "–") -> Markup:
    """Date and time to the second, for rows of which many can fall into one minute."""
    return _shown(ms, otherwise, "%Y-%m-%d %H:%M:%S UTC", "moment")


def shown_day(ms: int | None, otherwise: str = "–") -> Markup:
    return _shown(ms, otherwise, "%Y-%m-%d", "day")


def _shown(ms: int | None, otherwise: str, pattern: str, kind: str) -> Markup:
    if ms is None:
        return Markup("{}").format(otherwise)
    text = datetime.fromtimestamp(ms / 1000, UTC).strftime(pattern)
    return Markup('<time datetime="{}" data-shown="{}">{}</time>').format(iso(ms), kind, text)
