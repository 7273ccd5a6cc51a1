"""Where a step's packed rows stand: in their requests (M-RoPE) and in the cache.

By numpy, one array for all rows. Every call of torch gives up the interpreter's lock and has to get it back from the
threads that read and answer requests meanwhile: on a small model that wait is longer than the call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from qqvl_server.engine.steps.batch import ScheduledChunk

Longs = NDArray[numpy.int64]


@dataclass(frozen=True, slots=True)
class Positions:
    """Of one request. ``prompt`` (3, tokens): time, height and width, None where nothing but words stands in it.

    Beyond the prompt all three go on from its end, moved by ``delta``.
    """

    prompt: Longs | None = None
    delta: int = 0

    def fill(self, into: Longs, start: int) -> None:
        """``into`` (3, count) becomes the positions from ``start`` on."""
        count = into.shape[1]
        known = 0 if self.prompt is None else max(min(self.prompt.shape[1] - start, count), 0)
        if self.prompt is not None and known:
            into[:, :known] = self.prompt[:, start : start + known]
        into[:, known:] = numpy.arange(start + known + self.delta, start + count + self.delta)


def by_model(model: Any, **inputs: Any) -> Positions:
    """As ``model`` (Qwen3VLModel) has them, told in ``get_rope_index``'s words of one prompt with pictures."""
    positions, deltas = model.get_rope_index(**inputs)
    return Positions(positions[:, 0].numpy(), int(deltas[0, 0]))


def packed(chunks: Iterable[tuple[Positions, int, int]], count: int) -> Longs:
    """(3, count); of each chunk its request's positions, its start and its length, in the order of the rows."""
    found = numpy.empty((3, count), numpy.int64)
    row = 0
    for positions, start, rows in chunks:
        positions.fill(found[:, row : row + rows], start)
        row += rows
    return found


def slots(chunks: Sequence[ScheduledChunk], count: int, block_size: int) -> Longs:
    """(count,): where each row's key and value go."""
    found = numpy.empty(count, numpy.int64)
    offsets = numpy.arange(block_size)
    row = 0
    for chunk in chunks:
        first = chunk.start // block_size
        blocks = numpy.array(chunk.request.blocks[first : -(-chunk.end // block_size)])
        every = (blocks[:, None] * block_size + offsets).ravel()
        skipped = chunk.start - first * block_size
        found[row : row + chunk.count] = every[skipped : skipped + chunk.count]
        row += chunk.count
    return found
