"""Our own C++ for a CPU (``cpu_kernels.cpp``): attention over the paged cache, products, and what lies between them.

SDPA wants a request's blocks copied beside each other and reads them at half of what memory gives; norms and turns
made of single operations cost more in starting than in working. ``native_check.py`` finds the library; where there
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

import torch

from qqvl_server.engine.kv_cache import KVCache, KVShape

_P, _N, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_FUNCTIONS: Final[dict[str, list[Any]]] = {
    "qqvl_takes": [_I] * 5,
    "qqvl_decode": [_I, _P, _P, _P, _I, _I, _I, _I, _P, _N, _P, _P, _N, _F, _I, _P, _P],
    "qqvl_prefill": [_I, _P, _P, _P, _I, _I, _I, _I, _P, _P, _N, _F, _I, _P],
    "qqvl_norm": [_I, _P, _P, _P, _F, _N, _I, _I, _P, _P],
    "qqvl_place": [_I, _P, _P, _P, _F, _P, _P, _P, _N, _I, _I, _I, _I, _P, _P, _P],
    "qqvl_gate": [_I, _P, _N, _I, _I, _P],
    "qqvl_multiply": [_P, _P, _N, _N, _N, _I, _P],
}


@dataclass(frozen=True, slots=True)
class TextShape:
    """What the kernels are told of a text model."""

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int


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

    Raises OSError: the library does not load beside this torch.
    """

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        self._functions = {name: getattr(loaded, name) for name in _FUNCTIONS}
        for name, arguments in _FUNCTIONS.items():
            self._functions[name].argtypes = arguments
            self._functions[name].restype = _I if name == "qqvl_takes" else None
        self._takes = self._functions["qqvl_takes"]
        self._decode = self._functions["qqvl_decode"]
        self._prefill = self._functions["qqvl_prefill"]
        self._norm = self._functions["qqvl_norm"]
        self._place = self._functions["qqvl_place"]
        self._gate = self._functions["qqvl_gate"]
        self._multiply = self._functions["qqvl_multiply"]
        self.span: Final[int] = loaded.qqvl_span()
        self._multiplies = bool(loaded.qqvl_multiplies())

    def takes(self, shape: TextShape) -> bool:
        return bool(self._takes(shape.hidden, shape.inner, shape.heads, shape.kv_heads, shape.head_dim))

    def multiplies(self, weight: torch.Tensor) -> bool:
        """Whether ``multiply`` takes such a weight here; it is then faster than torch's product."""
        outputs, inputs = weight.shape
        return self._multiplies and weight.dtype is torch.bfloat16 and outputs % 4 == 0 and inputs % 32 == 0

    def multiply(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """``rows`` (N, inputs) times ``weight`` (outputs, inputs) → (N, outputs)."""
        count, inputs = rows.shape
        out = rows.new_empty(count, len(weight))
        self._multiply(
            rows.data_ptr(), weight.data_ptr(), count, len(weight), inputs, torch.get_num_threads(), out.data_ptr()
        )
        return out

    def norm(self, rows: torch.Tensor, by: Norm) -> torch.Tensor:
        """``rows`` (N, width), normalised."""
        count, width = rows.shape
        out = torch.empty_like(rows)
        self._norm(
            rows.dtype is torch.bfloat16, rows.data_ptr(), None, by.weight.data_ptr(), by.eps, count, width,
            torch.get_num_threads(), None, out.data_ptr(),
        )  # fmt: skip
        return out

    def sum_and_norm(self, rows: torch.Tensor, added: torch.Tensor, by: Norm) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of ``rows`` and ``added``, both (N, width), and it normalised."""
        count, width = rows.shape
        total, out = torch.empty_like(rows), torch.empty_like(rows)
        self._norm(
            rows.dtype is torch.bfloat16, rows.data_ptr(), added.data_ptr(), by.weight.data_ptr(), by.eps, count, width,
            torch.get_num_threads(), total.data_ptr(), out.data_ptr(),
        )  # fmt: skip
        return total, out

    def place(
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
        self._place(
            joined.dtype is torch.bfloat16, joined.data_ptr(), by[0].weight.data_ptr(), by[1].weight.data_ptr(),
            by[0].eps, turns[0].data_ptr(), turns[1].data_ptr(), slots.data_ptr(), count, heads, kv_heads, width,
            torch.get_num_threads(), keys.data_ptr(), cache.values[layer].data_ptr(), query.data_ptr(),
        )  # fmt: skip
        return query

    def gate(self, joined: torch.Tensor) -> torch.Tensor:
        """``joined`` (N, 2 · inner), gate beside up → silu(gate) · up (N, inner)."""
        count, inner = len(joined), joined.shape[1] // 2
        out = joined.new_empty(count, inner)
        self._gate(
            joined.dtype is torch.bfloat16, joined.data_ptr(), count, inner, torch.get_num_threads(), out.data_ptr()
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
        _, size, kv_heads, _ = keys.shape
        out = query.new_empty(count, heads * width)
        wide, threads = query.dtype is torch.bfloat16, torch.get_num_threads()
        cache = (keys.data_ptr(), values.data_ptr(), size, kv_heads, width, heads // kv_heads)
        if rows.decodes:
            self._decode(
                wide, query.data_ptr(), *cache, rows.table.data_ptr(), len(rows.table) // rows.decodes,
                rows.lengths.data_ptr(), rows.starts.data_ptr(), rows.decodes, scaling, threads,
                rows.scratch.data_ptr(), out.data_ptr(),
            )  # fmt: skip
        if rows.prefills:
            self._prefill(
                wide, query.data_ptr(), *cache, rows.chunks.data_ptr(), rows.chunk_blocks.data_ptr(), rows.prefills,
                scaling, threads, out.data_ptr(),
            )  # fmt: skip
        return out


@dataclass(frozen=True, slots=True)
class NativeRows:
    """The packed rows of a step: ``decodes`` of one token each, then ``prefills`` of several. All int64, in the host's
    memory.

    ``table`` (decodes · widest) names each one's blocks; ``lengths`` (decodes,) its tokens in the cache; ``starts``
    (decodes + 1,) where its spans begin in ``scratch``. ``chunks`` (prefills, 4) are each one's first row, the
    position of that row, how many it has, and where in ``chunk_blocks`` its blocks begin.
    """

    kernels: Kernels
    decodes: int
    table: torch.Tensor
    lengths: torch.Tensor
    starts: torch.Tensor
    scratch: torch.Tensor
    prefills: int
    chunks: torch.Tensor
    chunk_blocks: torch.Tensor

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cache: KVCache, layer: int, scaling: float
    ) -> torch.Tensor:
        """As ``attention.Rows`` says."""
        rows = query[0].transpose(0, 1).contiguous()
        found = self.kernels.attend(rows, cache.keys[layer], cache.values[layer], self, scaling)
        return found.view(rows.shape)


def lay_out(
    kernels: Kernels, spans: Sequence[tuple[Sequence[int], int, int]], cache: KVCache, heads: int
) -> NativeRows:
    """``spans``, in the order of their packed rows, are each request's blocks, its first row's position and how many.

    Those of one row stand first, the longest of them before the shorter.
    """
    decodes = [(blocks, start + 1) for blocks, start, count in spans if count == 1]
    chunks, held = array("q"), array("q")
    row = len(decodes)
    for blocks, start, count in spans[row:]:
        chunks.extend((row, start, count, len(held)))
        held.extend(blocks[: -(-(start + count) // cache.block_size)])
        row += count
    lengths = [length for _, length in decodes]
    starts = [0, *accumulate(-(-length // kernels.span) for length in lengths)]
    table = cache.held([blocks for blocks, _ in decodes], max(lengths)).table if decodes else torch.empty(0)
    scratch = torch.empty(starts[-1] * heads * (cache.keys[0].shape[3] + 2))
    return NativeRows(
        kernels, len(decodes), table, torch.tensor(lengths), torch.tensor(starts), scratch, len(chunks) // 4,
        _longs(chunks), _longs(held),
    )  # fmt: skip


def _longs(numbers: array[int]) -> torch.Tensor:
    return torch.frombuffer(numbers, dtype=torch.int64) if numbers else torch.empty(0, dtype=torch.int64)
