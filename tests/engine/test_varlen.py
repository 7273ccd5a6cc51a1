"""What CUDA's variable-length kernels are given, held to a plain kernel that does by definition what theirs do."""

from __future__ import annotations

import pytest
import torch

from qqvl_server.engine.cache.kv_cache import KVShape
from qqvl_server.engine.cuda import varlen
from qqvl_server.engine.cuda.backend import CudaBackend
from tests.engine.twins import Twins

SHAPE = KVShape(layers=1, kv_heads=2, head_dim=8)
CPU = torch.device("cpu")


def by_definition(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: varlen.VarlenMetadata, scaling: float
) -> torch.Tensor:
    """Causal from the end: of n rows and m keys, row i sees the first m - n + i + 1."""
    out = torch.empty_like(query)
    size, group = keys.shape[1], query.shape[1] // keys.shape[2]
    for n, length in enumerate(rows.lengths.tolist()):
        first, last = rows.starts[n : n + 2].tolist()
        for row in range(first, last):
            seen = range(length - (last - first) + (row - first) + 1)
            at = [(int(rows.table[n, p // size]), p % size) for p in seen]
            k, v = (torch.stack([t[b, o] for b, o in at]).repeat_interleave(group, 1) for t in (keys, values))
            weights = torch.einsum("hd,phd->hp", query[row], k).mul(scaling).softmax(-1)
            out[row] = torch.einsum("hp,phd->hd", weights, v)
    return out


def test_rows_and_blocks_are_told_as_the_kernels_want_them() -> None:
    rows = varlen.varlen_metadata([([7, 3, 9], 9, 1), ([1, 2], 4, 1), ([5, 6, 8, 4], 3, 6)], 4, CPU)
    assert rows.starts.tolist() == [0, 1, 2, 8]
    assert rows.lengths.tolist() == [10, 5, 9]
    assert rows.key_starts.tolist() == [0, 10, 15, 24]
    # Blocks beyond the last token are left out, shorter rows filled up.
    assert rows.table.tolist() == [[7, 3, 9], [1, 2, 0], [5, 6, 8]]
    assert (rows.most_rows, rows.longest) == (6, 10)
    assert {t.dtype for t in (rows.starts, rows.lengths, rows.key_starts, rows.table)} == {torch.int32}


@pytest.mark.parametrize("size", varlen.BLOCK_SIZES)
def test_a_kernel_is_trusted_once_it_gives_what_sdpa_gives(size: int) -> None:
    assert varlen.is_right(by_definition, size, CPU, torch.float32, SHAPE, 6)


def test_a_kernel_that_errs_or_raises_is_not_trusted() -> None:
    def blind(query: torch.Tensor, *_rest: object) -> torch.Tensor:
        return torch.zeros_like(query)

    def choosy(*_args: object) -> torch.Tensor:
        raise RuntimeError("Paged KV cache block size must be divisible by 256")

    kernels: tuple[varlen.VarlenKernel, ...] = (blind, choosy, *varlen.KERNELS)
    for kernel in kernels:
        assert not varlen.is_right(kernel, 16, CPU, torch.float32, SHAPE, 6)


def test_a_cpu_has_none() -> None:
    assert varlen.find(CPU, torch.float32, SHAPE, 6, [by_definition]) is None


def test_the_engine_gives_the_same_tokens_through_such_a_kernel(twins: Twins) -> None:
    engine = twins.engine(blocks=60, backend=CudaBackend(by_definition, 16))
    made = [twins.request(f"v{n}", twins.inputs[n]) for n in (0, 1)]
    for request, patches in made:
        engine.add(request, patches)
    assert twins.run(engine, [request for request, _ in made]) == twins.expected[:2]
