"""Attention by SDPA over blocks that are copied beside each other, which runs on every device.

Query heads that share a key head are taken as rows of one query: SDPA's own grouping falls to a slow path on CPUs.
Blocks that follow one another in the cache are read where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from qqvl_server.engine.cache.device import send
from qqvl_server.engine.cache.kv_cache import Held, KVCache
from qqvl_server.engine.steps.batch import ScheduledChunk


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """Rows ``row`` to ``row + count`` are one new token each of requests of about one length.

    ``held`` is what each has in the cache, the longest ``longest`` tokens; ``mask`` (count, 1, 1, longest) is -inf
    where no token is, None when all are equally long.
    """

    row: int
    count: int
    held: Held
    longest: int
    mask: torch.Tensor | None

    def attend(self, grouped: torch.Tensor, cache: KVCache, layer: int, scaling: float) -> torch.Tensor:
        """Args:
        grouped: (kv_heads, group, N, head_dim), the queries of all packed rows → (count, heads, head_dim).
        """
        keys, values = (t.transpose(1, 2) for t in cache.read(layer, self.held, self.longest))
        query = grouped[:, :, self.row : self.row + self.count].permute(2, 0, 1, 3)
        return scaled_dot_product_attention(query, keys, values, attn_mask=self.mask, scale=scaling).flatten(1, 2)


@dataclass(frozen=True, slots=True)
class PrefillSpan:
    """Rows ``row`` to ``row + count`` of the packed batch are positions ``start`` to ``start + count`` of one request.

    ``held`` is all it has in the cache; ``mask`` (count, start + count) is -inf where a row must not look, None when
    nothing stands before the first row.
    """

    row: int
    start: int
    count: int
    held: Held
    mask: torch.Tensor | None

    def attend(
        self, grouped: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cache: KVCache, layer: int, scaling: float
    ) -> torch.Tensor:
        """Args:
        grouped: (kv_heads, group, N, head_dim), the queries of all packed rows → (count, heads, head_dim).
        key: (1, kv_heads, N, head_dim), the new keys, like ``value``.
        """
        rows = slice(self.row, self.row + self.count)
        query = grouped[:, :, rows]
        if self.mask is None:
            # Nothing before it: its own keys are at hand, no need to read them back.
            keys, values = key[0, :, rows], value[0, :, rows]
        else:
            keys, values = (t[0].transpose(0, 1) for t in cache.read(layer, self.held, self.start + self.count))
        keys, values = (t.unsqueeze(1).expand(-1, query.shape[1], -1, -1) for t in (keys, values))
        attended = scaled_dot_product_attention(
            query, keys, values, attn_mask=self.mask, is_causal=self.mask is None, scale=scaling
        )
        return attended.flatten(0, 1).transpose(0, 1)


@dataclass(frozen=True, slots=True)
class Gathered:
    """All rows of a packed step, in order."""

    decodes: Sequence[DecodeRows]
    prefills: Sequence[PrefillSpan]

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cache: KVCache, layer: int, scaling: float
    ) -> torch.Tensor:
        """As ``paged_attention.AttentionMetadata`` says."""
        _, heads, count, width = query.shape
        kv_heads = key.shape[1]
        grouped = query.reshape(kv_heads, heads // kv_heads, count, width)
        parts = [rows.attend(grouped, cache, layer, scaling) for rows in self.decodes]
        parts += [span.attend(grouped, key, value, cache, layer, scaling) for span in self.prefills]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def lay_out(chunks: Sequence[ScheduledChunk], cache: KVCache, device: torch.device | None = None) -> Gathered:
    """``chunks`` in the order of their packed rows: those of one token first, the longest before the shorter.

    For the layers on ``device``: the cache's first, if none is given.
    """
    device = cache.device if device is None else device
    singles = [chunk for chunk in chunks if chunk.count == 1]
    prefills, row = [], len(singles)
    for chunk in chunks[row:]:
        mask = _causal(chunk.start, chunk.count, cache.dtype, device) if chunk.start else None
        held = cache.held([chunk.request.blocks], chunk.end, device)
        prefills.append(PrefillSpan(row, chunk.start, chunk.count, held, mask))
        row += chunk.count
    return Gathered(_decodes(singles, cache, device), prefills)


def _decodes(chunks: Sequence[ScheduledChunk], cache: KVCache, device: torch.device) -> list[DecodeRows]:
    """Cut ``chunks``, longest first, so that padding never more than doubles what is read."""
    cuts = [0]
    for n, chunk in enumerate(chunks):
        if chunk.end * 2 < chunks[cuts[-1]].end:
            cuts.append(n)
    return [
        _decode_rows(start, chunks[start:end], cache, device)
        for start, end in zip(cuts, [*cuts[1:], len(chunks)], strict=True)
        if start < end
    ]


def _decode_rows(row: int, chunks: Sequence[ScheduledChunk], cache: KVCache, device: torch.device) -> DecodeRows:
    longest = chunks[0].end
    held = cache.held([chunk.request.blocks for chunk in chunks], longest, device)
    mask = None
    if chunks[-1].end < longest:
        lengths = send([chunk.end for chunk in chunks], device)
        places = torch.arange(longest, device=device) >= lengths.unsqueeze(1)
        mask = _forbidding(places, cache.dtype)[:, None, None]
    return DecodeRows(row, len(chunks), held, longest, mask)


def _causal(start: int, count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(count, start + count): row i sees positions up to start + i."""
    every = torch.ones(count, start + count, dtype=torch.bool, device=device)
    return _forbidding(every.triu(start + 1), dtype)


def _forbidding(places: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """-inf at ``places``, in the queries' own type: SDPA turns a mask of truths into this in every layer anew."""
    return torch.zeros(places.shape, dtype=dtype, device=places.device).masked_fill_(places, -torch.inf)


def by_sdpa(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, start: int) -> torch.Tensor:
    """(N, heads, head_dim) in float32: what rows ``start`` and following of one request see of its blocks."""
    count = query.shape[0]
    seen = [t.flatten(0, 1)[: start + count].transpose(0, 1).float() for t in (keys, values)]
    mask = torch.ones(count, start + count, dtype=torch.bool, device=query.device).tril(start)
    found = scaled_dot_product_attention(
        query.transpose(0, 1).float().unsqueeze(0), seen[0].unsqueeze(0), seen[1].unsqueeze(0), mask, enable_gqa=True
    )
    return found[0].transpose(0, 1)
