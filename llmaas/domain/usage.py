"""The usage row: the ledger's append-only record of one request, written once when the request reaches its terminal state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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
    FAILED_AFTER_OUTPUT = "failed_after_output"
    """The answer broke off on our side: free."""
    FAILED_BEFORE_OUTPUT = "failed_before_output"
    """No answer: free."""
    READ_TO_END = "read_to_end"
    """The caller left, but the provider charges for the whole answer, so it was read to its end and is billed."""
    REFUSED = "refused"
    """The engine found the request unacceptable: free."""


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
    """The engine gave no usable counts: output is the pieces we saw, input is an estimate from its size."""
    ENGINE = "engine"
    NONE = "none"
    """Nothing was made, so there is nothing to count."""


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """`id` is the answer's id. Times in ms; the token classes are disjoint; `cost_nano` in nano-units of `currency`.

    `usage_suspect`: the engine's counts were missing or absurd and were clamped to what is possible.
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


class Grouping(StrEnum):
    """What sums of rows can be made by."""

    BACKEND = "backend"
    DAY = "day"
    END_USER = "end-user"
    KEY = "key"
    MODEL = "model"
    OUTCOME = "outcome"
    PROJECT = "project"


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which rows: None takes all. `from_ms` is within, `to_ms` is not."""

    project_id: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None


@dataclass(frozen=True, slots=True)
class UsageSum:
    """`group` has one value for each grouping that was asked for, in that order."""

    group: tuple[str | None, ...]
    currency: str
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_nano: int
