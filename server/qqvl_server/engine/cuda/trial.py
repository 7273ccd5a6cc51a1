"""Which attention kernel this machine has: one is trusted once it has given what SDPA gives.

It is tried with all that a step may ask of it: batches of decodes, small ones above all, for a card's processors are
then shared out differently; short and long requests; lengths told as a recorded step tells them; chunks of prompts.
Memory handed to it is full of NaN before, so that a row left unwritten shows. Where none is trusted, ``gathered.py``
copies the blocks together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from qqvl_server.engine.cache.gathered import by_sdpa
from qqvl_server.engine.cache.kv_cache import KVShape
from qqvl_server.engine.cuda.varlen import NamedKernel, VarlenKernel, VarlenMetadata, varlen_metadata

# (blocks, first row, rows) of each request.
Spans = Sequence[tuple[Sequence[int], int, int]]

# Above the largest difference that rounding to bf16 makes in a mean of a few normal numbers.
_TOLERANCE: Final = 0.05
_SMALL_BATCHES: Final = range(1, 9)
_SHORT: Final = 40
_LONG: Final = 4000
# Requests read the same blocks again and again: long ones must not take much memory.
_POOL: Final = 24


@dataclass(frozen=True, slots=True)
class Trusted:
    """``attend`` reads blocks of ``block_size``; ``refused`` says of each kernel that was tried before it why not."""

    name: str
    attend: VarlenKernel
    block_size: int
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Trial:
    """What kernels are tried with: batches of up to ``requests`` of up to ``context`` tokens."""

    device: torch.device
    dtype: torch.dtype
    shape: KVShape
    heads: int
    requests: int = 16
    context: int = 4096

    def find(self, kernels: Sequence[NamedKernel]) -> Trusted | Mapping[str, str]:
        """The first that is right, or why each is not."""
        refused: dict[str, str] = {}
        for kernel in kernels:
            for size in kernel.block_sizes:
                reason = self.refuses(kernel.attend, size)
                if reason is None:
                    return Trusted(kernel.name, kernel.attend, size, refused)
                refused[f"{kernel.name}, {size}"] = reason
        return refused

    def refuses(self, kernel: VarlenKernel, size: int) -> str | None:
        """Why ``kernel`` is not to be used with blocks of ``size``; None where it is right."""
        dice = torch.Generator(self.device).manual_seed(0)
        pool = (_POOL, size, self.shape.kv_heads, self.shape.head_dim)
        keys, values = (torch.randn(pool, device=self.device, generator=dice).to(self.dtype) for _ in range(2))
        for spans in self._batches(size):
            count = sum(rows for _, _, rows in spans)
            query = torch.randn(count, self.heads, self.shape.head_dim, device=self.device, generator=dice)
            query = query.to(self.dtype)
            expected = self._expected(query, keys, values, spans)
            told = varlen_metadata(spans, size, self.device)
            for rows in (told, replace(told, longest=max(self.context, told.longest))):
                reason = self._compare(kernel, query, keys, values, rows, expected)
                if reason is not None:
                    return reason
        return None

    def _batches(self, size: int) -> Iterator[Spans]:
        """A token after a prefix, a chunk after one and a fresh prompt together; then decodes alone, then chunks."""
        yield [([3, 1], size + 4, 1), ([4, 2], size - 2, 5), ([5], 0, 3)]
        longest = max(min(self.context, _LONG), _SHORT)
        for batch in sorted({*_SMALL_BATCHES, self.requests}):
            for length in (_SHORT, longest):
                # Of different lengths, so that no row's splits are another's.
                yield [(_blocks(n, length - n % 7, size), length - 1 - n % 7, 1) for n in range(batch)]
        yield [(_blocks(n, end, size), start, end - start) for n, (start, end) in enumerate([(0, 70), (130, 300)])]

    def _expected(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, spans: Spans) -> torch.Tensor:
        found, row = [], 0
        for blocks, start, count in spans:
            found.append(by_sdpa(query[row : row + count], keys[list(blocks)], values[list(blocks)], start))
            row += count
        return torch.cat(found)

    def _compare(
        self,
        kernel: VarlenKernel,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        rows: VarlenMetadata,
        expected: torch.Tensor,
    ) -> str | None:
        # Given back at once, it is what the allocator hands out next.
        torch.full_like(query, torch.nan)
        try:
            found = kernel(query, keys, values, rows, self.shape.head_dim**-0.5).float()
            worst = float((found - expected).abs().max())
        except Exception as error:
            # An edge: kernels and their wrappers raise anything for a device, type or block size they do not take.
            return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        # Not less either where it is no number.
        if not worst < _TOLERANCE:
            return f"{len(rows.lengths)} requests, {len(query)} rows: off by {worst:.2g}"
        return None


def _blocks(request: int, tokens: int, size: int) -> list[int]:
    return [(request * 5 + n * 7) % _POOL for n in range(-(-tokens // size))]
