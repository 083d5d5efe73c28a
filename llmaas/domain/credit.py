"""Credit: prepaid money of a project, as entries that are only ever added. Amounts are nano-units of the currency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from llmaas.domain.audit import Actor


class CreditKind(StrEnum):
    CORRECTION = "correction"
    GRANT = "grant"
    REFUND = "refund"
    """Given back to who paid: a negative amount."""
    TOP_UP = "top-up"


@dataclass(frozen=True, slots=True)
class CreditEntry:
    """`idempotency_key`: who sends the same one again, for the same project and amount, gets the entry that is there."""

    id: str
    project_id: str
    created_ms: int
    amount_nano: int
    kind: CreditKind
    note: str
    actor: str
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """`credited_nano` less `spent_nano` is what is left; `held_nano` of it is reserved by requests under way, or by workers."""

    credited_nano: int
    spent_nano: int
    held_nano: int

    @property
    def left_nano(self) -> int:
        return self.credited_nano - self.spent_nano

    @property
    def free_nano(self) -> int:
        """What is left and not reserved, and so what may be taken out."""
        return self.left_nano - self.held_nano


class CreditStore(Protocol):
    async def add(self, entry: CreditEntry, *, by: Actor, below_zero: bool = False) -> CreditEntry:
        """Gives the entry, or the one that has its idempotency key already. Raises NotFound, Conflict when that one is another
        project's or amount, and when more is taken than is free unless it may go `below_zero`.
        """
        ...

    async def page(self, project_id: str, *, before: str | None = None, limit: int = 100) -> Sequence[CreditEntry]:
        """Newest first; `before`: the id of an entry."""
        ...

    async def balance(self, project_id: str) -> Balance: ...
