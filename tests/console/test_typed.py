"""Typed money and numbers: one reading or a question, in every language; and what fields show is read as what it was."""

from __future__ import annotations

import random

import pytest

from llmaas.console.pages.fields import Fields
from llmaas.console.pages.form_values import amount_field, amounts, signed_decimal, whole_numbers
from llmaas.console.texts import LANGUAGES, Texts
from llmaas.console.typed import Unclear, read_decimal, read_whole, spelled
from llmaas.domain.prices import NANO, format_amount, parse_amount

TEXTS = Texts()


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("1.50", "1.50"),
        ("1,50", "1.50"),
        ("1.000,50", "1000.50"),
        ("1,000.50", "1000.50"),
        ("1 000", "1000"),
        ("1\u202f000,5", "1000.5"),
        ("1\u00a0000\u00a0000", "1000000"),
        ("1'000.5", "1000.5"),
        ("12,345,678", "12345678"),
        ("0,125", "0.125"),
        ("1.1250", "1.1250"),
        ("1234,567", "1234.567"),
        (" 7 ", "7"),
    ],
)
def test_what_has_one_reading_is_read(text: str, plain: str) -> None:
    assert read_decimal(text) == plain


@pytest.mark.parametrize(
    ("text", "readings"),
    [("1,000", ("1000", "1.000")), ("1.000", ("1000", "1.000")), ("19,999", ("19999", "19.999"))],
)
def test_what_has_two_readings_is_never_read(text: str, readings: tuple[str, str]) -> None:
    with pytest.raises(Unclear) as asked:
        read_decimal(text)
    assert asked.value.readings == readings


@pytest.mark.parametrize(
    "text", ["", "-1", "1e3", ".5", "5.", "1.2.3", "12,34,567", "1 00", "1,000,00", "١", "0x1", "1_000"]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no number"):
        read_decimal(text)


@pytest.mark.parametrize(("group", "foreign"), [(",", "20.000"), (".", "20,000"), ("\u202f", "20.000")])
def test_a_whole_number_may_be_grouped_as_the_language_does(group: str, foreign: str) -> None:
    assert [read_whole(text, group) for text in ("20000", f"20{group}000", "20 000")] == [20_000] * 3
    with pytest.raises(Unclear):
        read_whole(foreign, group)
    with pytest.raises(ValueError, match="whole"):
        read_whole("2.5", group)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_a_field_shows_is_read_as_what_it_was(language: str) -> None:
    t, dice = TEXTS.words(language), random.Random(7)
    some = [dice.randrange(10 ** dice.randint(1, 15)) // 10 ** (n := dice.randint(0, 9)) * 10**n for _ in range(5_000)]
    for nano in (0, 1, 1_125_000_000, 19_999 * NANO, 19_999 * NANO // 1_000, 1_000_000 * NANO, *some):
        fields = Fields(t, {"amount": amount_field(nano, t)})
        assert parse_amount(amounts(fields, ["amount"])["amount"]) == nano, fields.values
        entry = Fields(t, {"amount": f"-{amount_field(nano, t)}"})
        assert signed_decimal(entry, "amount") == f"-{format_amount(nano)}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_a_page_shows_can_be_typed_too(language: str) -> None:
    t, dice = TEXTS.words(language), random.Random(8)
    for whole in (1, 999, 1_000, 19_999, 1_000_000, *(dice.randrange(10**6) for _ in range(500))):
        fields = Fields(t, {"amount": f"{t.number(whole)}{t.point}50", "count": t.number(max(1, whole))})
        if whole < 1_000_000:
            assert parse_amount(amounts(fields, ["amount"])["amount"]) == whole * NANO + NANO // 2
        assert whole_numbers(fields, ["count"]) == {"count": max(1, whole)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_question_shows_both_readings_as_they_can_be_typed(language: str) -> None:
    t = TEXTS.words(language)
    for text in ("1,000", "1.000", "2.125"):
        fields = Fields(t, {"amount": text})
        assert amounts(fields, ["amount"]) == {}
        larger = text.replace(",", "").replace(".", "")
        smaller = f"{text[0]}{t.point}{'00' if text[2:] == '000' else '1250'}"
        assert larger in fields.fault("amount")
        assert smaller in fields.fault("amount")
        assert [read_decimal(one) for one in (larger, smaller)] == [larger, smaller.replace(",", ".")]


def test_an_amount_is_spelled_without_a_point() -> None:
    assert [spelled(text) for text in ("1000.00", "1.50", "0.125")] == ["1000", "1 + 50/100", "0 + 125/1000"]
