"""Batched forward pass of the vision tower, and the helper heads that teach it to see.

The library's own forward walks picture by picture; padding a batch gives the same numbers much faster on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLVisionBlock,
    Qwen3VLVisionModel,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from .attention import attend, padding_bias
from .pictures import IGNORE, PictureBatch

# Local colour and shape; centres, cover and contours of a cell's squares; the picture's colour, shape and count.
READINGS = (9, 5, 16, 64, 64, 8, 4, 4)
LEVEL_WEIGHTS = (0.15, 0.2, 0.4, 1.0)  # deepstack levels first, the tower's output last


def _pad(flat: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(all patches, …) to (batch, patches, …), zero where not valid."""
    padded = flat.new_zeros((*valid.shape, *flat.shape[1:]))
    padded[valid] = flat
    return padded


def _attend(
    block: Qwen3VLVisionBlock, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Self-attention inside each picture; hidden is (batch, patches, width)."""
    attention = block.attn
    batch, patches, width = hidden.shape
    qkv = attention.qkv(hidden).view(batch, patches, 3, attention.num_heads, -1)
    query, key, value = qkv.unbind(2)
    query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
    mixed = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), bias, attention.scaling)
    return torch.as_tensor(attention.proj(mixed.transpose(1, 2).reshape(batch, patches, width)))


def see(tower: Qwen3VLVisionModel, batch: PictureBatch) -> list[torch.Tensor]:
    """Features of every level (deepstack levels, then output), each (batch, patches / 4, text width)."""
    grids = torch.cat([torch.ones(len(batch.grids), 1, dtype=torch.long), batch.grids], dim=1)
    indices, weights = get_vision_interpolation_indices_and_weights(
        grids, num_grid_per_side=tower.num_grid_per_side, mode=tower.interpolation_mode,
        align_corners=tower.interpolation_align_corners, spatial_merge_size=2,
    )  # fmt: skip
    positions = (tower.pos_embed(indices) * weights[:, :, None]).sum(1)
    # Both frames of a still picture are equal, so the temporal halves of the kernel can be added up first.
    kernel = tower.patch_embed.proj.weight.sum(2).flatten(1)
    hidden = functional.linear(batch.pixels, kernel, tower.patch_embed.proj.bias) + _pad(positions, batch.valid)
    cos, sin = tower.rotary_pos_emb(hidden, get_vision_position_ids(grids, 2))
    cos, sin = _pad(cos, batch.valid), _pad(sin, batch.valid)
    bias = padding_bias(batch.valid)
    levels = []
    for index, block in enumerate(tower.blocks):
        hidden = hidden + _attend(block, block.norm1(hidden), cos, sin, bias)
        hidden = hidden + block.mlp(block.norm2(hidden))
        if index in tower.deepstack_visual_indexes:
            merger = tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(index)]
            levels.append(merger(hidden).view(len(hidden), -1, merger.linear_fc2.out_features))
    levels.append(tower.merger(hidden).view(len(hidden), -1, tower.merger.linear_fc2.out_features))
    return levels


class HelperHeads(nn.Module):
    """Linear read-outs at every merged token, for training only: what covers it, and what the picture shows."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.read = nn.ModuleList(nn.Linear(width, sum(READINGS)) for _ in range(levels))

    def forward(self, features: list[torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
        """Logits per level: eight tensors (batch, tokens, classes), as READINGS lists them."""
        return [read(level.float()).split(READINGS, dim=-1) for read, level in zip(self.read, features, strict=True)]


@dataclass(frozen=True)
class EyeLoss:
    """Total loss, and the shares of pictures whose colour, shape and count the pooled output reads right."""

    total: torch.Tensor
    colour: float
    shape: float
    count: float


def _cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    loss = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORE, reduction="sum")
    return loss / (target != IGNORE).sum().clamp(min=1)


def _squares(
    logits: torch.Tensor, target: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits[tokens], target[tokens], pos_weight=weight)


def _share_right(logits: torch.Tensor, target: torch.Tensor, tokens: torch.Tensor) -> float:
    pooled = (logits.softmax(-1) * tokens[..., None]).sum(1).argmax(-1)
    known = target != IGNORE
    return float((pooled == target)[known].float().mean())


def eye_loss(heads: HelperHeads, features: list[torch.Tensor], batch: PictureBatch) -> EyeLoss:
    """Every token of every level learns what covers it; later levels also learn what the picture shows."""
    tokens = batch.valid[:, ::4]
    wide = [torch.where(tokens, batch.label[:, i : i + 1], IGNORE) for i in range(3)]
    total = torch.zeros(())
    readings = heads(features)
    for weight, (colour, shape, centre, cover, contour, *whole) in zip(LEVEL_WEIGHTS, readings, strict=True):
        local = (
            2 * _squares(cover, batch.cover, tokens)
            + _squares(contour, batch.contour, tokens)
            # One square in two hundred holds a centre.
            + 4 * _squares(centre, batch.centre, tokens, torch.tensor(10.0))
            + _cross_entropy(colour, batch.local[..., 0])
            + _cross_entropy(shape, batch.local[..., 1])
        )
        if weight >= 0.4:
            local = local + sum(_cross_entropy(logits, target) for logits, target in zip(whole, wide, strict=True))
        total = total + weight * local
    rights = [_share_right(readings[-1][5 + i], batch.label[:, i], tokens) for i in range(3)]
    return EyeLoss(total, *rights)
