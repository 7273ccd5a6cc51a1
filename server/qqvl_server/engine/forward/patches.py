"""The vision tower's first layer as a product: a convolution whose steps are as long as its kernel is nothing else.

cuDNN's three-dimensional convolution in bf16 is ten to twenty times as slow (pytorch#174051), on some cards thousands
of times (transformers#45750).
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from torch.nn.functional import linear

_KNOWN: Final = ("Qwen3VLVisionPatchEmbed", "Qwen3VLMoeVisionPatchEmbed")


class PatchProduct(nn.Module):
    """Takes the place of ``embed``, a patch embedding of Transformers: the same up to rounding, on its own weights."""

    def __init__(self, embed: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(embed.proj.weight.detach().flatten(1), requires_grad=False)
        bias = embed.proj.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Args:
        patches: (N, C·T·P·P) → (N, hidden).
        """
        return linear(patches.to(self.weight.dtype), self.weight, self.bias)


def by_products(model: Any) -> None:
    """Have ``model`` look at patches by a product; other towers than those known are left alone."""
    visual = model.model.visual
    if type(visual.patch_embed).__name__ in _KNOWN and type(visual.patch_embed.proj) is nn.Conv3d:
        visual.patch_embed = PatchProduct(visual.patch_embed)
