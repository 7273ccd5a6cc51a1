"""Products with weights of four bits by torch's own kernel for CPUs, which unpacks them in registers.

Only in bf16: in float32 the kernel is slower than unpacking a layer's weights beforehand.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import torch
from torch import nn

from qqvl_server.quantised.integers import IntLinear, unpacked

# Weights with one scale, as the kernel takes them.
_GROUPS: Final = (32, 64, 128, 256)
_MIDDLE: Final = 8
# Outputs are packed by so many at once.
_OUTPUTS: Final = 64


class FourBitLinear(nn.Module):
    """Takes the place of ``layer``; weight = (q - 8) · scale + shift, rounded to bf16 once."""

    packed: torch.Tensor
    scales: torch.Tensor
    order: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, layer: IntLinear) -> None:
        super().__init__()
        every = unpacked(layer.packed, layer.bits).T.int().contiguous()
        self.register_buffer("packed", torch.ops.aten._convert_weight_to_int4pack_for_cpu(every, 1))
        scales, zeros = layer.scales.float(), layer.zeros.float()
        self.register_buffer("scales", torch.stack((scales, (_MIDDLE - zeros) * scales), -1).bfloat16().contiguous())
        self.register_buffer("order", layer.order)
        self.register_buffer("bias", layer.bias)
        self._group = layer.group
        self.out_features = layer.out_features

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Args:
        rows: (..., in_features), bf16 → (..., out_features).
        """
        flat = rows.reshape(-1, rows.shape[-1])
        if self.order is not None:
            flat = flat.index_select(1, self.order)
        found: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            flat.contiguous(), self.packed, self._group, self.scales
        )
        if self.bias is not None:
            found = found + self.bias.to(found.dtype)
        return found.view(*rows.shape[:-1], self.out_features)


def swap(model: Any) -> int:
    """Have a bf16 ``model`` on a CPU use the kernel for all layers that it takes; returns how many those are."""
    if model.device.type != "cpu" or model.get_input_embeddings().weight.dtype is not torch.bfloat16:
        return 0
    swapped = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is IntLinear and _takes(child) and _available():
                setattr(module, name, FourBitLinear(child))
                swapped += 1
    return swapped


def _takes(layer: IntLinear) -> bool:
    return layer.bits == 4 and layer.group in _GROUPS and layer.out_features % _OUTPUTS == 0


@functools.cache
def _available() -> bool:
    """Tried rather than looked up: whether it is there and gives what unpacking gives."""
    dice = torch.Generator().manual_seed(0)
    numbers = torch.randint(-(2**31), 2**31 - 1, (16, 64), dtype=torch.int32, generator=dice)
    zeros = torch.randint(0, 16, (1, 64), dtype=torch.uint8, generator=dice)
    layer = IntLinear(numbers, torch.rand(1, 64, generator=dice) / 8, zeros, bits=4)
    rows = torch.randn(3, 128, generator=dice)
    try:
        with torch.inference_mode():
            found = FourBitLinear(layer)(rows.bfloat16()).float()
            worst = float((found - layer(rows)).abs().max())
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return worst < 0.3
