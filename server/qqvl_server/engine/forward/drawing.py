"""One token a row out of its scores: temperature, then top-k, top-p and min-p as Transformers' warpers apply them.

Among the ``top_k`` best only, wherever so many are asked for: a vocabulary is thousands of times as long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch

from qqvl_server.engine.cache.device import send
from qqvl_server.engine.steps.request import Request, SamplingParams

# Below this, dividing by the temperature overflows and there is nothing left to draw.
COLDEST: Final = 1e-5
# The largest float32 below 1: a number drawn must not be rounded up to the whole.
_BELOW_ONE: Final = 1 - 2**-24
# Single precision adds up so many shares to well below the least that matters.
_FEW: Final = 1024


class Drawn(NamedTuple):
    """Tokens (rows,) and each row's best score before all else (rows,), NaN where it holds one."""

    tokens: torch.Tensor
    best: torch.Tensor


def draw(scores: torch.Tensor, requests: Sequence[Request]) -> Drawn:
    """One token for each row of ``scores`` (rows, vocabulary), greedy where its request is."""
    vocabulary = scores.shape[1]
    groups: dict[tuple[int, bool], list[int]] = {}
    for n, request in enumerate(requests):
        groups.setdefault(_way(request.sampling, vocabulary), []).append(n)
    if len(groups) == 1:
        (way,) = groups
        return _drawn(scores, way, requests)
    tokens = torch.empty(len(requests), dtype=torch.long, device=scores.device)
    best = torch.empty(len(requests), dtype=scores.dtype, device=scores.device)
    for way, rows in groups.items():
        at = send(rows, scores.device, torch.long)
        found = _drawn(scores[at], way, [requests[n] for n in rows])
        tokens.index_copy_(0, at, found.tokens)
        best.index_copy_(0, at, found.best)
    return Drawn(tokens, best)


def _way(wanted: SamplingParams, vocabulary: int) -> tuple[int, bool]:
    """Of how many best scores the token is one, 1 where it is the best; and whether they must be in order.

    A row's way hangs on its own request, never on who else is in the batch: a seed gives the same token.
    """
    if wanted.temperature < COLDEST:
        return 1, False
    if 0 < wanted.top_k < vocabulary:
        return wanted.top_k, True
    return vocabulary, wanted.top_p < 1 or wanted.min_p > 0


def _drawn(scores: torch.Tensor, way: tuple[int, bool], requests: Sequence[Request]) -> Drawn:
    among, ordered = way
    if among == 1:
        # Six times as fast as argmax in bf16 on a CPU.
        best, tokens = scores.max(-1)
        return Drawn(tokens, best)
    if not ordered:
        return Drawn(_picked(scores, requests, ordered), scores.max(-1).values)
    values, places = scores.topk(among) if among < scores.shape[1] else scores.sort(descending=True)
    picked = _picked(values, requests, ordered)
    return Drawn(places.gather(1, picked.unsqueeze(1)).squeeze(1), values[:, 0])


def _picked(scores: torch.Tensor, requests: Sequence[Request], ordered: bool) -> torch.Tensor:
    """(rows,): which column of ``scores``, the best first where ``ordered``, one number in [0, 1) per row picks."""
    wanted = [request.sampling for request in requests]
    numbers = [
        [w.temperature for w in wanted],
        [min(uniform(request), _BELOW_ONE) for request in requests],
        [w.top_p for w in wanted],
        [min(max(w.min_p, 0.0), 1.0) for w in wanted],
    ]
    temperature, number, top_p, min_p = send(numbers, scores.device, torch.float32).unsqueeze(-1)
    scaled = scores / temperature
    # Apple's GPUs have no double precision.
    exactly = scores.shape[1] > _FEW and scores.device.type != "mps"
    shares = scaled.softmax(-1, dtype=torch.double if exactly else None)
    upto = shares.cumsum(-1)
    if not ordered or all(w.top_p >= 1 and w.min_p <= 0 for w in wanted):
        picked = torch.searchsorted(upto, upto[:, -1:] * number, right=True)
        # A row of NaN has none.
        return picked.squeeze(1).clamp_(max=scores.shape[1] - 1)
    within = upto[:, :-1] < top_p
    if any(w.min_p > 0 for w in wanted):
        within &= shares[:, 1:] >= shares[:, :1] * min_p
    # The best is always kept. The first whose share begins above the number drawn; its own share is above zero.
    last = within.sum(-1, keepdim=True)
    picked = torch.searchsorted(upto, upto.gather(1, last) * number, right=True)
    return torch.minimum(picked, last).squeeze(1)


def uniform(request: Request) -> float:
    """In [0, 1), from the request's seed and the token's place alone.

    Nothing to keep between steps: the same whatever else runs, and after a preemption or a step that is run again.
    """
    digest = hashlib.blake2b(b"%d/%d" % (request.seed, request.made), digest_size=6).digest()
    return int.from_bytes(digest, "big") / (1 << 48)
