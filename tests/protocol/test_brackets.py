"""Where a value ends, whatever pieces its text comes in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaas.protocol.brackets import Brackets

_texts = st.text(alphabet='"\\{}[]a, é', max_size=8)
_values = st.recursive(
    _texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3), max_leaves=6
).filter(lambda value: not isinstance(value, str))


@given(_values, st.text(alphabet='"}{] a', max_size=5), st.integers(1, 7), st.sampled_from([None, 1]))
def test_a_value_is_taken_and_nothing_behind_it(value: object, rest: str, size: int, indent: int | None) -> None:
    said = json.dumps(value, ensure_ascii=False, indent=indent)
    text, brackets, taken = said + rest, Brackets(), 0
    for at in range(0, len(text), size):
        piece = text[at : at + size]
        taken += brackets.take(piece)
        assert brackets.ended == (at + len(piece) >= len(said))
    assert taken == len(said)


@pytest.mark.parametrize(("text", "taken"), [('"a}" }', 5), ("5}", 1), ("}", 0), ("null ]x", 5)])
def test_a_value_without_brackets_ends_before_one_that_closes_nothing(text: str, taken: int) -> None:
    brackets = Brackets()
    assert brackets.take(text) == taken
    assert brackets.ended
    assert brackets.take("more") == 0
