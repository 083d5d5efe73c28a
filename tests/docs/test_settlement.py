"""The published settlement table is what happens."""

from __future__ import annotations

import re
from collections import defaultdict

from llmaas import errors
from llmaas.domain.usage import FREE, MAY_COST, BillingReason, Outcome
from llmaas.inference.relay import ending_of
from tests.docs.tables import DOCS
from tests.inference.test_meter import meter, piece

ROW = re.compile(r"^\| `(\w+)` \| (.+) \| (?:`(\w+)`|that of the request) \| (.+) \|$", re.MULTILINE)
TABLE = ROW.findall((DOCS / "settlement.md").read_text())
MADE = {BillingReason.ANSWERED, BillingReason.LIMIT_REACHED, BillingReason.READ_TO_END, BillingReason.CORRECTED}
"""Reasons that no error leads to."""
ERRORS: tuple[Exception, ...] = (
    errors.ClientGone("x"),
    errors.ContextTooLong("x"),
    errors.Draining("x"),
    errors.EngineBusy("x"),
    errors.EngineFailed("x"),
    errors.EngineRefused("x"),
    errors.EngineTimeout("x", phase="connect"),
    errors.InvalidRequest("x"),
    errors.NoBackend("x"),
    errors.Saturated("x"),
    ValueError("a defect"),
)


def published() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for reason, _, outcome, _ in TABLE:
        found[reason].add(outcome)
    return found


def test_every_reason_and_every_outcome_is_in_the_table() -> None:
    assert set(published()) == set(BillingReason)
    assert set().union(*published().values()) - {""} == set(Outcome)


def test_what_is_free_is_said_to_be_free() -> None:
    assert {reason for reason, _, _, charged in TABLE if charged == "nothing"} == FREE
    assert all((outcome in MAY_COST) for reason, _, outcome, _ in TABLE if outcome and reason not in FREE)


def test_every_error_ends_a_request_as_the_table_says() -> None:
    seen: dict[str, set[str]] = defaultdict(set)
    began = meter()
    began.request.stream = True
    began.feed([piece()])
    for error in ERRORS:
        for counting in (None, began):
            ending = ending_of(error, counting)
            seen[ending.billing_reason].add(ending.outcome)
    for reason, outcomes in published().items():
        if reason not in MADE:
            assert outcomes <= seen[reason], f"{reason} can never end so"
    assert set(seen) == {reason for reason in BillingReason if reason not in MADE}
