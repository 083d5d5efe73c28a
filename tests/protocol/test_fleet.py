"""The text of fleet files: where its keys stand, and that what is written reads back the same."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaas.errors import ConfigurationError
from llmaas.protocol.fleet import parse, write
from llmaas.protocol.positions import Path, locate


def paths(value: object, path: Path = ()) -> set[Path]:
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    found = {path} if path else set()
    return found.union(*(paths(item, (*path, key)) for key, item in inner))


LINES: list[tuple[str, str, dict[Path, int]]] = [
    ("comments and blank lines", "# a\n\na = 1 # b = 2\n\n# c\nd = 2", {("a",): 3, ("d",): 6}),
    ("tables", "[a]\nb = 1\n[c.d]\ne = 2\n", {("a", "b"): 2, ("c",): 3, ("c", "d"): 3, ("c", "d", "e"): 4}),
    (
        "lists of tables",
        "[[m]]\nid = 'a'\n[m.card]\nx = 1\n[[m]]\nid = 'b'\n[m.card]\nx = 2\n",
        {("m",): 1, ("m", 0): 1, ("m", 0, "card", "x"): 4, ("m", 1): 5, ("m", 1, "id"): 6, ("m", 1, "card", "x"): 8},
    ),
    (
        "lists of tables in lists of tables",
        "[[a]]\n[[a.b]]\nc=1\n[[a.b]]\nc=2\n[[a]]\n[[a.b]]\nc=3",
        {
            ("a", 0, "b", 1, "c"): 5,
            ("a", 1, "b", 0, "c"): 8,
        },
    ),
    ("headers with spaces and quotes", "[ 'a b' . \"c\\u0041\" ]\nd = 1", {("a b", "cA", "d"): 2}),
    ("dotted keys", 'a.b.c = 1\na.b.d = 2\n"x.y" = 3', {("a",): 1, ("a", "b", "d"): 2, ("x.y",): 3}),
    (
        "inline tables",
        "\np = { a = 1, b.c = 2, d = { e = 3 } }",
        {("p", "a"): 2, ("p", "b", "c"): 2, ("p", "d", "e"): 2},
    ),
    (
        "lists over lines",
        "a = [\n  1, # [x]\n  [2,\n  3],\n  { b = 4 },\n]\nc = 5",
        {
            ("a", 0): 2,
            ("a", 1): 3,
            ("a", 1, 1): 4,
            ("a", 2, "b"): 5,
            ("c",): 7,
        },
    ),
    ("multi-line strings", 'a = """\n[[x]]\nb = 1 \\"\\"\\" \n"""\nc = 2', {("c",): 5}),
    ("quotes before the closing quotes", "a = \"\"\"x\"\"\"\"\"\nb = '''y'''''\nc = 1", {("b",): 2, ("c",): 3}),
    ("literal multi-line strings", "a = '''\n]\n\\'''\nc = 2", {("c",): 4}),
    ("empty strings", "a = \"\"\nb = ''\nc = \"\"\"\"\"\"\nd = ''''''\ne = 1", {("e",): 5}),
    ("strings that look like something else", 'a = "#[[x]]={\\"}" # "\nb = \'"\'\nc = 1', {("c",): 3}),
    (
        "dates and numbers",
        "a = 2026-01-31 07:32:00Z\nb = [1.5e3, 0x1F, -inf, 07:32:00]\nc = 1",
        {("b", 3): 2, ("c",): 3},
    ),
    ("CRLF", '[a]\r\nb = """\r\n\r\n"""\r\nc = 1\r\n', {("a", "b"): 2, ("a", "c"): 5}),
]


@pytest.mark.parametrize(("text", "lines"), [case[1:] for case in LINES], ids=[case[0] for case in LINES])
def test_keys_are_found_on_their_lines(text: str, lines: dict[Path, int]) -> None:
    found = locate(text)
    assert {path: found.get(path) for path in lines} == lines
    assert found.keys() == paths(tomllib.loads(text))


_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    _names,
)
_anything = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=12,
)
_roots = st.dictionaries(
    _names, st.lists(st.dictionaries(_names, _anything, max_size=5), min_size=1, max_size=3), max_size=4
)


@given(_roots)
def test_what_is_written_reads_back_the_same(values: dict[str, Any]) -> None:
    text = write(values)
    document = parse(text, "x")
    assert document.values == values
    assert document.lines.keys() == paths(values)


@given(_roots)
def test_lines_lead_to_the_keys(values: dict[str, Any]) -> None:
    text = write(values).split("\n")
    for path, line in locate("\n".join(text)).items():
        if isinstance(path[-1], str) and path[-1].isascii() and path[-1].isalnum():
            assert path[-1] in text[line - 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\nb =\n", "f.toml:2: Invalid value"),
        ("a = 1\na = 2\n", "f.toml:2: Cannot overwrite a value"),
        ("[a\n", "f.toml:1: Expected ']' at the end of a table declaration"),
        ('a = """\n', "f.toml:2: Unterminated string"),
        ("a = 1\nb", "f.toml:2: Expected '=' after a key in a key/value pair"),
        ("a = " + "[" * 5000, "f.toml: is nested too deeply"),
        ("a = " + "1" * 5000, "f.toml: "),
        ("a = 2026-02-31", "f.toml:1: Invalid date or datetime"),
    ],
)
def test_what_is_not_toml_is_refused_with_its_line(text: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, "f.toml")
    (problem,) = caught.value.problems
    assert problem.startswith(expected)


def test_a_missing_value_is_looked_for_where_it_should_be() -> None:
    document = parse("\n[[models]]\nkind = 'chat'\n", "f.toml")
    assert document.line_of(("models", 0, "id")) == 2
    assert document.line_of(("models", 0, "kind")) == 3
    assert document.line_of(()) == 1


def test_simple_values_stand_before_tables() -> None:
    text = write({"models": [{"card": {"editor": "IBM"}, "id": "m", "price": {"input": "1.80"}}]})
    assert text == '[[models]]\nid = "m"\nprice = { input = "1.80" }\n[models.card]\neditor = "IBM"\n'
