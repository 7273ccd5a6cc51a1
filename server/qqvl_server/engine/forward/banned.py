"""Banned texts are kept from being drawn, on the device: the host need not know a token before the next is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from qqvl_server.engine.cache.device import send
from qqvl_server.engine.steps.banned import MOST_AUTOMATA, Automaton, BannedTexts
from qqvl_server.engine.steps.request import PENDING, Request

# So many lists are kept on the device: a list that changes is used up to the end by the replies that began with it.
_TABLES: Final = 2


class _Table:
    """One automaton on the device. Lists of banned tokens are filled up with -1."""

    def __init__(self, automaton: Automaton, device: torch.device) -> None:
        pairs = sorted(automaton.goes_on.items())
        self.after = send(automaton.after, device, torch.long)
        self.keys = send([key for key, _ in pairs] or [-1], device, torch.long)
        self.states = send([state for _, state in pairs] or [0], device, torch.long)
        widest = max(map(len, automaton.banned), default=0)
        lists = [[*tokens, *[-1] * (widest - len(tokens))] for tokens in automaton.banned]
        self.banned = send(lists, device, torch.long)

    def next(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Where each of ``tokens`` (N,) leads from its state (N,)."""
        inside = tokens.clamp(max=len(self.after) - 1)
        keys = states * len(self.after) + inside
        places = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        led = torch.where(self.keys[places] == keys, self.states[places], self.after[inside])
        return torch.where(tokens < len(self.after), led, 0)


class _Tables:
    def __init__(self, texts: BannedTexts, device: torch.device) -> None:
        self.texts = texts
        self.never = send(texts.never, device, torch.long)
        self.automata = [_Table(automaton, device) for automaton in texts.automata]


@dataclass(frozen=True, slots=True)
class _Kept:
    """``row`` is that of the state behind ``made`` tokens of a request's reply."""

    request: Request
    made: int
    row: int


class BannedWords:
    """States of the requests that were drawn for last, a row each; those of others are found anew."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tables: list[_Tables] = []
        self._kept: dict[int, _Kept] = {}
        self._states = torch.zeros(0, MOST_AUTOMATA, dtype=torch.long, device=device)

    def ban(self, scores: torch.Tensor, rows: Sequence[int], requests: Sequence[Request]) -> None:
        """Change ``scores`` (N, vocabulary) in place where a token would complete a banned text: in ``rows``, those of
        ``requests``."""
        states = self._states_of(requests)
        never = scores.new_full((), -torch.inf)
        for tables, places in self._together(requests):
            at = self._index([rows[place] for place in places]).unsqueeze(1)
            scores.index_put_((at, tables.never), never)
            mine = states if len(places) == len(requests) else states[self._index(places)]
            for number, table in enumerate(tables.automata):
                tokens = table.banned[mine[:, number]]
                # Nothing is added to the first token for the places that are only filled up.
                taken = torch.where(tokens < 0, torch.zeros_like(never), never)
                scores.index_put_((at, tokens.clamp(min=0)), taken, accumulate=True)

    def add(self, requests: Sequence[Request], tokens: torch.Tensor) -> None:
        """``tokens`` (requests,) were drawn, for requests that were just looked at."""
        states = self._states.clone()
        for tables, places in self._together(requests):
            at = self._index(places)
            for number, table in enumerate(tables.automata):
                states[at, number] = table.next(self._states[at, number], tokens[at])
        self._states = states
        self._kept = {id(r): _Kept(r, r.made + 1, row) for row, r in enumerate(requests)}

    def _states_of(self, requests: Sequence[Request]) -> torch.Tensor:
        rows: list[int] = []
        fresh: list[list[int]] = []
        for request in requests:
            kept = self._kept.get(id(request))
            if kept is not None and kept.request is request and kept.made == request.made:
                rows.append(kept.row)
                continue
            # New, or put back and run again: from the host's own list.
            rows.append(len(self._states) + len(fresh))
            said = [token for token in request.output if token != PENDING]
            texts = request.sampling.banned
            found = [automaton.follow(automaton.start, said) for automaton in texts.automata] if texts else []
            fresh.append([*found, *[0] * (MOST_AUTOMATA - len(found))])
        known = torch.cat([self._states, send(fresh, self._device, torch.long)]) if fresh else self._states
        self._states = known[self._index(rows)]
        self._kept = {}
        return self._states

    def _together(self, requests: Sequence[Request]) -> list[tuple[_Tables, list[int]]]:
        """Places of the requests that ban the same texts."""
        places: dict[int, list[int]] = {}
        texts: dict[int, BannedTexts] = {}
        for place, request in enumerate(requests):
            banned = request.sampling.banned
            if banned is not None:
                places.setdefault(id(banned), []).append(place)
                texts[id(banned)] = banned
        return [(self._table(texts[key]), places[key]) for key in places]

    def _table(self, texts: BannedTexts) -> _Tables:
        known = next((tables for tables in self._tables if tables.texts is texts), None)
        if known is None:
            known = _Tables(texts, self._device)
            self._tables = [known, *self._tables[: _TABLES - 1]]
        return known

    def _index(self, numbers: Sequence[int]) -> torch.Tensor:
        return send(numbers, self._device, torch.long)
