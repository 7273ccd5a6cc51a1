"""Plain attention for training: on CPUs the fused kernel's backward pass is three times slower than this."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

NAME = "plain_attention"


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """softmax(query · key · scale + bias) · value over (batch, heads, tokens, width), in the dtype of `value`."""
    with torch.autocast("cpu", enabled=False):
        dtype = value.dtype
        scores = torch.matmul(query.to(dtype) * scale, key.to(dtype).transpose(-1, -2))
        if bias is not None:
            scores = scores + bias.to(dtype)
        return torch.matmul(scores.softmax(-1), value)


def padding_bias(valid: torch.Tensor) -> torch.Tensor:
    """(batch, keys) of truth to an additive bias (batch, 1, 1, keys)."""
    return torch.zeros(valid.shape).masked_fill_(~valid.bool(), -1e9)[:, None, None, :]


def causal_bias(valid: torch.Tensor, branch: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """An additive bias (batch, 1, tokens, tokens) that hides padding, the future and other branches.

    valid: (batch, tokens) of truth; branch: (batch, tokens), 0 on the trunk; after: (batch, tokens), the last place of
    the trunk that a token sees.
    """
    place = torch.arange(valid.shape[1])
    seen = (branch[:, None, :] == 0) & (place <= after[:, :, None]) | (branch[:, None, :] == branch[:, :, None])
    seen &= (place <= place[:, None]) & valid[:, None, :].bool()
    return torch.zeros(seen.shape).masked_fill_(~seen, -1e9)[:, None]


def _library_form(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The library's calling convention; key and value heads are shared by groups of query heads."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return attend(query, key, value, attention_mask, scaling).transpose(1, 2), None


def use_plain_attention(model: Any) -> None:
    """Let a language model use it; its attention_mask must then be a causal_bias."""
    AttentionInterface.register(NAME, _library_form)
    model.config._attn_implementation = NAME
