"""QR codes (ISO/IEC 18004) of short texts as SVG: byte mode, error correction M, versions 1 to 10; all that a second factor needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from markupsafe import Markup

_CHECK_BYTES = (10, 16, 26, 18, 24, 16, 18, 22, 22, 26)
"""Of error correction in each block, by version."""
_BLOCKS = (1, 1, 1, 2, 2, 4, 4, 4, 5, 5)
_QUIET = 4
_MASKS: tuple[Callable[[int, int], bool], ...] = (
    lambda x, y: (x + y) % 2 == 0,
    lambda _, y: y % 2 == 0,
    lambda x, _: x % 3 == 0,
    lambda x, y: (x + y) % 3 == 0,
    lambda x, y: (x // 3 + y // 2) % 2 == 0,
    lambda x, y: x * y % 2 + x * y % 3 == 0,
    lambda x, y: (x * y % 2 + x * y % 3) % 2 == 0,
    lambda x, y: ((x + y) % 2 + x * y % 3) % 2 == 0,
)

Grid = list[list[bool]]


def qr_svg(text: str) -> Markup:
    """Empty for a text that is too long."""
    grid = qr_grid(text.encode())
    if grid is None:
        return Markup("")
    size = len(grid) + 2 * _QUIET
    dots = "".join(
        f"M{x + _QUIET} {y + _QUIET}h1v1h-1z" for y, row in enumerate(grid) for x, dark in enumerate(row) if dark
    )
    start = Markup('<svg class="code-image" viewBox="0 0 {0} {0}" shape-rendering="crispEdges" aria-hidden="true">')
    return start.format(size) + Markup('<path d="{}"/></svg>').format(dots)


def qr_grid(data: bytes) -> Grid | None:
    """True is dark. None when it does not fit."""
    version = next((v for v in range(1, 11) if len(data) * 8 + _head_bits(v) <= _data_bytes(v) * 8), None)
    if version is None:
        return None
    stream = _interleave(_pad(data, version), version)
    grid, fixed = _patterns(version)
    size = len(grid)
    bits = (byte >> shift & 1 for byte in stream for shift in range(7, -1, -1))
    for x, y in _path(size):
        if not fixed[y][x]:
            grid[y][x] = bool(next(bits, 0))
    return min((_masked(grid, fixed, mask) for mask in range(8)), key=_penalty)


def _head_bits(version: int) -> int:
    return 12 if version < 10 else 20


def _total_bytes(version: int) -> int:
    modules = (16 * version + 128) * version + 64
    if version >= 2:
        count = version // 7 + 2
        modules -= (25 * count - 10) * count - 55
    return (modules - (36 if version >= 7 else 0)) // 8


def _data_bytes(version: int) -> int:
    return _total_bytes(version) - _CHECK_BYTES[version - 1] * _BLOCKS[version - 1]


def _pad(data: bytes, version: int) -> bytes:
    length_bits = _head_bits(version) - 4
    number = (4 << length_bits | len(data)) << len(data) * 8 | int.from_bytes(data)
    used = _head_bits(version) + len(data) * 8
    room = _data_bytes(version) * 8
    end = min(4, room - used)
    end += -(used + end) % 8
    packed = (number << end).to_bytes((used + end) // 8)
    return packed + (b"\xec\x11" * room)[: room // 8 - len(packed)]


def _interleave(data: bytes, version: int) -> bytes:
    blocks, check = _BLOCKS[version - 1], _CHECK_BYTES[version - 1]
    short, longer = divmod(len(data), blocks)
    parts, at = [], 0
    for n in range(blocks):
        length = short + (n >= blocks - longer)
        parts.append(data[at : at + length])
        at += length
    checks = [_remainder(part, check) for part in parts]
    spread = bytes(part[n] for n in range(short + 1) for part in parts if n < len(part))
    return spread + bytes(one[n] for n in range(check) for one in checks)


def _remainder(data: bytes, degree: int) -> bytes:
    """Reed-Solomon over GF(2^8) with the polynomial 0x11d."""
    divisor, root = [0] * (degree - 1) + [1], 1
    for _ in range(degree):
        for n in range(degree):
            divisor[n] = _times(divisor[n], root) ^ (divisor[n + 1] if n + 1 < degree else 0)
        root = _times(root, 2)
    rest = [0] * degree
    for byte in data:
        factor = byte ^ rest[0]
        rest = [*rest[1:], 0]
        rest = [old ^ _times(coefficient, factor) for old, coefficient in zip(rest, divisor, strict=True)]
    return bytes(rest)


def _times(a: int, b: int) -> int:
    product = 0
    for shift in range(7, -1, -1):
        product = product << 1 ^ (product >> 7) * 0x11D
        product ^= (b >> shift & 1) * a
    return product


def _patterns(version: int) -> tuple[Grid, Grid]:
    """What stands in every code of a version, and where that is; the format's place is kept free."""
    size = version * 4 + 17
    grid: Grid = [[False] * size for _ in range(size)]
    fixed: Grid = [[False] * size for _ in range(size)]

    def put(x: int, y: int, dark: bool) -> None:  # noqa: FBT001 - a dot
        if 0 <= x < size and 0 <= y < size:
            grid[y][x], fixed[y][x] = dark, True

    for n in range(size):
        put(6, n, n % 2 == 0)
        put(n, 6, n % 2 == 0)
    places = _alignments(version, size)
    corners = {(6, 6), (6, size - 7), (size - 7, 6)}
    for cx, cy in {(x, y) for x in places for y in places} - corners:
        for dx, dy in _square(2):
            put(cx + dx, cy + dy, max(abs(dx), abs(dy)) != 1)
    for cx, cy in ((3, 3), (size - 4, 3), (3, size - 4)):
        for dx, dy in _square(4):
            put(cx + dx, cy + dy, max(abs(dx), abs(dy)) in {0, 1, 3})
    for x, y in _format_places(size):
        put(x, y, dark=False)
    put(8, size - 8, dark=True)
    if version >= 7:
        bits = _with_check(version, 0x1F25, 12)
        for n in range(18):
            put(size - 11 + n % 3, n // 3, bool(bits >> n & 1))
            put(n // 3, size - 11 + n % 3, bool(bits >> n & 1))
    return grid, fixed


def _alignments(version: int, size: int) -> list[int]:
    if version == 1:
        return []
    count = version // 7 + 2
    step = (version * 8 + count * 3 + 5) // (count * 4 - 4) * 2
    return [6, *(size - 7 - n * step for n in range(count - 1))]


def _square(reach: int) -> Iterator[tuple[int, int]]:
    return ((x, y) for x in range(-reach, reach + 1) for y in range(-reach, reach + 1))


def _format_places(size: int) -> list[tuple[int, int]]:
    """Of its bits 0 to 14, twice."""
    first = [*((8, n) for n in range(6)), (8, 7), (8, 8), (7, 8), *((14 - n, 8) for n in range(9, 15))]
    second = [*((size - 1 - n, 8) for n in range(8)), *((8, size - 15 + n) for n in range(8, 15))]
    return first + second


def _with_check(value: int, polynomial: int, degree: int) -> int:
    rest = value
    for _ in range(degree):
        rest = rest << 1 ^ (rest >> degree - 1) * polynomial
    return value << degree | rest


def _path(size: int) -> Iterator[tuple[int, int]]:
    """The zigzag of the data, from the lower right corner on; the sixth column is left out."""
    right = size - 1
    while right >= 1:
        right -= right == 6
        upward = (right + 1) & 2 == 0
        for n in range(size):
            y = size - 1 - n if upward else n
            yield right, y
            yield right - 1, y
        right -= 2


def _masked(grid: Grid, fixed: Grid, mask: int) -> Grid:
    flips = _MASKS[mask]
    done = [[dark if fixed[y][x] else dark ^ flips(x, y) for x, dark in enumerate(row)] for y, row in enumerate(grid)]
    bits = _with_check(mask, 0x537, 10) ^ 0x5412  # correction M is 00
    for n, (x, y) in enumerate(_format_places(len(grid))):
        done[y][x] = bool(bits >> n % 15 & 1)
    return done


def _penalty(grid: Grid) -> int:
    """The less, the easier to read."""
    size = len(grid)
    lines = ["".join("#" if dark else "." for dark in row) for row in grid]
    lines += ["".join(column) for column in zip(*lines, strict=True)]
    total = 0
    for line in lines:
        for run in line.replace("#.", "# .").replace(".#", ". #").split():
            total += len(run) - 2 if len(run) >= 5 else 0
        total += 40 * (line.count("#.###.#....") + line.count("....#.###.#"))
    squares = ((x, y) for x in range(size - 1) for y in range(size - 1))
    total += 3 * sum(grid[y][x] == grid[y][x + 1] == grid[y + 1][x] == grid[y + 1][x + 1] for x, y in squares)
    dark = sum(map(sum, grid))
    return total + abs(dark * 20 - size * size * 10) // (size * size) * 10
