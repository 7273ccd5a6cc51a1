"""Our own kernels for a card, which Triton compiles when they are first run: attention, and what lies between products.

PyTorch's attention wants blocks of 256 tokens, and Transformers' layers start fifty operations each. ``trial.py`` and
``checking.py`` say whether they give what torch gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch

from qqvl_server.engine.cache.kv_cache import KVCache
from qqvl_server.engine.cuda.varlen import VarlenMetadata

BLOCK_SIZE: Final = 16
# Of tokens read at once, and of rows of a prompt that one program computes.
_TOKENS: Final = 64
_ROWS: Final = 64
# Products of fewer rows are filled up to this.
_LEAST_ROWS: Final = 16
_MOST_SPLITS: Final = 32
# Programs for each processor, so that none waits long for the last.
_WAVES: Final = 2
_WIDTHS: Final = (32, 64, 128)


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMS norm: ``weight`` (width,)."""

    weight: torch.Tensor
    eps: float


class LayerKernels(Protocol):
    """What a text layer does between its products, N rows at once."""

    def norm(self, rows: torch.Tensor, by: Norm) -> torch.Tensor:
        """(N, width) → the same."""
        ...

    def add_and_norm(self, rows: torch.Tensor, added: torch.Tensor, by: Norm) -> torch.Tensor:
        """``rows`` (N, width) becomes ``rows + added``, of which the norm is given back."""
        ...

    def rotate_and_store(
        self,
        joined: torch.Tensor,
        norms: tuple[Norm, Norm],
        turns: tuple[torch.Tensor, torch.Tensor],
        slots: torch.Tensor,
        cache: KVCache,
        layer: int,
    ) -> torch.Tensor:
        """The queries (N, heads, head_dim), normed and turned; keys, likewise, and values go to ``slots`` (N,).

        Args:
            joined: (N, (heads + 2 · kv_heads) · head_dim), queries, keys and values.
            norms: of queries and of keys, per head.
            turns: cosines and sines, (N, head_dim) each.
        """
        ...

    def silu_multiply(self, gates: torch.Tensor) -> torch.Tensor:
        """(N, 2 · inner) → (N, inner): silu of the first half times the second."""
        ...


class OwnKernels:
    """All tensors contiguous and on one device.

    Raises ImportError: Triton is not installed.
    """

    def __init__(self, device: torch.device) -> None:
        from qqvl_server.engine.cuda import triton_kernels

        self._kernels: Any = triton_kernels
        self._processors = 1
        # Where nothing is loaded ahead of being used, stages only cost memory.
        self._stages = 1
        # Triton's interpreter has no products of bf16.
        self._exact = device.type != "cuda"
        if device.type == "cuda":
            self._processors = torch.cuda.get_device_properties(device).multi_processor_count
            self._stages = 2 if torch.cuda.get_device_capability(device) >= (8, 0) else 1

    def takes(self, head_dim: int) -> bool:
        return head_dim in _WIDTHS

    def norm(self, rows: torch.Tensor, by: Norm) -> torch.Tensor:
        """As ``LayerKernels``."""
        out = torch.empty_like(rows)
        self._normalise(rows, rows, by, rows, out, added=False)
        return out

    def add_and_norm(self, rows: torch.Tensor, added: torch.Tensor, by: Norm) -> torch.Tensor:
        """As ``LayerKernels``."""
        out = torch.empty_like(rows)
        self._normalise(rows, added, by, rows, out, added=True)
        return out

    def _normalise(
        self, rows: torch.Tensor, more: torch.Tensor, by: Norm, total: torch.Tensor, out: torch.Tensor, *, added: bool
    ) -> None:
        count, width = rows.shape
        with on(rows.device):
            self._kernels.rms_norm[(count,)](
                rows, more, by.weight, total, out, width, by.eps, ADDED=added, BLOCK=power(width), num_warps=8
            )

    def rotate_and_store(
        self,
        joined: torch.Tensor,
        norms: tuple[Norm, Norm],
        turns: tuple[torch.Tensor, torch.Tensor],
        slots: torch.Tensor,
        cache: KVCache,
        layer: int,
    ) -> torch.Tensor:
        """As ``LayerKernels``."""
        keys, values = cache.keys[layer], cache.values[layer]
        kv_heads, width = keys.shape[2:]
        count = len(joined)
        heads = joined.shape[1] // width - 2 * kv_heads
        query = torch.empty(count, heads, width, dtype=joined.dtype, device=joined.device)
        with on(joined.device):
            self._kernels.rotate_and_store[(count, heads + 2 * kv_heads)](
                joined, norms[0].weight, norms[1].weight, *turns, slots, query, keys, values, norms[0].eps,
                HEADS=heads, KV_HEADS=kv_heads, HALF=width // 2, num_warps=1,
            )  # fmt: skip
        return query

    def silu_multiply(self, gates: torch.Tensor) -> torch.Tensor:
        """As ``LayerKernels``."""
        count, inner = len(gates), gates.shape[1] // 2
        out = torch.empty(count, inner, dtype=gates.dtype, device=gates.device)
        block = min(power(inner), 1024)
        with on(gates.device):
            self._kernels.silu_multiply[(count, -(-inner // block))](gates, out, inner, BLOCK=block)
        return out

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: VarlenMetadata, scaling: float
    ) -> torch.Tensor:
        """As ``VarlenKernel``."""
        page, kv_heads, width = keys.shape[1:]
        group = query.shape[1] // kv_heads
        # exp2 is what the card has.
        scaling = scaling / math.log(2)
        shape = {
            "HEADS": query.shape[1], "KV_HEADS": kv_heads, "GROUP": group, "WIDTH": width, "PAGE": page,
            "BLOCK": _TOKENS, "EXACT": self._exact, "num_stages": self._stages,
        }  # fmt: skip
        if rows.most_rows == 1:
            return self._decoded(query, keys, values, rows, scaling, shape)
        out = torch.empty_like(query)
        grid = -(-rows.most_rows // _ROWS), len(rows.lengths), query.shape[1]
        with on(query.device):
            self._kernels.prefill[grid](
                query, keys, values, rows.table, rows.starts, rows.lengths, out, scaling, rows.table.stride(0),
                ROWS=_ROWS, **shape,
            )  # fmt: skip
        return out

    def _decoded(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: VarlenMetadata, scaling: float,
        shape: dict[str, int],
    ) -> torch.Tensor:  # fmt: skip
        out = torch.empty_like(query)
        requests, heads, width = query.shape
        splits = self.splits(requests * shape["KV_HEADS"], rows.longest)
        parts = query.new_empty((requests, heads, splits, width) if splits > 1 else (1,), dtype=torch.float32)
        tops, sums = query.new_empty((2, requests, heads, splits), dtype=torch.float32)
        with on(query.device):
            self._kernels.decode[(requests, shape["KV_HEADS"], splits)](
                query, keys, values, rows.table, rows.lengths, out, parts, tops, sums, scaling, rows.table.stride(0),
                ROWS=max(power(shape["GROUP"]), _LEAST_ROWS), SPLITS=splits, **shape,
            )  # fmt: skip
            if splits > 1:
                self._kernels.join_splits[(requests * heads,)](parts, tops, sums, out, SPLITS=splits, WIDTH=width)
        return out

    def splits(self, programs: int, longest: int) -> int:
        """Over how many programs each request's keys go: a power of two, for each is compiled by itself."""
        wanted = min(-(-self._processors * _WAVES // programs), -(-longest // _TOKENS), _MOST_SPLITS)
        return 1 << max(wanted, 1).bit_length() - 1


def power(number: int) -> int:
    """The least power of two that is no less."""
    return 1 << max(number - 1, 0).bit_length()


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Triton launches on the thread's current card, whatever its tensors are on."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        yield
        return
    with torch.cuda.device(device):
        yield
