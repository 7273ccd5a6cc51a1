"""Attention over the paged cache, plugged into Transformers by its public registry. No model code is copied.

The batch's description rides along as the keyword argument ``paged`` of the model call. How its rows read the cache
is ``varlen.py``'s matter where CUDA has a kernel for it, ``gathered.py``'s elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from qqvl_server.engine.cache.kv_cache import KVCache

NAME: Final = "qqvl_paged"


class AttentionMetadata(Protocol):
    """The packed rows of a step, as one way of attending wants them described."""

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cache: KVCache, layer: int, scaling: float
    ) -> torch.Tensor:
        """Args:
        query: (1, heads, N, head_dim); ``key`` and ``value``: (1, kv_heads, N, head_dim), in the cache already.

        Returns:
            (N, heads, head_dim).
        """
        ...


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """``new_slots`` (N,) is where each packed row's key and value go.

    Of a cache on several devices both are told on each: ``elsewhere`` on those but the first.
    """

    cache: KVCache
    new_slots: torch.Tensor
    rows: AttentionMetadata
    elsewhere: Mapping[torch.device, PagedBatch] = field(default_factory=dict)

    def at(self, layer: int) -> PagedBatch:
        """As it is told where ``layer`` lies."""
        return self.elsewhere.get(self.cache.layer_devices[layer], self) if self.elsewhere else self


def register(*, compiled: bool = False) -> None:
    """Make ``attn_implementation="qqvl_paged"`` known; harmless when it already is.

    ``compiled`` layers leave it as it is: it reads and writes the cache by numbers that change with every step.
    """
    AttentionInterface.register(NAME, torch.compiler.disable(paged_attention) if compiled else paged_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """Causality lives in ``AttentionMetadata``; a mask over the packed row would be N × N and wrong."""


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
    paged = paged.at(layer)
    paged.cache.write(layer, paged.new_slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
    return paged.rows.attend(query, key, value, paged.cache, layer, scaling).unsqueeze(0), None
