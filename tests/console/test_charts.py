"""Charts are drawings of shapes: what they show, leave out, tell, and never let through."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaas.console.charts import COLOURS, Chart, Series, lines, merged, round_up, sparkline, stacked_bars


def _columns(chart: Chart) -> list[ET.Element]:
    drawing = ET.fromstring(str(chart.svg))  # noqa: S314 - our own
    return [part for part in drawing if part.get("class") == "column"]


def _bars(column: ET.Element) -> list[ET.Element]:
    return [bar for bar in column if (bar.get("class") or "").startswith("series-")]


def _told(column: ET.Element) -> str:
    return column[0].text or ""


def test_bars_stand_on_each_other_and_reach_as_high_as_their_sum() -> None:
    chart = stacked_bars("Tokens", ["1", "2"], [Series("a", [30, 0]), Series("b", [70, 50])], str)
    first, second = _columns(chart)
    assert [(bar.get("class"), bar.get("y"), bar.get("height")) for bar in _bars(first)] == [
        ("series-1", "140", "60"),
        ("series-2", "0", "140"),
    ]
    assert [(bar.get("class"), bar.get("y")) for bar in _bars(second)] == [("series-2", "100")]
    assert chart.ticks == ("100", "50", "0")
    assert _told(first) == "1: 100\n\u2068a\u2069: 30\n\u2068b\u2069: 70"
    assert chart.rows == (("1", ("30", "70")), ("2", ("0", "50")))


def test_series_without_a_value_are_not_there() -> None:
    chart = stacked_bars("Tokens", ["1"], [Series("none", [0]), Series("some", [5])], str)
    assert [entry.name for entry in chart.legend] == ["some"]
    assert stacked_bars("Tokens", ["1"], [Series("none", [0])], str).is_empty
    assert stacked_bars("Tokens", [], [], str).is_empty


def test_a_small_value_beside_a_large_one_looks_no_larger_than_it_is() -> None:
    days = [10**9, 1, 0]
    chart = stacked_bars("Tokens", ["1", "2", "3"], [Series("big", days), Series("small", [1, 1, 0])], str)
    large, small, nothing = _columns(chart)
    assert [bar.get("class") for bar in _bars(large)] == ["series-1"]
    assert _bars(small) == []
    assert [part.get("class") for part in small if part.tag.endswith("rect")] == ["hover", "trace"]
    assert [part.get("class") for part in nothing if part.tag.endswith("rect")] == ["hover"]


def test_many_small_parts_come_to_no_more_than_their_sum() -> None:
    parts = [Series(str(n), [1, 0]) for n in range(8)]
    (column, _) = _columns(stacked_bars("Tokens", ["1", "2"], [*parts, Series("day", [0, 1_000])], str))
    assert sum(int(bar.get("height") or 0) for bar in _bars(column)) == 200 * 8 // 1_000


def test_a_line_is_broken_where_nothing_is_known() -> None:
    chart = lines("Latency", ["1", "2", "3", "4"], [Series("ms", [10, None, 20, 10])], str)
    drawing = ET.fromstring(str(chart.svg))  # noqa: S314 - our own
    (path,) = [part for part in drawing if part.get("class") == "series-1"]
    assert (path.get("d") or "").count("M") == 2
    assert _told(_columns(chart)[1]) == "2"


def test_A12_names_are_text_in_every_drawing() -> None:
    hostile = '"><script>alert(1)</script>'
    for drawing in (
        stacked_bars(hostile, [hostile], [Series(hostile, [1])], str).svg,
        lines(hostile, [hostile], [Series(hostile, [1])], str).svg,
        sparkline(hostile, [1, 2]),
    ):
        assert "<script" not in drawing
        ET.fromstring(str(drawing))  # noqa: S314 - our own


@given(st.integers(min_value=0, max_value=10**18))
def test_the_top_of_an_axis_is_round_and_not_too_far(value: int) -> None:
    top = round_up(value)
    assert value <= top
    assert top % 2 == 0
    assert top <= max(2, 2 * value)


@pytest.mark.parametrize("count", [1, COLOURS, COLOURS + 5])
def test_too_many_series_become_one(count: int) -> None:
    given_series = [Series(f"s{n}", [n + 1, 1]) for n in range(count)]
    shown = merged(given_series, "others")
    assert len(shown) == min(count, COLOURS)
    assert sum(v or 0 for one in shown for v in one.values) == sum(v or 0 for one in given_series for v in one.values)
    if count > COLOURS:
        assert shown[-1].name == "others"
        assert shown[0].name == f"s{count - 1}"
