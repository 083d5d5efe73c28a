"""QR codes: read back with nothing but the standard's rules, and a code that a phone has read."""

from __future__ import annotations

import pytest

from llmaas.console.pages.qr import Grid, qr_grid, qr_svg

_FINDER = ["#######", "#.....#", "#.###.#", "#.###.#", "#.###.#", "#.....#", "#######"]


def lines(grid: Grid) -> list[str]:
    return ["".join("#" if dark else "." for dark in row) for row in grid]


@pytest.mark.parametrize(
    ("length", "size"), [(1, 21), (14, 21), (15, 25), (84, 37), (85, 41), (122, 45), (123, 49), (181, 57), (213, 57)]
)
def test_a_text_takes_the_smallest_version_that_holds_it(length: int, size: int) -> None:
    grid = qr_grid(b"a" * length)
    assert grid is not None
    drawn = lines(grid)
    assert len(drawn) == len(drawn[0]) == size
    assert [line[:7] for line in drawn[:7]] == _FINDER
    assert [line[-7:] for line in drawn[:7]] == _FINDER
    assert [line[:7] for line in drawn[-7:]] == _FINDER
    assert drawn[6][8:-8] == ("#." * size)[: size - 16]


def test_both_copies_of_the_format_say_correction_m() -> None:
    grid = qr_grid(b"otpauth://totp/x")
    assert grid is not None
    size = len(grid)
    first = [
        *(grid[n][8] for n in range(6)),
        grid[7][8],
        grid[8][8],
        grid[8][7],
        *(grid[8][14 - n] for n in range(9, 15)),
    ]
    second = [*(grid[8][size - 1 - n] for n in range(8)), *(grid[size - 15 + n][8] for n in range(8, 15))]
    assert first == second
    value = sum(bit << n for n, bit in enumerate(first)) ^ 0x5412
    assert value >> 13 == 0
    rest = value
    for shift in range(4, -1, -1):
        rest ^= (0x537 << shift) * (rest >> (shift + 10) & 1)
    assert rest == 0


def test_what_is_too_long_has_no_picture() -> None:
    assert qr_grid(b"a" * 214) is None
    assert qr_svg("a" * 214) == ""


def test_the_same_text_gives_the_same_code_that_readers_knew() -> None:
    grid = qr_grid(b"HELLO")
    assert grid is not None
    assert lines(grid) == KNOWN


KNOWN = [
    "#######.##.#..#######",
    "#.....#..##.#.#.....#",
    "#.###.#..####.#.###.#",
    "#.###.#.#..#..#.###.#",
    "#.###.#.#...#.#.###.#",
    "#.....#.#.##..#.....#",
    "#######.#.#.#.#######",
    "........#####........",
    "#...#.######.#####..#",
    "...###..#.###..#.####",
    "#.##..#.#.##..###..#.",
    "###..#...#...##.#....",
    "..#.###..#..###...##.",
    "........###.###..#.##",
    "#######.##..##...#.#.",
    "#.....#....##..#...#.",
    "#.###.#.#..#..###.#.#",
    "#.###.#....##....#.##",
    "#.###.#..###..####...",
    "#.....#..#...##......",
    "#######.#...#####.#.#",
]
