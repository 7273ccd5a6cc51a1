"""Where packed rows stand, against the plain way of saying it."""

from __future__ import annotations

import numpy
import pytest

from qqvl_server.engine.forward import positions
from qqvl_server.engine.forward.positions import Positions
from qqvl_server.engine.steps.batch import ScheduledChunk
from qqvl_server.engine.steps.request import Request, SamplingParams

# Five tokens: a word, a picture of three that counts as two, a word.
PICTURE = Positions(numpy.array([[0, 1, 1, 1, 3], [0, 1, 1, 2, 3], [0, 1, 2, 1, 3]]), -1)


@pytest.mark.parametrize(
    ("known", "start", "count", "expected"),
    [
        (Positions(), 0, 3, [[0, 1, 2]] * 3),
        (Positions(), 7, 2, [[7, 8]] * 3),
        (PICTURE, 0, 5, [[0, 1, 1, 1, 3], [0, 1, 1, 2, 3], [0, 1, 2, 1, 3]]),
        (PICTURE, 2, 2, [[1, 1], [1, 2], [2, 1]]),
        (PICTURE, 3, 4, [[1, 3, 4, 5], [2, 3, 4, 5], [1, 3, 4, 5]]),
        (PICTURE, 5, 2, [[4, 5]] * 3),
        (PICTURE, 9, 1, [[8]] * 3),
    ],
)
def test_positions_go_on_behind_the_prompt(known: Positions, start: int, count: int, expected: list[list[int]]) -> None:
    assert positions.packed([(known, start, count)], count).tolist() == expected


def test_rows_of_several_requests_stand_one_after_the_other() -> None:
    found = positions.packed([(Positions(), 4, 1), (PICTURE, 4, 2), (Positions(), 0, 2)], 5)
    assert found.tolist() == [[4, 3, 4, 0, 1]] * 3


@pytest.mark.parametrize("size", [1, 4, 16])
def test_slots_are_where_the_blocks_are(size: int) -> None:
    chunks = []
    for n, (start, count) in enumerate([(0, 1), (33, 1), (0, 20), (7, 26), (15, 2)]):
        request = Request(str(n), "o", list(range(40)), SamplingParams(1))
        request.blocks = [(7 * block + 3 * n) % 97 for block in range(-(-40 // size))]
        chunks.append(ScheduledChunk(request, start, count))
    plain = [
        chunk.request.blocks[place // size] * size + place % size
        for chunk in chunks
        for place in range(chunk.start, chunk.end)
    ]
    assert positions.slots(chunks, len(plain), size).tolist() == plain
