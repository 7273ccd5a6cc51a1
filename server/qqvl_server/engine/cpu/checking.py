"""Finding our own kernels: compiled if need be, and trusted once they give what torch gives."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import rms_norm, silu

from qqvl_server.engine.cache.gathered import by_sdpa
from qqvl_server.engine.cache.kv_cache import KVCache, KVShape
from qqvl_server.engine.cpu.abi import KINDS, NativeLayer
from qqvl_server.engine.cpu.compiling import COMPILER, built
from qqvl_server.engine.cpu.kernels import Kernels, NativeRows, Norm, TextShape, lay_out

_GUARD = 4096


def find(
    device: torch.device, dtype: torch.dtype, shape: TextShape, *, folder: Path | None = None, compiler: str = COMPILER
) -> Kernels | None:
    """The kernels, compiled if need be, into ``folder`` where one is named; None where they cannot be had or err."""
    if device.type != "cpu" or dtype not in KINDS:
        return None
    try:
        found = Kernels(built(folder, compiler))
    except (OSError, subprocess.SubprocessError):
        return None
    return found if found.takes(shape) and is_right(found, dtype, shape) else None


@torch.inference_mode()
def is_right(kernels: Kernels, dtype: torch.dtype, shape: TextShape) -> bool:
    """Whether every kernel gives what torch gives, for rows within a block, at its end and over more than a span."""
    dice = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=dice).to(dtype)

    cache = KVCache(KVShape(1, shape.kv_heads, shape.head_dim), 64, 16, dtype=dtype, device="cpu")
    for pool in (*cache.keys, *cache.values):
        pool.copy_(drawn(*pool.shape))
    spans = [([*range(23, 4, -1)], 299, 1), ([1], 15, 1), ([3], 4, 1), ([50, 40, 41, 42, 43, 44], 10, 75), ([60], 0, 9)]
    slots = [blocks[p // 16] * 16 + p % 16 for blocks, start, count in spans for p in range(start, start + count)]
    count = len(slots)
    joined = drawn(count, (shape.heads + 2 * shape.kv_heads) * shape.head_dim)
    norms = Norm(drawn(shape.head_dim), 1e-6), Norm(drawn(shape.head_dim), 1e-6)
    angles = drawn(count, shape.head_dim // 2).float().repeat(1, 2)
    turns = angles.cos().to(dtype), angles.sin().to(dtype)
    query = kernels.rotate_and_store(joined, norms, turns, torch.tensor(slots), cache, 0)
    heads = joined.view(count, -1, shape.head_dim).float()
    queries, keys = heads[:, : shape.heads], heads[:, shape.heads : shape.heads + shape.kv_heads]
    turned = _turned(queries, norms[0], turns), _turned(keys, norms[1], turns)
    kept = cache.keys[0].flatten(0, 1)[slots], cache.values[0].flatten(0, 1)[slots]
    rows = lay_out(kernels, spans, cache, shape.heads)
    found = kernels.attend(query, cache.keys[0], cache.values[0], rows, shape.head_dim**-0.5)
    attended, row = [], 0
    for blocks, start, many in spans:
        chosen = query[row : row + many]
        attended.append(by_sdpa(chosen, cache.keys[0][blocks], cache.values[0][blocks], start).flatten(1))
        row += many
    hidden, added, weight = drawn(3, shape.hidden), drawn(3, shape.hidden), Norm(drawn(shape.hidden), 1e-6)
    total, normed = kernels.sum_and_norm(hidden, added, weight)
    gates = drawn(3, 2 * shape.inner)
    gate, up = gates.float().chunk(2, 1)
    pairs = [
        (query, turned[0]),
        (kept[0], turned[1]),
        (kept[1], heads[:, -shape.kv_heads :]),
        (found, torch.cat(attended)),
        (total, hidden.float() + added.float()),
        (normed, _normed(total.float(), weight)),
        (kernels.norm(hidden, weight), _normed(hidden.float(), weight)),
        (kernels.silu_multiply(gates), silu(gate) * up),
    ]
    # Rows beside a whole pass, inputs beyond one part, more rows than a block.
    for count, inputs in ((1, shape.hidden), (7, 2080), (133, 64)):
        left, right = drawn(count, inputs), drawn(72, inputs) * inputs**-0.5
        if kernels.has_matmul(right):
            pairs.append((kernels.matmul(left, right), left.float() @ right.float().T))
    joined_width = joined.shape[1]
    for inner in (96, joined_width + 32):
        # Narrow, but with either half of a layer as the wider; what stands behind the workspace must stay as it is.
        narrow = replace(shape, hidden=64, inner=inner)
        workspace = torch.full((len(slots) * narrow.workspace + _GUARD,), 7, dtype=dtype)
        step = lay_out(kernels, spans, cache, shape.heads, workspace)
        pairs += _layers(kernels, narrow, norms, turns, torch.tensor(slots), step, cache, drawn)
        pairs.append((workspace[-_GUARD:], torch.full((_GUARD,), 7.0)))
    tolerance = 0.03 if dtype is torch.bfloat16 else 1e-4
    return all(torch.allclose(ours.float(), theirs.float(), atol=tolerance, rtol=tolerance) for ours, theirs in pairs)


def _layers(
    kernels: Kernels, shape: TextShape, heads: tuple[Norm, Norm], turns: tuple[torch.Tensor, torch.Tensor],
    slots: torch.Tensor, step: NativeRows, cache: KVCache, drawn: Callable[..., torch.Tensor],
) -> list[tuple[torch.Tensor, torch.Tensor]]:  # fmt: skip
    """Two layers at once, and what their parts give one by one; nothing where products are not our own."""
    hidden, inner, queries = shape.hidden, shape.inner, shape.heads * shape.head_dim
    sizes = (
        (queries + 2 * shape.kv_heads * shape.head_dim, hidden),
        (hidden, queries),
        (2 * inner, hidden),
        (hidden, inner),
    )
    weights = [drawn(*size) * size[1] ** -0.5 for size in sizes]
    if not all(kernels.has_matmul(weight) for weight in weights):
        return []
    before, after = Norm(drawn(hidden), 1e-6), Norm(drawn(hidden), 1e-6)
    joined, projection, gate_up, down = (weight.data_ptr() for weight in weights)
    layer = NativeLayer(
        hidden=hidden, inner=inner, heads=shape.heads, kv_heads=shape.kv_heads, head_dim=shape.head_dim,
        weight_kind=KINDS[weights[0].dtype], first_eps=before.eps, head_eps=heads[0].eps, second_eps=after.eps,
        scaling=shape.head_dim**-0.5, first_norm=before.weight.data_ptr(), joined=joined,
        query_norm=heads[0].weight.data_ptr(), key_norm=heads[1].weight.data_ptr(), projection=projection,
        second_norm=after.weight.data_ptr(), gate_up=gate_up, down=down, keys=cache.keys[0].data_ptr(),
        values=cache.values[0].data_ptr(),
    )  # fmt: skip
    rows = drawn(len(slots), hidden)
    at_once = rows.clone()
    for _ in range(2):
        query = kernels.rotate_and_store(
            kernels.matmul(kernels.norm(rows, before), weights[0]), heads, turns, slots, cache, 0
        )
        attended = kernels.attend(query, cache.keys[0], cache.values[0], step, shape.head_dim**-0.5)
        total, normed = kernels.sum_and_norm(rows, kernels.matmul(attended, weights[1]), after)
        rows = total + kernels.matmul(kernels.silu_multiply(kernels.matmul(normed, weights[2])), weights[3])
    kernels.run((NativeLayer * 2)(layer, layer), at_once, turns, slots, step)
    return [(at_once, rows)]


def _normed(rows: torch.Tensor, by: Norm) -> torch.Tensor:
    return rms_norm(rows, rows.shape[-1:], by.weight.float(), by.eps)


def _turned(rows: torch.Tensor, by: Norm, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotary position embedding as Transformers has it: halves of a head turn against each other."""
    normed = _normed(rows, by)
    left, right = normed.chunk(2, -1)
    cosines, sines = (turn.float().unsqueeze(1) for turn in turns)
    return normed * cosines + torch.cat([-right, left], -1) * sines
