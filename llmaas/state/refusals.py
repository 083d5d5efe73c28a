"""What a refused caller is told: which limit, whose it is, its number, and when to come again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from llmaas.domain.ports import Standing
from llmaas.domain.prices import format_amount
from llmaas.domain.rates import Counter
from llmaas.errors import QuotaExceeded, RateLimited
from llmaas.state.rules import Kind, Rule

Needs = Sequence[tuple[Rule, Counter, int]]
"""So much of each of these counters."""

_SOON_S = 1.0
"""When to come again where only the end of a running request makes room, which nobody can foretell."""


def refusal(short: Needs, standing: Standing, *, at_ms: int, now_ms: int) -> RateLimited | QuotaExceeded:
    """For the counters that refuse (at least one): money first, since waiting does not help there, else the longest wait.

    `at_ms`: wall time; `now_ms`: monotonic.
    """
    money = [part for part in short if part[0].kind is Kind.MONEY]
    error = _out_of_money(money[0]) if money else _out_of_room(short, at_ms, now_ms)
    error.standing = standing
    return error


def _out_of_money(part: tuple[Rule, Counter, int]) -> QuotaExceeded:
    rule, counter, need = part
    amount = (
        "credit" if rule.limit is None else f"{rule.text.replace('budget', f'budget of {format_amount(rule.limit)}')}"
    )
    if counter.held and counter.free(0) + counter.held >= need:
        return QuotaExceeded(
            f"What is left of the {_owner(rule)}'s {amount} is reserved for requests that are running.",
            retry_after_s=_SOON_S,
        )
    left = _left(rule, counter, 0)
    if not left and not counter.held:
        return QuotaExceeded(f"Nothing is left of the {_owner(rule)}'s {amount}.{_anew(rule)}")
    return QuotaExceeded(
        f"The {_owner(rule)}'s {amount} does not suffice for this request, which may cost up to {format_amount(need)}, and"
        f" {format_amount(left)} is left. A smaller max_tokens or a shorter prompt needs less.{_anew(rule)}"
    )


def _out_of_room(short: Needs, at_ms: int, now_ms: int) -> RateLimited:
    for rule, _, need in short:
        if rule.limit is not None and need > rule.limit:
            return RateLimited(
                f"The request may use up to {need} tokens, more than the {_owner(rule)}'s limit of {rule.limit} {rule.text}. "
                "Ask for fewer output tokens."
            )
    wait_s, (rule, counter, need) = max(
        ((_wait_s(part, at_ms, now_ms), part) for part in short), key=lambda wait: wait[0]
    )
    tokens = rule.kind in {Kind.TOKENS, Kind.OUTPUT}
    left = f" {_left(rule, counter, now_ms)} are left, and this request may use up to {need}." if tokens else ""
    message = f"The {_owner(rule)}'s limit of {rule.limit} {rule.text} is reached.{left}{_anew(rule)}"
    return RateLimited(message, retry_after_s=wait_s)


def _left(rule: Rule, counter: Counter, now_ms: int) -> int:
    """A limit that was lowered meanwhile is what it is now."""
    left = counter.left(now_ms)
    return left if rule.limit is None else min(rule.limit, left)


def _anew(rule: Rule) -> str:
    """When it begins anew, of what does at a time; rates drain instead, and what is for ever does not."""
    if rule.until_ms is None:
        return ""
    return f" It begins anew at {datetime.fromtimestamp(rule.until_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC."


def _wait_s(part: tuple[Rule, Counter, int], at_ms: int, now_ms: int) -> float:
    rule, counter, need = part
    if rule.until_ms is not None and counter.free(now_ms) + counter.held < need:
        return max(0.001, (rule.until_ms - at_ms) / 1000)
    wait_ms = counter.wait_ms(need, now_ms)
    return _SOON_S if wait_ms is None else max(1, wait_ms) / 1000


def _owner(rule: Rule) -> str:
    return rule.scope.partition(":")[0]
