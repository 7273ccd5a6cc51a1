"""Layers whose weights stay numbers of eight bits in memory: FP8 (E4M3) or integers, blocks of which share a scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import nn
from torch.nn.functional import linear

# Weights turned to floats at once: 64 MB of them.
_AT_ONCE: Final = 1 << 24


class ByteLinear(nn.Module):
    """Takes the place of a linear layer: weight (N, K) of one byte each, times ``scales`` of ``block`` weights each.

    Inputs are not rounded: nothing is lost but what the checkpoint's maker rounded.
    """

    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self, weight: torch.Tensor, scales: torch.Tensor, *, block: tuple[int, int], bias: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.block = block
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", bias)
        # Whoever has a faster way for a device puts it here.
        self.product: ByteProduct = by_outputs

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Args:
        rows: (..., K) → (..., N).
        """
        found = self.product(rows.reshape(-1, self.in_features), self)
        if self.bias is not None:
            found = found + self.bias.to(found.dtype)
        return found.view(*rows.shape[:-1], self.out_features)

    def weights(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """(outputs, K), rounded to ``dtype`` once. ``outputs`` begin with a block."""
        high, wide = self.block
        kept = self.weight[outputs]
        first = (outputs.start or 0) // high
        scales = self.scales[first : first + -(-len(kept) // high)].float()
        if wide < self.in_features:
            scales = scales.repeat_interleave(wide, 1)[:, : self.in_features]
        if high > 1:
            scales = scales.repeat_interleave(high, 0)[: len(kept)]
        return kept.float().mul_(scales).to(dtype)


# (rows, K), the layer → (rows, N), without the bias.
ByteProduct = Callable[[torch.Tensor, ByteLinear], torch.Tensor]


def by_outputs(rows: torch.Tensor, layer: ByteLinear) -> torch.Tensor:
    """As ``ByteProduct``, on any device: so many weights are turned to floats, used and let go."""
    high = layer.block[0]
    # Whole blocks at a time.
    height = max(_AT_ONCE // layer.in_features // high, 1) * high
    parts = [
        linear(rows, layer.weights(slice(start, start + height), rows.dtype))
        for start in range(0, layer.out_features, height)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def joined(layers: Sequence[ByteLinear]) -> ByteLinear | None:
    """``layers``, which are given the same rows, as one along their outputs; None where blocks would not stay whole."""
    first, high = layers[0], layers[0].block[0]
    alike = all(
        (one.block, one.weight.dtype, one.in_features, one.bias is None)
        == (first.block, first.weight.dtype, first.in_features, first.bias is None)
        and one.out_features % high == 0
        for one in layers
    )
    if not alike:
        return None
    biases = [one.bias for one in layers if one.bias is not None]
    # Not every build can join numbers of these types.
    weight = torch.cat([one.weight.view(torch.uint8) for one in layers]).view(first.weight.dtype)
    scales = torch.cat([one.scales for one in layers])
    found = ByteLinear(weight, scales, block=first.block, bias=torch.cat(biases) if biases else None)
    found.product = first.product
    return found
