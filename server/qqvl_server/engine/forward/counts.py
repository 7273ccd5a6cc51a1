"""How often each token stands in a reply, and whether in its prompt: kept on the device, for penalties.

Counting anew would bring every reply and prompt there in each step, and the host would have to know every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from qqvl_server.engine.cache.device import send
from qqvl_server.engine.steps.request import PENDING, Request


@dataclass(slots=True)
class _Counted:
    """``made`` tokens of the request's reply are counted in its row."""

    request: Request
    made: int


class TokenCounts:
    """One row per request that asked for it last; a row goes to another once its request is not in the batch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._rows: list[_Counted | None] = []
        self._replies = torch.empty(0, 0, dtype=torch.int32, device=device)
        self._prompts = torch.empty(0, 0, dtype=torch.bool, device=device)

    def of(self, requests: Sequence[Request], vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Counts in the replies so far (requests, vocabulary), and whether a token stands in the prompt, likewise."""
        if len(self._rows) < len(requests) or self._replies.shape[1] != vocabulary:
            self._grow(len(requests), vocabulary)
        rows = self._assign(requests)
        at = send(rows, self._device, torch.long)
        return self._replies[at], self._prompts[at]

    def add(self, requests: Sequence[Request], tokens: torch.Tensor) -> None:
        """``tokens`` (requests,) were chosen next, for requests that were just looked up."""
        places = {id(kept.request): n for n, kept in enumerate(self._rows) if kept is not None}
        rows = [places[id(request)] for request in requests]
        for row in rows:
            kept = self._rows[row]
            assert kept is not None
            kept.made += 1
        width = self._replies.shape[1]
        at = send([row * width for row in rows], self._device, torch.long) + tokens
        self._replies.view(-1).index_add_(0, at, torch.ones_like(at, dtype=torch.int32))

    def _grow(self, count: int, vocabulary: int) -> None:
        """Everything is counted anew; nothing of what is may be known to the device alone."""
        count = max(count, 2 * len(self._rows))
        replies = torch.zeros(count, vocabulary, dtype=torch.int32, device=self._device)
        prompts = torch.zeros(count, vocabulary, dtype=torch.bool, device=self._device)
        if self._replies.shape[1] == vocabulary:
            replies[: len(self._rows)] = self._replies
            prompts[: len(self._rows)] = self._prompts
        else:
            self._rows = []
        self._rows += [None] * (count - len(self._rows))
        self._replies, self._prompts = replies, prompts

    def _assign(self, requests: Sequence[Request]) -> list[int]:
        wanted = {id(request) for request in requests}
        held = {id(kept.request): n for n, kept in enumerate(self._rows) if kept is not None}
        free = [n for n, kept in enumerate(self._rows) if kept is None or id(kept.request) not in wanted]
        rows, fresh = [], []
        for request in requests:
            row = held.get(id(request))
            if row is None:
                row = free.pop()
            kept = self._rows[row]
            if kept is None or kept.request is not request or kept.made != request.made:
                self._rows[row] = _Counted(request, request.made)
                fresh.append(row)
            rows.append(row)
        if fresh:
            self._count(fresh)
        return rows

    def _count(self, rows: Sequence[int]) -> None:
        """Put back, run again or new: from the host's own lists."""
        width, replies, prompts = self._replies.shape[1], [], []
        for row in rows:
            kept = self._rows[row]
            assert kept is not None
            replies += [row * width + token for token in kept.request.output if token != PENDING]
            prompts += [row * width + token for token in {*kept.request.prompt}]
        at = send(rows, self._device, torch.long)
        self._replies.index_fill_(0, at, 0)
        self._prompts.index_fill_(0, at, False)
        said = send(replies, self._device, torch.long)
        self._replies.view(-1).index_add_(0, said, torch.ones_like(said, dtype=torch.int32))
        self._prompts.view(-1).index_fill_(0, send(prompts, self._device, torch.long), True)
