"""Our own C++ for a CPU (``cpp/``): attention over the paged cache, products, and what lies between them.

SDPA wants a request's blocks copied beside each other and reads them at half of what memory gives; norms and turns
made of single operations cost more in starting than in working. ``checking.py`` finds the library; where there
is none, ``gathered.py`` and Transformers' own layers do.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy
import torch

from qqvl_server.engine.cache.kv_cache import KVCache, KVShape
from qqvl_server.engine.cpu import abi
from qqvl_server.engine.cpu.abi import KINDS, NativeChunk, NativeLayer, NativeStep


@dataclass(frozen=True, slots=True)
class TextShape:
    """What the kernels are told of a text model."""

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def workspace(self) -> int:
        """Elements that a row needs while a layer runs, as ``run`` in the C++ has it."""
        queries, both = self.heads * self.head_dim, 2 * self.kv_heads * self.head_dim
        return self.hidden + max(queries + both, 2 * self.inner) + max(queries, self.inner, self.hidden)


def text_shape(config: Any, kv: KVShape) -> TextShape:
    text = config.get_text_config()
    return TextShape(text.hidden_size, text.intermediate_size, text.num_attention_heads, kv.kv_heads, kv.head_dim)


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMS norm: ``weight`` (width,)."""

    weight: torch.Tensor
    eps: float


class Kernels:
    """The compiled library. All tensors are contiguous, in the host's memory, and of the queries' type.

    Raises OSError: as ``abi.load`` does.
    """

    def __init__(self, library: Path) -> None:
        loaded = abi.load(library)
        self._takes, self._attend, self._norm, self._rotate_and_store = (
            loaded.qqvl_takes, loaded.qqvl_attend, loaded.qqvl_norm, loaded.qqvl_rotate_and_store,
        )  # fmt: skip
        self._silu_multiply, self._matmul, self._layers = (
            loaded.qqvl_silu_multiply,
            loaded.qqvl_matmul,
            loaded.qqvl_layers,
        )
        self.span: Final[int] = loaded.qqvl_span()
        self._has_matmul = frozenset(dtype for dtype, kind in KINDS.items() if loaded.qqvl_has_matmul(kind, kind))

    def takes(self, shape: TextShape) -> bool:
        return bool(self._takes(shape.hidden, shape.inner, shape.heads, shape.kv_heads, shape.head_dim))

    def has_matmul(self, weight: torch.Tensor) -> bool:
        """Whether ``matmul`` takes such a weight here; it is then faster than torch's product."""
        outputs, inputs = weight.shape
        return weight.dtype in self._has_matmul and outputs % 4 == 0 and inputs * weight.element_size() % 64 == 0

    def matmul(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """``rows`` (N, inputs) times ``weight`` (outputs, inputs) → (N, outputs)."""
        count, inputs = rows.shape
        out = rows.new_empty(count, len(weight))
        self._matmul(
            KINDS[rows.dtype], KINDS[weight.dtype], rows.data_ptr(), weight.data_ptr(), count, len(weight), inputs,
            torch.get_num_threads(), out.data_ptr(),
        )  # fmt: skip
        return out

    def norm(self, rows: torch.Tensor, by: Norm) -> torch.Tensor:
        """``rows`` (N, width), normalised."""
        count, width = rows.shape
        out = torch.empty_like(rows)
        self._norm(
            KINDS[rows.dtype], rows.data_ptr(), None, by.weight.data_ptr(), by.eps, count, width,
            torch.get_num_threads(), None, out.data_ptr(),
        )  # fmt: skip
        return out

    def sum_and_norm(self, rows: torch.Tensor, added: torch.Tensor, by: Norm) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of ``rows`` and ``added``, both (N, width), and it normalised."""
        count, width = rows.shape
        total, out = torch.empty_like(rows), torch.empty_like(rows)
        self._norm(
            KINDS[rows.dtype], rows.data_ptr(), added.data_ptr(), by.weight.data_ptr(), by.eps, count, width,
            torch.get_num_threads(), total.data_ptr(), out.data_ptr(),
        )  # fmt: skip
        return total, out

    def rotate_and_store(
        self, joined: torch.Tensor, by: tuple[Norm, Norm], turns: tuple[torch.Tensor, torch.Tensor],
        slots: torch.Tensor, cache: KVCache, layer: int,
    ) -> torch.Tensor:  # fmt: skip
        """Normalise and turn queries and keys; keys and values go to their slots.

        Args:
            joined: (N, (heads + 2 kv_heads) · head_dim), what the joined projection gave.
            by: the norms of queries and of keys.
            turns: cosines and sines, (N, head_dim) each.
            slots: (N,) int64.

        Returns:
            The queries, (N, heads, head_dim).
        """
        keys = cache.keys[layer]
        count, width, kv_heads = len(slots), keys.shape[3], keys.shape[2]
        heads = joined.shape[1] // width - 2 * kv_heads
        query = joined.new_empty(count, heads, width)
        self._rotate_and_store(
            KINDS[joined.dtype], joined.data_ptr(), by[0].weight.data_ptr(), by[1].weight.data_ptr(),
            by[0].eps, turns[0].data_ptr(), turns[1].data_ptr(), slots.data_ptr(), count, heads, kv_heads, width,
            torch.get_num_threads(), keys.data_ptr(), cache.values[layer].data_ptr(), query.data_ptr(),
        )  # fmt: skip
        return query

    def silu_multiply(self, joined: torch.Tensor) -> torch.Tensor:
        """``joined`` (N, 2 · inner), gate beside up → silu(gate) · up (N, inner)."""
        count, inner = len(joined), joined.shape[1] // 2
        out = joined.new_empty(count, inner)
        self._silu_multiply(
            KINDS[joined.dtype], joined.data_ptr(), count, inner, torch.get_num_threads(), out.data_ptr()
        )
        return out

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: NativeRows, scaling: float
    ) -> torch.Tensor:
        """Args:
        query: (N, heads, head_dim); ``keys`` and ``values``: (blocks, block_size, kv_heads, head_dim).

        Returns:
            (N, heads · head_dim).
        """
        count, heads, width = query.shape
        kv_heads = keys.shape[2]
        out = query.new_empty(count, heads * width)
        self._attend(
            KINDS[query.dtype], query.data_ptr(), keys.data_ptr(), values.data_ptr(), kv_heads, width,
            heads // kv_heads, ctypes.byref(rows.step), scaling, torch.get_num_threads(), out.data_ptr(),
        )  # fmt: skip
        return out

    def run(
        self, layers: ctypes.Array[NativeLayer], rows: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor],
        slots: torch.Tensor, step: NativeRows,
    ) -> None:  # fmt: skip
        """All of the layers in one call: ``rows`` (N, hidden) become what they make of them.

        Args:
            turns, slots: as ``rotate_and_store`` takes them.
        """
        assert step.workspace is not None
        self._layers(
            KINDS[rows.dtype], layers, len(layers), ctypes.byref(step.step), len(slots), slots.data_ptr(),
            turns[0].data_ptr(), turns[1].data_ptr(), torch.get_num_threads(), step.workspace.data_ptr(),
            rows.data_ptr(),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class NativeRows:
    """The packed rows of a step, those of one token first. ``step`` points into ``kept``.

    ``workspace`` is what ``Kernels.run`` needs for them.
    """

    kernels: Kernels
    step: NativeStep
    kept: tuple[torch.Tensor, ...]
    workspace: torch.Tensor | None

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cache: KVCache, layer: int, scaling: float
    ) -> torch.Tensor:
        """As ``paged_attention.AttentionMetadata`` says."""
        rows = query[0].transpose(0, 1).contiguous()
        found = self.kernels.attend(rows, cache.keys[layer], cache.values[layer], self, scaling)
        return found.view(rows.shape)


class Workspace:
    """Room for one step at a time, kept from step to step: new memory is cleared by the system, page by page."""

    def __init__(self, shape: TextShape, dtype: torch.dtype) -> None:
        self._shape = shape
        self._room = torch.empty(0, dtype=dtype)

    @property
    def size(self) -> int:
        """Bytes."""
        return self._room.nbytes

    def rows(self, count: int) -> torch.Tensor:
        needed = count * self._shape.workspace
        if len(self._room) < needed:
            self.clear()
            self._room = torch.empty(needed, dtype=self._room.dtype)
        return self._room

    def clear(self) -> None:
        self._room = self._room.new_empty(0)


def lay_out(
    kernels: Kernels,
    spans: Sequence[tuple[Sequence[int], int, int]],
    cache: KVCache,
    heads: int,
    workspace: torch.Tensor | None = None,
) -> NativeRows:
    """``spans``, in the order of their packed rows, are each request's blocks, its first row's position and how many.

    Those of one row stand first, the longest of them before the shorter.
    """
    decodes = [(blocks, start + 1) for blocks, start, count in spans if count == 1]
    lengths = array("q", (length for _, length in decodes))
    # Where each one's parts begin in the scratch: so many tokens of it are one.
    starts = array("q", (0, *accumulate(-(-length // kernels.span) for length in lengths)))
    table = (
        cache.held([blocks for blocks, _ in decodes], max(lengths), cache.device).table if decodes else torch.empty(0)
    )
    # Each prefill as ``NativeChunk`` has it.
    chunks, blocks = array("q"), array("q")
    row = len(decodes)
    for held, start, count in spans[row:]:
        chunks.extend((row, start, count, len(blocks)))
        blocks.extend(held[: -(-(start + count) // cache.block_size)])
        row += count
    scratch = torch.empty(starts[-1] * heads * (cache.keys[0].shape[3] + 2))
    told = tuple(torch.from_numpy(numpy.array(numbers)) for numbers in (lengths, starts, chunks, blocks))
    step = NativeStep(
        block_size=cache.block_size,
        decodes=len(decodes),
        columns=len(table) // len(decodes) if decodes else 0,
        prefills=len(chunks) // len(NativeChunk._fields_),
        table=table.data_ptr(),
        lengths=told[0].data_ptr(),
        starts=told[1].data_ptr(),
        chunks=told[2].data_ptr(),
        blocks=told[3].data_ptr(),
        scratch=scratch.data_ptr(),
    )
    return NativeRows(kernels, step, (table, *told, scratch), workspace)
