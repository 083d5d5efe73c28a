"""Projects: the tenant that owns keys and usage."""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_PROJECT = "default"
_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Project:
    """`retention_days`: age at which its usage rows go, sums stay; None: never. `low_credit_nano`: balance to warn at."""

    id: str
    name: str
    created_ms: int
    tier_id: str | None = None
    retention_days: int | None = None
    low_credit_nano: int | None = None
    archived_ms: int | None = None


def valid_id(text: str) -> bool:
    """1 to 64 lower-case letters, digits, dots, dashes and underscores, beginning and ending with a letter or digit."""
    return _ID.fullmatch(text) is not None
