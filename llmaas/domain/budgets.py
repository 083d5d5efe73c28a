"""Budgets: what money is counted by. An id says whose and for which time; days and months are those of UTC.

`key:ID:total`, `key:ID:2026-11`, `key:ID:2026-11-23`, `project:ID:total`, `project:ID:2026-11`. The ID of a key is that of the
first key of its rotation (`Key.limits_id`).
"""

from __future__ import annotations

from datetime import UTC, datetime

DAY_MS = 86_400_000
_PROJECT, _TOTAL = "project:", ":total"


def day_name(day: int) -> str:
    """The UTC day that is so many days after 1970-01-01, as `2026-11-23`; its first 7 letters are the month."""
    return datetime.fromtimestamp(day * DAY_MS // 1000, UTC).strftime("%Y-%m-%d")


def budget_ids(limits_id: str, project_id: str, day: str) -> tuple[str, str, str, str, str]:
    """All budgets that a request of the key on that UTC day counts in."""
    key, project, month = f"key:{limits_id}:", f"project:{project_id}:", day[:7]
    return f"{key}total", f"{key}{month}", f"{key}{day}", f"{project}total", f"{project}{month}"


def project_total(project_id: str) -> str:
    """The budget whose cap is the project's credit."""
    return f"{_PROJECT}{project_id}{_TOTAL}"


def project_month(project_id: str, at_ms: int) -> str:
    """The budget whose cap is the monthly cap of the project's tier."""
    return f"{_PROJECT}{project_id}:{day_name(at_ms // DAY_MS)[:7]}"


def project_of_total(budget_id: str) -> str | None:
    """The project whose credit this budget's cap is; None for any other budget."""
    if budget_id.startswith(_PROJECT) and budget_id.endswith(_TOTAL):
        return budget_id[len(_PROJECT) : -len(_TOTAL)]
    return None
