"""Energy: integers from what a card says, and nothing from what it cannot mean."""

from __future__ import annotations

import pytest

from llmaas.domain.energy import energy_uwh, format_wh, parse_rate, rate_of
from llmaas.domain.prices import TokenCounts


def test_a_kilowatt_hour_for_a_million_tokens_is_a_thousand_micro_watt_hours_each() -> None:
    assert energy_uwh(parse_rate(1), TokenCounts(1, 2, 3, 4)) == 10_000
    assert energy_uwh(parse_rate("0.35"), TokenCounts(input=1_000_000)) == 350_000_000
    assert energy_uwh(0, TokenCounts(input=5)) == 0


def test_it_is_rounded_half_up_once() -> None:
    rate = parse_rate("0.0005")
    assert rate == 500_000
    assert [energy_uwh(rate, TokenCounts(output=n)) for n in (1, 2, 3)] == [1, 1, 2]


@pytest.mark.parametrize(("value", "rate"), [(0, 0), (0.1, 10**8), ("2", 2 * 10**9), (1e-05, 10_000), (1000, 10**12)])
def test_numbers_and_strings_say_the_same(value: object, rate: int) -> None:
    assert parse_rate(value) == rate
    assert rate_of({"energy_kwh_per_mtok": value}) == rate


@pytest.mark.parametrize("value", [True, None, "", "much", -1, "-0.1", 1001, float("inf"), "NaN", [1], {"a": 1}])
def test_what_is_no_rate_is_refused_in_a_file_and_harmless_on_a_card(value: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_rate(value)
    assert rate_of({"energy_kwh_per_mtok": value}) == 0


def test_a_card_that_says_nothing_has_no_energy() -> None:
    assert rate_of({}) == 0


@pytest.mark.parametrize(
    ("uwh", "text"), [(0, "0.0"), (1, "0.000001"), (1_234_500, "1.2345"), (10**7, "10.0"), (-1_500_000, "-1.5")]
)
def test_watt_hours_are_written_as_decimals(uwh: int, text: str) -> None:
    assert format_wh(uwh) == text
