"""Attention over the paged cache, plugged into Transformers by its public registry. No model code is copied.

The batch's description rides along as the keyword argument ``paged`` of the model call. Everything here is SDPA
over gathered blocks, which runs on every device; ``varlen.py`` reads them in place where it can. Query heads that
share a key head are taken as rows of one query: SDPA's own grouping falls to a slow path on CPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from qqvl_server.engine.kv_cache import KVCache
from qqvl_server.engine.varlen import InPlace, Kernel

NAME: Final = "qqvl_paged"


@dataclass(frozen=True, slots=True)
class PrefillSpan:
    """Rows ``row`` to ``row + count`` of the packed batch are positions ``start`` to ``start + count`` of one request.

    ``blocks`` (n,) hold all its tokens so far; ``mask`` (count, start + count) is -inf where a row must not look,
    None when nothing stands before the first row.
    """

    row: int
    start: int
    count: int
    blocks: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """Rows ``row`` to ``row + count`` are one new token each of requests of about one length.

    ``blocks`` (count, n) are padded with 0; ``longest`` is the length of the longest in tokens, ``mask``
    (count, 1, 1, longest) is -inf where no token is, None when all are equally long.
    """

    row: int
    count: int
    blocks: torch.Tensor
    longest: int
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Gathered:
    """How rows attend when the blocks they read are copied together."""

    decodes: tuple[DecodeRows, ...]
    prefills: tuple[PrefillSpan, ...]


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """``new_slots`` (N,) is where each packed row's key and value go; ``kernel`` is what reads ``InPlace`` rows."""

    cache: KVCache
    new_slots: torch.Tensor
    rows: Gathered | InPlace
    kernel: Kernel | None = None


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
    cache = paged.cache
    cache.write(layer, paged.new_slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
    if isinstance(paged.rows, InPlace):
        assert paged.kernel is not None
        keys, values = cache.blocks(layer)
        out = paged.kernel(query[0].transpose(0, 1).contiguous(), keys, values, paged.rows, scaling)
    else:
        out = _gathered(query, key, value, cache, layer, paged.rows, scaling)
    return out.unsqueeze(0), None


def _gathered(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cache: KVCache,
    layer: int,
    gathered: Gathered,
    scaling: float,
) -> torch.Tensor:
    """Args as of ``paged_attention``; (N, heads, head_dim)."""
    out = torch.empty_like(query[0].transpose(0, 1), memory_format=torch.contiguous_format)
    # (kv_heads, heads of one group, N, head_dim)
    grouped = query[0].unflatten(0, (key.shape[1], -1))
    for rows in gathered.decodes:
        end = rows.row + rows.count
        keys, values = cache.read(layer, rows.blocks, rows.longest)
        attended = scaled_dot_product_attention(
            grouped[:, :, rows.row : end].permute(2, 0, 1, 3),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=rows.mask,
            scale=scaling,
        )
        out[rows.row : end] = attended.flatten(1, 2)
    for span in gathered.prefills:
        end = span.row + span.count
        if span.mask is None:
            # Nothing before it: its own keys are at hand, no need to gather them back.
            keys, values = key[0, :, span.row : end], value[0, :, span.row : end]
        else:
            keys, values = (t.transpose(0, 1) for t in cache.read(layer, span.blocks, span.start + span.count))
        attended = _of_one_request(grouped[:, :, span.row : end], keys, values, span.mask, scaling)
        out[span.row : end] = attended.flatten(0, 1).transpose(0, 1)
    return out


def _of_one_request(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Args:
    query: (kv_heads, group, n, head_dim); ``keys`` and ``values``: (kv_heads, length, head_dim), seen by the whole
        group. Without a ``mask`` row i sees the first i + 1.
    """
    keys, values = (t.unsqueeze(1).expand(-1, query.shape[1], -1, -1) for t in (keys, values))
    return scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=mask is None, scale=scaling)
