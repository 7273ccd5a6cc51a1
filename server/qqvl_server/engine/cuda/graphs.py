"""Decode steps recorded once and replayed: launching kernels one by one costs more than what a small step computes.

A recording has fixed shapes and fixed places in memory, so there is one for each of a few batch sizes; a batch is
filled up to the next with rows that write to a block nobody owns. How a step is recorded is the device's matter
(``CudaCapture``). A recording is trusted once it gives what SDPA gives over blocks copied together.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch

from qqvl_server.engine.cache import gathered
from qqvl_server.engine.cache.kv_cache import KVCache
from qqvl_server.engine.cache.paged_attention import PagedBatch
from qqvl_server.engine.cuda.decode_inputs import Decode, Inputs, slot
from qqvl_server.engine.cuda.varlen import VarlenKernel
from qqvl_server.engine.steps.batch import ScheduledBatch, ScheduledChunk
from qqvl_server.engine.steps.request import Request, SamplingParams
from qqvl_server.observe.logs import logger

# (1, N) token ids, (3, 1, N) positions, the batch → (N, vocabulary) logits.
Forward = Callable[[torch.Tensor, torch.Tensor, PagedBatch], torch.Tensor]
Replay = Callable[[], torch.Tensor]
# From a forward over fixed inputs to what does it again over whatever they hold then, into the same memory.
Capture = Callable[[Callable[[], torch.Tensor]], Replay]

# A recording keeps its logits, half a megabyte a row; larger batches are busy enough to be launched as they are.
_MOST_ROWS: Final = 256
# Rounding bf16 in another order moves a row's logits by some hundredths of their size, a wrong token or block by half.
_TOLERANCE: Final = 0.2
# So many rows of the check are about so many tokens long.
_LONG_ROWS: Final = 8
_LONG: Final = 2000


def sizes(most: int) -> list[int]:
    """Batch sizes to record: 1, 2, 4, 8, 16, 24 … ``most``; from 32 on they grow by a quarter."""
    found, size = [], 1
    while size < most:
        found.append(size)
        size += size if size < 8 else max(size // 32 * 8, 8)
    return [*found, most]


class DecodeGraphs:
    """``most`` requests of up to ``longest`` tokens each. Used by one thread; recorded before anybody owns a block."""

    def __init__(
        self, forward: Forward, cache: KVCache, kernel: VarlenKernel, capture: Capture, *, most: int, longest: int
    ) -> None:
        self._forward, self._cache, self._kernel = forward, cache, kernel
        self._longest = longest
        # The check below reads two blocks a row.
        width = max(-(-longest // cache.block_size), 2)
        self._sizes = sizes(max(min(most, cache.scratch - 1, _MOST_ROWS), 1))
        # Blocks of one content, read again and again: long rows must not take much memory.
        self._most_shared = max(min(width - 1, _LONG // cache.block_size), 1)
        self._inputs = Inputs(self._sizes[-1], width, cache, kernel)
        self._replays: dict[int, Replay] = {}
        # Also unrecorded: whether a step of decodes through the whole model gives what SDPA gives.
        self.kernel_is_right = True
        self._record(capture)

    @property
    def recorded(self) -> list[int]:
        """Batch sizes that are replayed; empty where recording failed."""
        return sorted(self._replays)

    def taken(self, batch: ScheduledBatch) -> list[ScheduledChunk]:
        """The chunks that are one new token of a reply each, if so many were recorded; of the others nothing is."""
        chunks = [
            chunk
            for chunk in batch.chunks
            if chunk.count == 1 and chunk.samples and len(chunk.request.prompt) <= chunk.start < self._longest
        ]
        return chunks if self._replays and len(chunks) <= self._sizes[-1] else []

    def run(self, rows: Sequence[Decode], ids: torch.Tensor | None = None) -> torch.Tensor:
        """(rows, vocabulary), in memory that the next run writes to; ``ids`` as ``Inputs.fill`` says."""
        size = next(size for size in self._sizes if size >= len(rows))
        self._inputs.fill(rows, size, ids)
        return self._replays[size]()[: len(rows)]

    @torch.inference_mode()
    def _record(self, capture: Capture) -> None:
        began = time.monotonic()
        try:
            self._write_noise()
            rows = self._strange_rows(self._sizes[-1])
            self.kernel_is_right = self._apart(self._by_kernel(rows), rows) < _TOLERANCE
            if not self.kernel_is_right:
                raise RuntimeError("in this model the attention kernel does not give what SDPA gives")
            # The largest first: the others fit into its memory.
            for size in reversed(self._sizes):
                self._inputs.fill([], size)
                self._replays[size] = capture(partial(self._forward, *self._inputs.first(size)))
                rows = self._strange_rows(size)
                self._inputs.fill(rows, size)
                error = self._apart(self._replays[size](), rows)
                # Not less either where it is no number.
                if not error < _TOLERANCE:
                    raise RuntimeError(f"a recorded step of {size} rows differs from the plain one by {error:.2f}")
        except Exception as refused:
            # An edge: whatever torch, its kernels or the model's libraries have against being recorded.
            self._replays.clear()
            reason = f"{type(refused).__name__}: {' '.join(str(refused).split())[:300]}"
            logger().warning("解码步录制失败，改为逐个算子执行：回答不变，只是慢一些", reason=reason)
        else:
            logger().info("解码步已录制", sizes=self._sizes, seconds=round(time.monotonic() - began, 1))
        self._wipe()

    def _strange_rows(self, size: int) -> list[Decode]:
        """Unlike those recorded. Each follows blocks that all share, some of them many, and has tokens of its own."""
        block = self._cache.block_size
        rows = []
        for n in range(size):
            shared = self._most_shared if n < _LONG_ROWS else 1
            rows.append(Decode(n + 1, n * 3, [*[0] * shared, n + 1], shared * block + 1 + n % block))
        # As a step of decodes is laid out.
        return sorted(rows, key=lambda row: -row.length)

    def _apart(self, found: torch.Tensor, rows: Sequence[Decode]) -> float:
        """How far ``found`` is from attention by SDPA over copied blocks, in the worst row, by its size.

        Not from the same kernel run plainly, which would err alike.
        """
        # A replay's memory is the next one's.
        found = found.float()
        expected = self._forward(*self._gathered(rows)).float()
        return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())

    def _by_kernel(self, rows: Sequence[Decode]) -> torch.Tensor:
        self._inputs.fill(rows, len(rows))
        return self._forward(*self._inputs.first(len(rows)))

    def _gathered(self, rows: Sequence[Decode]) -> tuple[torch.Tensor, torch.Tensor, PagedBatch]:
        block, device = self._cache.block_size, self._cache.device
        chunks = []
        for n, row in enumerate(rows):
            request = Request(f"check {n}", "", [row.token] * row.length, SamplingParams(1))
            request.blocks = row.blocks
            chunks.append(ScheduledChunk(request, row.length - 1, 1))
        slots = torch.tensor([slot(row, block) for row in rows], device=device)
        paged = PagedBatch(self._cache, slots, gathered.lay_out(chunks, self._cache))
        ids = torch.tensor([[row.token for row in rows]], device=device)
        return ids, torch.tensor([[row.position for row in rows]], device=device).expand(3, 1, -1), paged

    def _write_noise(self) -> None:
        dice = torch.Generator(self._cache.device).manual_seed(0)
        for blocks in (*self._cache.keys, *self._cache.values):
            blocks[: self._sizes[-1] + 1].normal_(generator=dice)

    def _wipe(self) -> None:
        for blocks in (*self._cache.keys, *self._cache.values):
            blocks[: self._sizes[-1] + 1].zero_()
            blocks[self._cache.scratch].zero_()


class CudaCapture:
    """Records as CUDA graphs, which share one memory pool: no two run at once, and what they give is used at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool: Any = None

    def __call__(self, forward: Callable[[], torch.Tensor]) -> Replay:
        """Raises RuntimeError where ``forward`` cannot be recorded."""
        with torch.cuda.device(self._device):
            self._rehearse(forward)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                logits = forward()
        self._pool = graph.pool()

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        return replay

    def _rehearse(self, forward: Callable[[], torch.Tensor]) -> None:
        """Libraries set themselves up when first used, which cannot be recorded.

        Nor can waiting for the device, and torch before 2.12 does not survive the attempt: its allocator goes on
        believing in a recording. So that is found out here.
        """
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            # That the mode is a prototype.
            warnings.simplefilter("ignore")
            forward()
            torch.cuda.set_sync_debug_mode("error")
            try:
                forward()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        torch.cuda.current_stream().wait_stream(self._stream)
