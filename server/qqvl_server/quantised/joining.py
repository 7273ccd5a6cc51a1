"""Layers that are given the same rows, as one product where their layouts allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from qqvl_server.quantised import eights, integers
from qqvl_server.quantised.eights import ByteLinear
from qqvl_server.quantised.integers import IntLinear


class Beside(nn.Module):
    """Layers that cannot be joined: one product each."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(layers)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Args:
        rows: (N, in_features) → (N, out_features of all).
        """
        return torch.cat([one(rows) for one in self.parts], -1)


def joined(layers: Sequence[Any]) -> nn.Module:
    """``layers``, of which some are quantised, along their outputs."""
    if len(layers) == 1:
        only: nn.Module = layers[0]
        return only
    found: nn.Module | None = None
    if all(type(one) is IntLinear for one in layers):
        found = integers.joined(layers)
    elif all(type(one) is ByteLinear for one in layers):
        found = eights.joined(layers)
    return Beside(layers) if found is None else found


def is_packed(layer: nn.Module) -> bool:
    """Whether its weights are ours, and quantised."""
    return isinstance(layer, IntLinear | ByteLinear)
