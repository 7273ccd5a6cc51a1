"""Weights laid out for the CPU's bf16 matrix kernels, once, when the model is taken over.

A plain bf16 ``F.linear`` reads its weight at half of what memory gives when few rows are multiplied; the layout
oneDNN asks for reaches the limit. The plain copy is dropped where nothing else holds it (a tied head's stays: it is
the embedding).
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from torch.nn.functional import pad

# oneDNN's kernels for one to three rows are slower than the one for four.
_FEWEST_ROWS: Final = 4


class PackedLinear(nn.Module):
    """Takes the place of a bf16 ``nn.Linear``; the same up to the order in which products are summed."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Args:
        rows: (..., in_features) → (..., out_features).
        """
        flat = rows.reshape(-1, self.in_features)
        count = flat.shape[0]
        if count < _FEWEST_ROWS:
            flat = pad(flat, (0, 0, 0, _FEWEST_ROWS - count))
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(flat, self._weight, self.bias, "none", [], "")
        return out[:count].view(*rows.shape[:-1], self.out_features)


def pack(model: Any) -> int:
    """Swap the model's linear layers for packed ones, where that pays; returns how many were swapped.

    Only for bf16 on a CPU whose oneDNN has the kernels; otherwise the model is left alone.
    """
    if model.device.type != "cpu" or not _available():
        return 0
    swapped = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child.weight.dtype is torch.bfloat16:
                setattr(module, name, PackedLinear(child))
                swapped += 1
    return swapped


def _available() -> bool:
    """Tried rather than looked up: builds have the operators without kernels for this processor."""
    try:
        with torch.inference_mode():
            PackedLinear(nn.Linear(32, 32, bias=False, dtype=torch.bfloat16))(torch.zeros(1, 32, dtype=torch.bfloat16))
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return True
