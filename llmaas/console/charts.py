"""Charts as SVG, drawn on the server: stacked bars, lines, and the small ones that stand in a table's row.

A drawing stretches to the width it is given, so it holds shapes only; words and numbers stand around it as text, and each
column tells its values to who points at it. Colours come from the stylesheet by class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_HEIGHT = 200
_COLUMN = 12
_GAP = 3
_SPARK_HEIGHT = 24
_SPARK_COLUMN = 4
_MOST_LABELS = 6
_STEPS = (2, 4, 6, 8, 10)
COLOURS = 8
"""Series beyond this many share the last one's colour; merge them before."""

Show = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Series:
    """One value for each column; None: nothing is known there, which a line leaves out."""

    name: str
    values: Sequence[int | None]

    @property
    def is_empty(self) -> bool:
        return not any(self.values)


@dataclass(frozen=True, slots=True)
class Legend:
    name: str
    css: str


@dataclass(frozen=True, slots=True)
class Chart:
    """`ticks`: from the top of the drawing to its bottom. `labels`: some of the columns, evenly spread."""

    title: str
    svg: Markup
    ticks: tuple[str, ...]
    labels: tuple[str, ...]
    legend: tuple[Legend, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """The same as a table: for each column its label, and its values in the order of `legend`."""

    @property
    def is_empty(self) -> bool:
        return not self.legend


def stacked_bars(title: str, labels: Sequence[str], series: Sequence[Series], show: Show) -> Chart:
    """Series without a value in any column are left out. What is below zero takes no room, and is told all the same. A column
    too small to be drawn has a mark below the axis instead, which is no bar.
    """
    shown = [one for one in series if not one.is_empty]
    totals = [sum(max(0, one.values[n] or 0) for one in shown) for n in range(len(labels))]
    top = round_up(max(totals, default=0))
    parts = []
    for n, label in enumerate(labels):
        floor, bars = _HEIGHT, []
        so_far = 0
        for colour, one in enumerate(shown):
            # Heights are differences of rounded sums, so a column is as high as its total and no part looks larger than it is.
            so_far += max(0, one.values[n] or 0)
            height = floor - (_HEIGHT - so_far * _HEIGHT // top)
            floor -= height
            if height:
                bars.append(
                    f'<rect class="{_css(colour)}" x="{n * _COLUMN + _GAP // 2}" y="{floor}" '
                    f'width="{_COLUMN - _GAP}" height="{height}"/>'
                )
        told = _told(label, shown, n, show, total=totals[n] if sum(bool(one.values[n]) for one in shown) > 1 else None)
        if totals[n] and floor == _HEIGHT:
            bars.append(_trace(n))
        parts.append(_column(n, told, "".join(bars)))
    return _chart(title, labels, shown, "".join(parts), top, show)


def lines(title: str, labels: Sequence[str], series: Sequence[Series], show: Show) -> Chart:
    """A line for each series, broken where it has no value; a value that stands alone is a short dash."""
    shown = [one for one in series if not one.is_empty]
    top = round_up(max((value or 0 for one in shown for value in one.values), default=0))
    paths = []
    for colour, one in enumerate(shown):
        steps = []
        for n, value in enumerate(one.values):
            if value is None:
                continue
            x, y = n * _COLUMN + _COLUMN // 2, _HEIGHT - max(0, value) * _HEIGHT // top
            begins = n == 0 or one.values[n - 1] is None
            steps.append(f"M{x - 2} {y}L{x} {y}" if begins else f"L{x} {y}")
        paths.append(f'<path class="{_css(colour)}" d="{"".join(steps)}"/>')
    columns = "".join(_column(n, _told(label, shown, n, show), "") for n, label in enumerate(labels))
    return _chart(title, labels, shown, "".join(paths) + columns, top, show)


def sparkline(title: str, values: Sequence[int]) -> Markup:
    """Bars without axes; `title` says in words what they show."""
    top = max((*values, 1))
    bars = "".join(
        f'<rect x="{n * _SPARK_COLUMN}" y="{_SPARK_HEIGHT - height}" width="{_SPARK_COLUMN - 1}" height="{height}"/>'
        for n, value in enumerate(values)
        if (height := _spark_height(value, top))
    )
    width = len(values) * _SPARK_COLUMN
    return Markup(  # noqa: S704 - numbers, and a title that is escaped
        f'<svg class="spark" viewBox="0 0 {width} {_SPARK_HEIGHT}" width="{width}" height="{_SPARK_HEIGHT}" '
        f'role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>{bars}</svg>'
    )


def round_up(value: int) -> int:
    """The top of an axis: a round even number that is not less, so that its half is whole."""
    scale = 1
    while True:
        for step in _STEPS:
            if step * scale >= value:
                return step * scale
        scale *= 10


def merged(series: Sequence[Series], name: str, most: int = COLOURS) -> list[Series]:
    """The largest series in the order of their sums; all that are too many become one of that name."""
    ranked = sorted((one for one in series if not one.is_empty), key=lambda one: -sum(v or 0 for v in one.values))
    if len(ranked) <= most:
        return ranked
    rest = ranked[most - 1 :]
    columns = len(rest[0].values)
    return [*ranked[: most - 1], Series(name, [sum(one.values[n] or 0 for one in rest) for n in range(columns)])]


def _chart(title: str, labels: Sequence[str], shown: Sequence[Series], inner: str, top: int, show: Show) -> Chart:
    width = max(1, len(labels)) * _COLUMN
    grid = "".join(
        f'<path class="grid" d="M0 {y}H{width}"/>' for y in (0, _HEIGHT // 4, _HEIGHT // 2, _HEIGHT * 3 // 4, _HEIGHT)
    )
    svg = Markup(  # noqa: S704 - numbers, and words that are escaped
        f'<svg class="chart-drawing" viewBox="0 0 {width} {_HEIGHT}" preserveAspectRatio="none" role="img" tabindex="0" '
        f'aria-label="{escape(title)}">{grid}{inner}</svg>'
    )
    legend = tuple(Legend(one.name, _css(colour)) for colour, one in enumerate(shown))
    rows = tuple(
        (label, tuple("–" if (value := one.values[n]) is None else show(value) for one in shown))
        for n, label in enumerate(labels)
    )
    return Chart(title, svg, (show(top), show(top // 2), show(0)), _some(labels), legend, rows)


def _column(n: int, told: str, bars: str) -> str:
    # The whole column takes the pointer, also above a small bar.
    hover = f'<rect class="hover" x="{n * _COLUMN}" y="0" width="{_COLUMN}" height="{_HEIGHT}"/>'
    return f'<g class="column"><title>{escape(told)}</title>{hover}{bars}</g>'


def _told(label: str, shown: Sequence[Series], n: int, show: Show, total: int | None = None) -> str:
    """`total`: stands beside the label. A name has its own direction: one from right to left turns nothing else around."""
    values = [(one.name, one.values[n]) for one in shown]
    head = label if total is None else f"{label}: {show(total)}"
    return "\n".join(
        [
            head,
            *(
                f"\N{FIRST STRONG ISOLATE}{name}\N{POP DIRECTIONAL ISOLATE}: {show(value)}"
                for name, value in values
                if value
            ),
        ]
    )


def _trace(n: int) -> str:
    """Says that there is something, without a height that could be read."""
    return f'<rect class="trace" x="{n * _COLUMN + _COLUMN // 2 - 1}" y="{_HEIGHT - 2}" width="2" height="2"/>'


def _some(labels: Sequence[str]) -> tuple[str, ...]:
    """At most so many that they fit beside each other, the first and the last among them."""
    if len(labels) <= _MOST_LABELS:
        return tuple(labels)
    last = len(labels) - 1
    return tuple(labels[n * last // (_MOST_LABELS - 1)] for n in range(_MOST_LABELS))


def _spark_height(value: int, top: int) -> int:
    return max(1, value * _SPARK_HEIGHT // top) if value > 0 else 0


def _css(colour: int) -> str:
    return f"series-{min(colour, COLOURS - 1) + 1}"
