"""The usage row: the ledger's append-only record of one request, written once when the request reaches its terminal state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import msgspec


class Outcome(StrEnum):
    """How a request ended. Every row has exactly one."""

    CLIENT_ABORTED = "client_aborted"
    COMPLETED = "completed"
    ENGINE_FAILED = "engine_failed"
    ENGINE_REFUSED = "engine_refused"
    ENGINE_TIMEOUT = "engine_timeout"
    INTERRUPTED = "interrupted"
    """We ended it: a stop whose drain time was over, or a defect of ours."""
    UNAVAILABLE = "unavailable"
    """No engine could be asked: none is there, loading, or all at their capacity."""


class BillingReason(StrEnum):
    """Why a row costs what it costs."""

    ABORTED_AFTER_OUTPUT = "aborted_after_output"
    """The caller left; what the engine had made by then is billed."""
    ABORTED_BEFORE_OUTPUT = "aborted_before_output"
    """The caller left before the engine gave anything: free."""
    ANSWERED = "answered"
    CORRECTED = "corrected"
    """The row puts an earlier one right; it costs the difference."""
    FAILED_AFTER_OUTPUT = "failed_after_output"
    """The answer broke off on our side: free."""
    FAILED_BEFORE_OUTPUT = "failed_before_output"
    """No answer: free."""
    LIMIT_REACHED = "limit_reached"
    """A limit, the money or the longest time of a request ended while it ran; what was made until then is billed, at most what was
    held.
    """
    READ_TO_END = "read_to_end"
    """The caller left, but the provider charges for the whole answer, so it was read to its end and is billed."""
    REFUSED = "refused"
    """The engine found the request unacceptable: free."""
    REFUSED_AFTER_OUTPUT = "refused_after_output"
    """The engine refused a part of the request after it had answered another; what was made until then is billed."""


FREE = frozenset(
    {
        BillingReason.ABORTED_BEFORE_OUTPUT,
        BillingReason.FAILED_AFTER_OUTPUT,
        BillingReason.FAILED_BEFORE_OUTPUT,
        BillingReason.REFUSED,
    }
)
"""Rows with one of these reasons cost nothing, whatever was counted."""


class UsageSource(StrEnum):
    COUNTED = "counted"
    """At least one side is our own estimate, since the engine gave no usable count of it."""
    ENGINE = "engine"
    NONE = "none"
    """Nothing was made, so there is nothing to count."""


class UsageRow(msgspec.Struct, frozen=True):
    """`id` is the answer's id. Times in ms; the token classes are disjoint; `cost_nano` in nano-units of `currency`.

    `usage_suspect`: some of the engine's counts was missing or absurd, and was concluded, estimated or bent to what is possible.
    `hold_nano`: what was held before it ran. `energy_uwh`: estimated micro-watt-hours. `corrects`: the id of the row that
    this one, written later, puts right; its numbers are differences.
    `ttft_ms`: from the arrival of the request to the first piece of the answer; None when there was none.
    """

    id: str
    request_id: str
    project_id: str
    key_id: str
    end_user: str | None
    endpoint: str
    streamed: bool
    started_ms: int
    duration_ms: int
    ttft_ms: int | None
    model_id: str
    requested_model: str
    provider_id: str | None
    backend_id: str | None
    engine_type: str | None
    machine_name: str | None
    routing_reason: str | None
    attempts: int
    catalogue_revision: int
    outcome: str
    error_code: str | None
    finish_reason: str | None
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    usage_source: str
    usage_suspect: bool
    billing_reason: str
    price_version: int | None
    currency: str
    cost_nano: int
    tier_id: str | None = None
    hold_nano: int | None = None
    documents: int = 0
    energy_uwh: int = 0
    corrects: str | None = None


COLUMNS: tuple[str, ...] = UsageRow.__struct_fields__


def correction_of(row: UsageRow, *, row_id: str, difference_nano: int, now_ms: int) -> UsageRow:
    """The row that changes what an earlier one costs. It belongs to the time at which it is made: what was billed stays."""
    nothing = {"input_tokens": 0, "cached_input_tokens": 0, "output_tokens": 0, "reasoning_tokens": 0, "documents": 0}
    return msgspec.structs.replace(
        row,
        **nothing,
        id=row_id,
        corrects=row.id,
        started_ms=now_ms,
        duration_ms=0,
        ttft_ms=None,
        attempts=0,
        usage_source=UsageSource.NONE.value,
        usage_suspect=False,
        billing_reason=BillingReason.CORRECTED.value,
        cost_nano=difference_nano,
        hold_nano=None,
        energy_uwh=0,
    )


BILLED = frozenset({Outcome.CLIENT_ABORTED, Outcome.COMPLETED})
"""Outcomes whose tokens are charged. A caller who left before any output made no tokens."""
MAY_COST = BILLED | {Outcome.ENGINE_REFUSED}
"""Outcomes of rows that may cost something. A request that was refused before any output made no tokens."""


def is_unpriced(row: UsageRow) -> bool:
    """Whether it cost nothing because nobody had set a price. A price of 0 is one."""
    return row.price_version is None and row.outcome in BILLED


class Grouping(StrEnum):
    """What sums of rows can be made by."""

    BACKEND = "backend"
    DAY = "day"
    END_USER = "end-user"
    HOUR = "hour"
    KEY = "key"
    MEMBER = "member"
    """The owner of the key that was used; none for keys without one."""
    MODEL = "model"
    MONTH = "month"
    OUTCOME = "outcome"
    PROJECT = "project"
    TIER = "tier"
    """The tier that the project was on at the time."""


FROM_ROWS = frozenset({Grouping.END_USER, Grouping.TIER})
"""These are on rows only: sums by them end where retention has taken the rows away, and read every row of the span, but
that sums by end user without another filter are made beforehand."""


class Ranked(StrEnum):
    """What the largest groups are the largest by."""

    TOKENS = "tokens"
    COST = "cost"
    REQUESTS = "requests"


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which rows: None takes all. `from_ms` is within, `to_ms` is not. `id` is that of the answer."""

    project_id: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    key_id: str | None = None
    model_id: str | None = None
    backend_id: str | None = None
    outcome: str | None = None
    member_id: str | None = None
    end_user: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class UsageSum:
    """`group` has one value for each grouping that was asked for, in that order. `energy_uwh` is an estimate.
    `unpriced_requests`: those of the requests for which `is_unpriced` holds.

    `ttft_ms` is the sum over those `ttft_requests` that gave a first piece.
    """

    group: tuple[str | None, ...]
    currency: str
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_nano: int
    documents: int = 0
    energy_uwh: int = 0
    duration_ms: int = 0
    ttft_ms: int = 0
    ttft_requests: int = 0
    unpriced_requests: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.cached_input_tokens + self.output_tokens + self.reasoning_tokens


@dataclass(frozen=True, slots=True)
class Largest:
    """`lines`: the largest groups, largest first. `columns`: of the first of them, by time and group.

    `every`: all there is, by time, also what retention has left no groups of. `count`: of all groups, each currency by itself.
    """

    lines: list[UsageSum]
    columns: list[UsageSum]
    every: list[UsageSum]
    count: int


class TokenClass(StrEnum):
    """The disjoint classes that tokens are priced by; OTHER is what a bill holds besides."""

    INPUT = "input"
    CACHED_INPUT = "cached_input"
    OUTPUT = "output"
    REASONING = "reasoning"
    OTHER = "other"
    """No tokens: charges for requests and documents, corrections, and the rounding of each request."""


@dataclass(frozen=True, slots=True)
class ClassSum:
    """One class of tokens within a group. Each class's cost is rounded half up once; with OTHER they add up to the bill."""

    group: tuple[str | None, ...]
    currency: str
    token_class: TokenClass
    requests: int
    tokens: int
    cost_nano: int
    unpriced_requests: int = 0


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place after a row in a list that is newest first."""

    started_ms: int
    id: str

    def __str__(self) -> str:
        return f"{self.started_ms}:{self.id}"

    @staticmethod
    def after(row: UsageRow) -> Cursor:
        return Cursor(row.started_ms, row.id)

    @staticmethod
    def parse(text: str) -> Cursor:
        """ValueError when it is none of ours."""
        started, colon, row_id = text.partition(":")
        if not colon or not row_id or not started.isascii() or not started.isdigit() or len(started) > 15:
            raise ValueError("is no cursor of this list")
        return Cursor(int(started), row_id)


class UsageReader(Protocol):
    async def sums(self, where: UsageFilter, by: Sequence[Grouping]) -> list[UsageSum]:
        """One sum for each value of the groupings and each currency, in order."""
        ...

    async def largest(
        self, where: UsageFilter, by: Grouping, ranked: Ranked, time: Grouping, *, limit: int, drawn: int
    ) -> Largest:
        """The database ranks, so that only those groups are read. `by`: end user or key."""
        ...

    async def requests_from_rows(self, where: UsageFilter, by: Sequence[Grouping]) -> dict[str, int]:
        """How many requests of each day `sums` of end users read row by row; days of which they read none are left out."""
        ...

    async def class_sums(self, where: UsageFilter, by: Sequence[Grouping]) -> list[ClassSum]:
        """The same by class of tokens, each with what it costs by the price versions of its rows."""
        ...

    async def page(self, where: UsageFilter, *, limit: int, after: Cursor | None = None) -> list[UsageRow]:
        """At most `limit` rows, newest first, from the place after a row on."""
        ...

    def rows(self, where: UsageFilter, limit: int | None = None) -> AsyncIterator[UsageRow]:
        """Single rows, newest first, in constant memory. Rows that arrive meanwhile are not among them."""
        ...
