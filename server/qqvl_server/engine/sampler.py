"""Logits become tokens, on their own device, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qqvl_server.engine.request import Request


class Sampler:
    """One generator per seeded request, so that a seed gives the same answer whatever else is in the batch."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = device
        self._generators: dict[str, torch.Generator] = {}

    def forget(self, request: Request) -> None:
        self._generators.pop(request.id, None)

    def sample(self, logits: torch.Tensor, requests: Sequence[Request]) -> list[int]:
        """Args:
        logits: (B, vocabulary), the last position of each request.
        """
        logits = logits.float()
        logits = self._penalised(logits, requests)
        drawing = [n for n, request in enumerate(requests) if request.sampling.temperature > 0]
        tokens = logits.argmax(-1)
        if drawing:
            rows = torch.tensor(drawing, device=logits.device)
            tokens[rows] = self._draw(logits[rows], [requests[n] for n in drawing])
        chosen: list[int] = tokens.tolist()
        return chosen

    def _penalised(self, logits: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
        """Repetition penalty of CTRL (Keskar 2019): a seen token's score is divided, below zero multiplied."""
        for row, request in enumerate(requests):
            penalty = request.sampling.repetition_penalty
            if penalty != 1.0:
                seen = torch.tensor(sorted(set(request.tokens)), device=logits.device)
                scores = logits[row, seen]
                logits[row, seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
        return logits

    def _draw(self, logits: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
        """Temperature, then top-k, top-p and min-p over one sort, in the order Transformers' warpers apply them."""
        wanted = [request.sampling for request in requests]
        device = logits.device
        temperature = torch.tensor([w.temperature for w in wanted], device=device).unsqueeze(1)
        scores, order = (logits / temperature).sort(-1, descending=True)
        vocabulary = scores.shape[-1]
        top_k = torch.tensor([w.top_k or vocabulary for w in wanted], device=device).unsqueeze(1)
        scores = scores.masked_fill(torch.arange(vocabulary, device=device) >= top_k, -torch.inf)
        probabilities = scores.softmax(-1)
        top_p = torch.tensor([w.top_p for w in wanted], device=device).unsqueeze(1)
        beyond = probabilities.cumsum(-1) - probabilities >= top_p
        min_p = torch.tensor([w.min_p for w in wanted], device=device).unsqueeze(1)
        beyond |= probabilities < probabilities[:, :1] * min_p
        beyond[:, 0] = False
        probabilities = probabilities.masked_fill(beyond, 0)
        # Exponential race: the largest p/e is drawn with probability p, without a host sync per row.
        noise = torch.stack([self._noise(request, vocabulary) for request in requests]).to(device)
        picked = (probabilities / noise).argmax(-1, keepdim=True)
        return order.gather(-1, picked).squeeze(-1)

    def _noise(self, request: Request, vocabulary: int) -> torch.Tensor:
        generator = self._generators.get(request.id)
        if generator is None:
            generator = torch.Generator(device=self._device)
            if request.sampling.seed is None:
                generator.seed()
            else:
                generator.manual_seed(request.sampling.seed)
            self._generators[request.id] = generator
        noise = torch.empty(vocabulary, device=self._device)
        return noise.exponential_(generator=generator).clamp_min_(torch.finfo(torch.float32).tiny)
