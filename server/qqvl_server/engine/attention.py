"""Attention over the paged cache, plugged into Transformers by its public registry. No model code is copied.

The batch's description rides along as the keyword argument ``paged`` of the model call. Everything here is SDPA
over gathered blocks, which runs on every device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from qqvl_server.engine.kv_cache import KVCache

NAME: Final = "qqvl_paged"


@dataclass(frozen=True, slots=True)
class PrefillSpan:
    """Rows ``row`` to ``row + count`` of the packed batch are positions ``start`` to ``start + count`` of one request.

    ``slots`` (start + count,) are the cache slots of all its tokens so far.
    """

    row: int
    start: int
    count: int
    slots: torch.Tensor


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """The first ``count`` rows are one new token of one request each.

    ``slots`` (count, longest) are cache slots, padded with 0; ``mask`` (count, 1, 1, longest) is true
    where a slot counts.
    """

    count: int
    slots: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """``new_slots`` (N,) is where each packed row's key and value go."""

    cache: KVCache
    new_slots: torch.Tensor
    decodes: DecodeRows | None
    prefills: tuple[PrefillSpan, ...]


def register() -> None:
    """Make ``attn_implementation="qqvl_paged"`` known; harmless when it already is."""
    AttentionInterface.register(NAME, paged_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """Causality lives in ``paged_attention``; a mask over the packed row would be N × N and wrong."""


def paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    paged: PagedBatch,
    scaling: float,
    **_kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Store the new keys and values, then attend.

    Args:
        query: (1, heads, N, head_dim); ``key`` and ``value``: (1, kv_heads, N, head_dim).

    Returns:
        (1, N, heads, head_dim), as Transformers' attention functions do.
    """
    layer = module.layer_idx
    keys, values = key[0].transpose(0, 1), value[0].transpose(0, 1)
    paged.cache.write(layer, paged.new_slots, keys, values)
    rows = query[0].transpose(0, 1)
    out = torch.empty_like(rows)
    cached_keys, cached_values = paged.cache.keys[layer], paged.cache.values[layer]
    if paged.decodes is not None:
        decodes = paged.decodes
        attended = scaled_dot_product_attention(
            rows[: decodes.count].unsqueeze(2),
            cached_keys[decodes.slots].transpose(1, 2),
            cached_values[decodes.slots].transpose(1, 2),
            attn_mask=decodes.mask,
            scale=scaling,
            enable_gqa=True,
        )
        out[: decodes.count] = attended.squeeze(2)
    for span in paged.prefills:
        end = span.row + span.count
        if span.start == 0:
            # Nothing before it: its own keys are at hand, no need to gather them back.
            seen_keys, seen_values = keys[span.row : end], values[span.row : end]
        else:
            seen_keys, seen_values = cached_keys[span.slots], cached_values[span.slots]
        attended = scaled_dot_product_attention(
            rows[span.row : end].transpose(0, 1).unsqueeze(0),
            seen_keys.transpose(0, 1).unsqueeze(0),
            seen_values.transpose(0, 1).unsqueeze(0),
            attn_mask=None if span.start == 0 else _causal(span.start, span.count, rows.device),
            is_causal=span.start == 0,
            scale=scaling,
            enable_gqa=True,
        )
        out[span.row : end] = attended[0].transpose(0, 1)
    return out.unsqueeze(0), None


def _causal(start: int, count: int, device: torch.device) -> torch.Tensor:
    """(count, start + count): row i sees positions up to start + i."""
    return torch.ones(count, start + count, dtype=torch.bool, device=device).tril(start)
