"""QR codes of the second factor: their frame, and the code of a text that a phone has read."""

from __future__ import annotations

import re

import pytest
import segno

from llmaas.console.pages.qr import qr_svg

_FINDER = ["#######", "#.....#", "#.###.#", "#.###.#", "#.###.#", "#.....#", "#######"]
_QUIET = 4


def drawn(text: str) -> list[str]:
    """The modules without their quiet zone, which is white."""
    svg = qr_svg(text)
    size = re.search(r'viewBox="0 0 (\d+) \1"', svg)
    assert size is not None
    dots = {(int(x), int(y)) for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", svg)}
    inside = range(_QUIET, int(size[1]) - _QUIET)
    assert all(x in inside and y in inside for x, y in dots)
    return ["".join("#" if (x, y) in dots else "." for x in inside) for y in inside]


@pytest.mark.parametrize(("length", "size"), [(1, 21), (14, 21), (15, 25), (84, 37), (213, 57), (400, 77)])
def test_a_text_takes_the_smallest_version_that_holds_it(length: int, size: int) -> None:
    lines = drawn("a" * length)
    assert len(lines) == len(lines[0]) == size
    assert [line[:7] for line in lines[:7]] == _FINDER
    assert [line[-7:] for line in lines[:7]] == _FINDER
    assert [line[:7] for line in lines[-7:]] == _FINDER


def test_what_is_too_long_is_an_error_and_no_half_code() -> None:
    with pytest.raises(segno.DataOverflowError):
        qr_svg("a" * 2_332)


def test_a_code_is_as_another_implementation_draws_it() -> None:
    """Of a text that fills its version: what follows a shorter one is padding, which each writer chooses."""
    assert drawn("hello there 12") == KNOWN


KNOWN = [
    "#######.##.#..#######",
    "#.....#.......#.....#",
    "#.###.#.......#.###.#",
    "#.###.#.#...#.#.###.#",
    "#.###.#.#.#.#.#.###.#",
    "#.....#.##..#.#.....#",
    "#######.#.#.#.#######",
    "........#..##........",
    "#...#.###.#.######..#",
    "#.#.#....###.#..####.",
    "#.##..####.#....#..#.",
    "###..#.##....#.##....",
    "#.##.###.##.##.#...#.",
    "........##.#..####.#.",
    "#######.#.##.#..##.#.",
    "#.....#...##.#.##...#",
    "#.###.#.#...#........",
    "#.###.#......##.##.##",
    "#.###.#..###..####...",
    "#.....#..##..#.......",
    "#######.#.####.##...#",
]
