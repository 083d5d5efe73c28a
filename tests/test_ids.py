"""Identifiers are version 7 UUIDs (RFC 9562), sortable by the time of making."""

from __future__ import annotations

import time
import uuid

from llmaas.ids import IdSource


def test_ids_are_random_uuids_of_version_7_in_the_order_of_their_time() -> None:
    source = IdSource()
    before_ms = time.time_ns() // 1_000_000
    made = [source.uuid7() for _ in range(1000)]
    after_ms = time.time_ns() // 1_000_000
    assert len(set(made)) == len(made)
    parsed = [uuid.UUID(hex=one) for one in made]
    assert {one.version for one in parsed} == {7}
    assert {one.variant for one in parsed} == {uuid.RFC_4122}
    assert [one.hex for one in parsed] == made
    times_ms = [one.int >> 80 for one in parsed]
    assert times_ms == sorted(times_ms)
    assert before_ms <= times_ms[0] <= times_ms[-1] <= after_ms


def test_every_bit_but_the_time_and_the_marks_is_random() -> None:
    """Of a thousand ids each such bit is set in some and not in others, and each other one is the same in all."""
    source = IdSource()
    tails = [int(source.uuid7(), 16) & (1 << 80) - 1 for _ in range(1000)]
    ever = always = tails[0]
    for tail in tails:
        ever |= tail
        always &= tail
    marks = 0xF << 76 | 0b11 << 62
    assert ever & ~always == (1 << 80) - 1 & ~marks
    assert always & marks == 7 << 76 | 0b10 << 62
