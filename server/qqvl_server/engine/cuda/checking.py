"""Whether our kernels between a layer's products give what torch gives. Attention is tried by ``trial.py``."""

from __future__ import annotations

import torch
from torch.nn.functional import rms_norm, silu

from qqvl_server.engine.cache.kv_cache import KVCache, KVShape
from qqvl_server.engine.cuda.own import LayerKernels, Norm

# Of numbers about one.
_TOLERANCE = {torch.bfloat16: 0.04, torch.float16: 0.01, torch.float32: 1e-4}


@torch.inference_mode()
def refused(
    kernels: LayerKernels, device: torch.device, dtype: torch.dtype, *, hidden: int, inner: int, heads: int, kv: KVShape
) -> str | None:
    """Why ``kernels`` are not to be used for a text model of this shape; None where they are right."""
    dice = torch.Generator(device).manual_seed(0)

    def drawn(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=dice, device=device).to(dtype)

    width, kv_heads = kv.head_dim, kv.kv_heads
    cache = KVCache(KVShape(1, kv_heads, width), 4, 16, dtype=dtype, device=device)
    slots = torch.tensor([3, 40, 16, 15, 63], device=device)
    rows, added, by = drawn(5, hidden), drawn(5, hidden), Norm(drawn(hidden), 1e-6)
    joined, gates = drawn(5, (heads + 2 * kv_heads) * width), drawn(5, 2 * inner)
    norms = Norm(drawn(width), 1e-6), Norm(drawn(width), 1e-6)
    angles = drawn(5, width // 2).float().repeat(1, 2)
    turns = angles.cos().to(dtype), angles.sin().to(dtype)
    total = rows.clone()
    try:
        after = kernels.add_and_norm(total, added, by)
        query = kernels.rotate_and_store(joined, norms, turns, slots, cache, 0)
        found = {
            "norm": (kernels.norm(rows, by), _normed(rows.float(), by)),
            "sum": (total, rows.float() + added.float()),
            "norm of sum": (after, _normed(rows.float() + added.float(), by)),
            "gate": (kernels.silu_multiply(gates), silu(gates[:, :inner].float()) * gates[:, inner:].float()),
        }
        each = joined.view(5, -1, width).float()
        stored = [t[0].flatten(0, 1)[slots] for t in (cache.keys, cache.values)]
        found["queries"] = query, _turned(each[:, :heads], norms[0], turns)
        found["keys"] = stored[0], _turned(each[:, heads : heads + kv_heads], norms[1], turns)
        found["values"] = stored[1], each[:, heads + kv_heads :]
        for name, (ours, theirs) in found.items():
            worst = float(((ours.float() - theirs).abs() / (1 + theirs.abs())).max())
            # Not less either where it is no number.
            if not worst < _TOLERANCE[dtype]:
                return f"{name}: off by {worst:.2g}"
    except Exception as error:
        # An edge: Triton, its compiler and the driver raise anything for a card they do not take.
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None


def _normed(rows: torch.Tensor, by: Norm) -> torch.Tensor:
    return rms_norm(rows, rows.shape[-1:], by.weight.float(), by.eps)


def _turned(rows: torch.Tensor, by: Norm, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotary position embedding as Transformers has it: halves of a head turn against each other."""
    normed = _normed(rows, by)
    left, right = normed.chunk(2, -1)
    cosines, sines = (turn.float().unsqueeze(1) for turn in turns)
    return normed * cosines + torch.cat([-right, left], -1) * sines
