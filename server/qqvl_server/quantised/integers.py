"""Layers whose weights stay integers of 4 or 8 bits in memory, some dozens of which share a scale and a zero.

GPTQ (Frantar 2022), AWQ (Lin 2023) and compressed-tensors' packed formats are all brought to this one layout
(``stored.py``), so that whoever computes products knows one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import nn

# Weights turned to floats at once where a product has no kernel of its own: 64 MB of them.
_AT_ONCE: Final = 1 << 24


class IntLinear(nn.Module):
    """Takes the place of a linear layer of K inputs and N outputs: weight[k, n] = (q[k, n] - zero[g, n]) · scale[g, n].

    ``packed`` (K · bits / 32, N) int32 holds, lowest bits first, 32 / bits q that follow one another along K;
    ``scales`` and ``zeros`` (uint8) are (G, N), each of K / G q. ``order`` (K,), where given, says which input row k
    is of.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    order: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(
        self,
        packed: torch.Tensor,
        scales: torch.Tensor,
        zeros: torch.Tensor,
        *,
        bits: int,
        order: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.bits = bits
        self.in_features, self.out_features = packed.shape[0] * (32 // bits), packed.shape[1]
        self.group = self.in_features // scales.shape[0]
        for name, tensor in (("packed", packed), ("scales", scales), ("zeros", zeros), ("order", order)):
            self.register_buffer(name, tensor)
        self.register_buffer("bias", bias)
        # Whoever has a faster way for a device puts it here.
        self.product: IntProduct = by_columns

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Args:
        rows: (..., K) → (..., N).
        """
        flat = rows.reshape(-1, self.in_features)
        if self.order is not None:
            flat = flat.index_select(1, self.order)
        found = self.product(flat, self)
        if self.bias is not None:
            found = found + self.bias.to(found.dtype)
        return found.view(*rows.shape[:-1], self.out_features)

    def weights(self, columns: slice, dtype: torch.dtype) -> torch.Tensor:
        """(K, columns), rounded to ``dtype`` once."""
        every = unpacked(self.packed[:, columns], self.bits)
        scales, zeros = self.scales[:, None, columns].float(), self.zeros[:, None, columns].float()
        found = every.view(len(scales), self.group, -1).float().sub_(zeros).mul_(scales)
        return found.view(self.in_features, -1).to(dtype)


# (rows, K), the layer → (rows, N), without order and bias.
IntProduct = Callable[[torch.Tensor, IntLinear], torch.Tensor]


def by_columns(rows: torch.Tensor, layer: IntLinear) -> torch.Tensor:
    """As ``IntProduct``, on any device: so many weights are turned to floats, used and let go."""
    width = max(_AT_ONCE // layer.in_features, 8)
    if layer.out_features <= width:
        return rows @ layer.weights(slice(None), rows.dtype)
    found = rows.new_empty(len(rows), layer.out_features)
    for start in range(0, layer.out_features, width):
        columns = slice(start, start + width)
        found[:, columns] = rows @ layer.weights(columns, rows.dtype)
    return found


def joined(layers: Sequence[IntLinear]) -> IntLinear | None:
    """``layers``, which are given the same rows, as one along their outputs; None where they are not laid out alike."""
    first = layers[0]
    alike = all(
        (one.bits, one.in_features, one.group, one.bias is None)
        == (first.bits, first.in_features, first.group, first.bias is None)
        and _same(one.order, first.order)
        for one in layers
    )
    if not alike:
        return None
    biases = [one.bias for one in layers if one.bias is not None]
    found = IntLinear(
        torch.cat([one.packed for one in layers], 1),
        torch.cat([one.scales for one in layers], 1),
        torch.cat([one.zeros for one in layers], 1),
        bits=first.bits,
        order=first.order,
        bias=torch.cat(biases) if biases else None,
    )
    found.product = first.product
    return found


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def unpacked(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """(R, N) int32 → (R · 32 / bits, N) uint8, lowest bits first."""
    count, width = packed.shape
    # The bytes of a number, the lowest first, as all machines that PyTorch is built for have them.
    # Flat first: a dimension of one may have any stride, and still count as contiguous.
    parts = packed.contiguous().flatten().view(torch.uint8).view(count, width, 4)
    if bits == 4:
        parts = torch.stack((parts & 15, parts >> 4), -1).view(count, width, 8)
    return parts.transpose(1, 2).reshape(-1, width)


def packed(every: torch.Tensor, bits: int) -> torch.Tensor:
    """``unpacked`` undone: (K, N) uint8 → (K · bits / 32, N) int32."""
    per = 32 // bits
    parts = every.view(-1, per, every.shape[1]).transpose(1, 2)
    if bits == 4:
        parts = parts[..., ::2] | parts[..., 1::2] << 4
    return parts.contiguous().view(torch.int32).squeeze(-1)
