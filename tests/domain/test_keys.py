"""Keys: their form, their checksum, and when they work."""

from __future__ import annotations

import dataclasses
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaas.domain import keys
from llmaas.domain.keys import Key

ALPHABET = string.ascii_letters + string.digits + "_-./+= \x00é１²"
TOKENS = st.builds(lambda _: keys.mint()[0], st.integers(0, 1_000_000))


@given(st.text())
def test_A17_parsing_never_raises(text: str) -> None:
    assert keys.parse(text) is None


@given(st.text(alphabet=ALPHABET, min_size=66, max_size=66))
def test_A17_parsing_text_of_the_right_length_never_raises(text: str) -> None:
    assert keys.parse(text) is None


@given(st.text(alphabet=ALPHABET, min_size=59, max_size=59))
def test_A17_the_brand_alone_is_no_key(rest: str) -> None:
    assert keys.parse(f"llmaas_{rest}") is None


def test_A17_what_is_minted_is_parsed() -> None:
    seen = set()
    for _ in range(1_000):
        token, parts = keys.mint()
        assert keys.parse(token) == parts
        assert token == f"llmaas_{parts.kid}_{parts.secret}{token[-6:]}"
        assert len(token) == 66
        seen.add((parts.kid, parts.secret))
    assert len({kid for kid, _ in seen}) == len({secret for _, secret in seen}) == 1_000


@given(TOKENS, st.integers(0, 65), st.characters())
def test_A17_any_changed_character_is_refused(token: str, position: int, character: str) -> None:
    changed = token[:position] + character + token[position + 1 :]
    assert (keys.parse(changed) is None) == (changed != token)


def test_A17_every_single_change_of_one_key_is_refused() -> None:
    token, _ = keys.mint()
    for position, old in enumerate(token):
        for character in ALPHABET:
            if character != old:
                assert keys.parse(token[:position] + character + token[position + 1 :]) is None


@given(TOKENS, st.integers(0, 66), st.text(min_size=1, max_size=3))
def test_A17_more_or_fewer_characters_are_refused(token: str, position: int, more: str) -> None:
    assert keys.parse(token[:position] + more + token[position:]) is None
    assert keys.parse(token[:position]) is None or position == 66
    assert keys.parse(f" {token}") is None
    assert keys.parse(f"{token}\n") is None


def test_the_hash_depends_on_all_of_the_key_and_on_the_pepper() -> None:
    _, one = keys.mint()
    _, other = keys.mint()
    pepper = bytes(32)
    digest = keys.hash_secret(one, pepper)
    assert len(digest) == 32
    assert digest == keys.hash_secret(one, pepper)
    assert digest != keys.hash_secret(one, b"\x01" * 32)
    assert digest != keys.hash_secret(dataclasses.replace(one, kid=other.kid), pepper)
    assert digest != keys.hash_secret(dataclasses.replace(one, secret=other.secret), pepper)
    assert one.secret not in keys.masked(one.kid)


@pytest.mark.parametrize(
    ("expires_ms", "revoked_ms", "now_ms", "state"),
    [
        (None, None, 5, "active"),
        (10, None, 9, "active"),
        (10, None, 10, "expired"),
        (None, 10, 9, "expiring"),
        (None, 10, 10, "revoked"),
        (10, 10, 10, "revoked"),
        (5, 10, 7, "expired"),
        (10, 5, 7, "revoked"),
    ],
)
def test_the_instant_of_an_end_belongs_to_it(
    expires_ms: int | None, revoked_ms: int | None, now_ms: int, state: str
) -> None:
    key = Key("k" * 12, "default", "test", bytes(32), 0, expires_ms=expires_ms, revoked_ms=revoked_ms)
    assert key.state_at(now_ms) == state
    assert key.usable_at(now_ms) == (state in ("active", "expiring"))
