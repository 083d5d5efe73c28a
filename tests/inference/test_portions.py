"""What is made of thousands of choices is made in portions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

from llmaas.inference.relay import in_portions
from llmaas.protocol.pieces import Piece


async def test_A19_others_run_between_the_portions_of_many_pieces() -> None:
    pieces, turns, taken = [Piece(index) for index in range(10_000)], list[int](), list[Piece]()

    async def other() -> None:
        while len(taken) < len(pieces):
            turns.append(len(taken))
            await asyncio.sleep(0)

    def take(portion: Sequence[Piece]) -> None:
        taken.extend(portion)

    running = asyncio.create_task(other())
    await asyncio.sleep(0)
    await in_portions(pieces, take)
    await running
    assert taken == pieces
    steps = [after - before for before, after in pairwise(turns)]
    assert len(steps) >= 9
    assert max(steps) <= 1024
