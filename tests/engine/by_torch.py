"""What our kernels for cards do, by torch: for CPUs, and on the meta device, where each stands for one launch."""

from __future__ import annotations

import torch
from torch.nn.functional import rms_norm, silu

from qqvl_server.engine.cache.kv_cache import KVCache
from qqvl_server.engine.cuda.own import Norm


class ByTorch:
    """As ``LayerKernels``; what it is called with is kept in ``called``."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def norm(self, rows: torch.Tensor, by: Norm) -> torch.Tensor:
        self.called.append("norm")
        return rms_norm(rows, rows.shape[-1:], by.weight, by.eps)

    def add_and_norm(self, rows: torch.Tensor, added: torch.Tensor, by: Norm) -> torch.Tensor:
        self.called.append("add_and_norm")
        rows += added
        return rms_norm(rows, rows.shape[-1:], by.weight, by.eps)

    def rotate_and_store(
        self,
        joined: torch.Tensor,
        norms: tuple[Norm, Norm],
        turns: tuple[torch.Tensor, torch.Tensor],
        slots: torch.Tensor,
        cache: KVCache,
        layer: int,
    ) -> torch.Tensor:
        self.called.append("rotate_and_store")
        kv_heads, width = cache.keys[layer].shape[2:]
        each = joined.view(len(joined), -1, width)
        heads = each.shape[1] - 2 * kv_heads
        query, key, value = each[:, :heads], each[:, heads : heads + kv_heads], each[:, heads + kv_heads :]
        cache.write(layer, slots, _turned(key, norms[1], turns), value)
        return _turned(query, norms[0], turns)

    def silu_multiply(self, gates: torch.Tensor) -> torch.Tensor:
        self.called.append("silu_multiply")
        gate, up = gates.chunk(2, -1)
        return silu(gate) * up


def _turned(rows: torch.Tensor, by: Norm, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    normed = rms_norm(rows, rows.shape[-1:], by.weight, by.eps)
    left, right = normed.chunk(2, -1)
    cosines, sines = (turn.unsqueeze(1) for turn in turns)
    return normed * cosines + torch.cat([-right, left], -1) * sines


class OneLaunch(ByTorch):
    """Nothing is computed: each call is one operator."""

    def norm(self, rows: torch.Tensor, by: Norm) -> torch.Tensor:
        return rows.relu()

    def add_and_norm(self, rows: torch.Tensor, added: torch.Tensor, by: Norm) -> torch.Tensor:
        return rows.relu()

    def rotate_and_store(
        self,
        joined: torch.Tensor,
        norms: tuple[Norm, Norm],
        turns: tuple[torch.Tensor, torch.Tensor],
        slots: torch.Tensor,
        cache: KVCache,
        layer: int,
    ) -> torch.Tensor:
        kv_heads, width = cache.keys[layer].shape[2:]
        return joined.view(len(joined), -1, width)[:, : -2 * kv_heads].relu()

    def silu_multiply(self, gates: torch.Tensor) -> torch.Tensor:
        return gates.chunk(2, -1)[0].relu()
