"""Logits become tokens, on their own device, for a whole batch at once.

The order is: grammar, penalties (CTRL's repetition, then OpenAI's frequency and presence), bias, least length, banned
texts; then ``drawing.py``'s. What nobody in the batch asked for is skipped.
Log-probabilities are those of the model itself: natural, before temperature, penalties and all the rest.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final

import torch

from qqvl_server.engine.cache.device import OnDevice, moved, send, watched
from qqvl_server.engine.forward.banned import BannedWords
from qqvl_server.engine.forward.counts import TokenCounts
from qqvl_server.engine.forward.drawing import Drawn, draw
from qqvl_server.engine.steps.batch import Chosen, NoNumbers, Sampled
from qqvl_server.engine.steps.request import Request
from qqvl_server.errors import GenerationFailed, QqvlError
from qqvl_server.observe.logs import logger

# Rows of logits turned to float32 at once when scoring; a real vocabulary makes each 600 kB.
_SCORED_AT_ONCE: Final = 64
_GRAMMAR_FAILED: Final = "按约定格式生成失败了，请检查格式定义后重试"


class Sampler:
    """``never`` are ids no reply may hold: a picture's place-holders, which only a prompt's pictures may fill."""

    def __init__(self, device: torch.device | str, never: Sequence[int] = ()) -> None:
        self._device = torch.device(device)
        self._never = torch.tensor(list(never), dtype=torch.long, device=self._device)
        self._counts = TokenCounts(self._device)
        self._banned = BannedWords(self._device)

    @watched()
    @torch.inference_mode()
    def score(self, logits: torch.Tensor, rows: Sequence[int], targets: Sequence[int]) -> list[float]:
        """Natural log-probability of each target in its row of ``logits`` (N, vocabulary)."""
        found: list[float] = []
        for start in range(0, len(rows), _SCORED_AT_ONCE):
            picked = self._index(rows[start : start + _SCORED_AT_ONCE])
            wanted = self._index(targets[start : start + _SCORED_AT_ONCE]).unsqueeze(1)
            found += logits[picked].float().log_softmax(-1).gather(1, wanted).squeeze(1).tolist()
        return found

    @watched()
    @torch.inference_mode()
    def sample(self, logits: torch.Tensor, rows: Sequence[int], requests: Sequence[Request]) -> Sampled:
        """One token for each request.

        Args:
            logits: (N, vocabulary), changed in place; ``rows`` says where the last position of each request is.
        """
        raw = scores = self._picked(logits, rows)
        if any(request.sampling.logprobs is not None for request in requests):
            scores = scores.clone()
        failed: dict[int, QqvlError] = {}
        tokens, best = self._chosen(scores, requests, failed)
        chosen = self._with_logprobs(raw, tokens, requests)
        finite = [math.isfinite(score) for score in best.tolist()]
        return [
            failed.get(n) or (_accepted(requests[n], one) if finite[n] else NoNumbers()) for n, one in enumerate(chosen)
        ]

    @watched()
    @torch.inference_mode()
    def draw(self, logits: torch.Tensor, rows: Sequence[int], requests: Sequence[Request]) -> OnDevice:
        """As ``sample``, for requests of which none needs the host: it does not wait for the device."""
        return OnDevice(*self._chosen(self._picked(logits, rows), requests, {}))

    def _picked(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        return logits if list(rows) == list(range(len(logits))) else logits[self._index(rows)]

    def _chosen(self, scores: torch.Tensor, requests: Sequence[Request], failed: dict[int, QqvlError]) -> Drawn:
        """``scores`` is changed in place, ``failed`` gets those whose grammar broke.

        A row with a NaN or an infinity in it has that for its best score.
        """
        # Assigning to scores[:, never] would bring the number from the host, which waits for all that runs.
        scores.index_fill_(1, self._never, -torch.inf)
        if any(_wishes(request) for request in requests):
            scores = self._shaped(scores, requests, failed)
        banning = [n for n, request in enumerate(requests) if request.sampling.banned is not None]
        if banning:
            self._banned.ban(scores, banning, [requests[n] for n in banning])
        drawn = draw(scores, requests)
        counted = [n for n, request in enumerate(requests) if request.sampling.penalises]
        if counted:
            tokens = drawn.tokens if len(counted) == len(requests) else drawn.tokens[self._index(counted)]
            self._counts.add([requests[n] for n in counted], tokens)
        if banning:
            tokens = drawn.tokens if len(banning) == len(requests) else drawn.tokens[self._index(banning)]
            self._banned.add([requests[n] for n in banning], tokens)
        return drawn

    def _index(self, numbers: Sequence[int]) -> torch.Tensor:
        return send(numbers, self._device, torch.long)

    def _column(self, values: Sequence[float]) -> torch.Tensor:
        return send(values, self._device, torch.float32).unsqueeze(1)

    def _shaped(self, scores: torch.Tensor, requests: Sequence[Request], failed: dict[int, QqvlError]) -> torch.Tensor:
        scores, masked = self._masked(scores, requests, failed)
        if not any(_shapes(request) for request in requests):
            # Masks alone, most of them silent: tools that nobody has begun to call.
            return scores
        scores = self._penalised(scores.float(), requests)
        places, biases = [], []
        for n, request in enumerate(requests):
            wanted = request.sampling
            places += [(n, token) for token, _ in wanted.logit_bias]
            biases += [bias for _, bias in wanted.logit_bias]
            # A grammar that must end here ends here, however short.
            if request.made < wanted.min_new_tokens and n not in masked:
                stops = sorted(wanted.end_token_ids | wanted.stop_token_ids)
                places += [(n, token) for token in stops]
                biases += [-torch.inf] * len(stops)
        if places:
            at = self._index([n for n, _ in places]), self._index([token for _, token in places])
            scores = scores.index_put(at, self._column(biases).squeeze(1), accumulate=True)
        return scores

    def _masked(
        self, scores: torch.Tensor, requests: Sequence[Request], failed: dict[int, QqvlError]
    ) -> tuple[torch.Tensor, Collection[int]]:
        """The scores, and which of their rows a grammar holds."""
        rows: list[int] = []
        words: list[torch.Tensor] = []
        for n, request in enumerate(requests):
            if request.mask is None:
                continue
            try:
                allowed_words = request.mask.allowed()
                if allowed_words is None:
                    continue
                row = torch.asarray(allowed_words, dtype=torch.int32)
                if not row.any():
                    raise ValueError("nothing may come next")
            except Exception as error:
                # The edge of a grammar library: whatever it raises fails one request.
                failed[n] = _grammar_failed(error)
                continue
            rows.append(n)
            words.append(row)
        if not rows:
            return scores, failed
        packed = moved(torch.nn.utils.rnn.pad_sequence(words, batch_first=True), self._device)
        bits = (packed.unsqueeze(-1) >> torch.arange(32, device=self._device, dtype=torch.int32)) & 1
        allowed = bits.flatten(1).bool()[:, : scores.shape[1]]
        # Ids above the grammar's vocabulary are padding of the model's.
        allowed = torch.nn.functional.pad(allowed, (0, scores.shape[1] - allowed.shape[1]))
        at = self._index(rows)
        return scores.index_copy(0, at, scores[at].masked_fill(~allowed, -torch.inf)), {*rows, *failed}

    def _penalised(self, scores: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
        """CTRL (Keskar 2019) divides the score of a token seen in prompt or reply, below zero multiplies it;
        OpenAI's formula takes ``frequency · count + presence`` from tokens the reply holds already."""
        rows = [n for n, request in enumerate(requests) if request.sampling.penalises]
        if not rows:
            return scores
        wanted = [requests[n].sampling for n in rows]
        at = None if len(rows) == len(requests) else self._index(rows)
        picked = scores if at is None else scores[at]
        in_reply, in_prompt = self._counts.of([requests[n] for n in rows], scores.shape[1])
        numbers = [(w.repetition_penalty, w.frequency_penalty, w.presence_penalty) for w in wanted]
        asked = [any(w != none for w in by) for by, none in zip(zip(*numbers, strict=True), (1, 0, 0), strict=True)]
        repetition, frequency, presence = send(numbers, self._device, torch.float32).T.unsqueeze(-1)
        if asked[0]:
            factor = torch.where(in_prompt | (in_reply > 0), repetition, 1.0)
            picked = torch.where(picked > 0, picked / factor, picked * factor)
        if asked[1]:
            picked = picked - frequency * in_reply
        if asked[2]:
            picked = picked - presence * (in_reply > 0)
        return picked if at is None else scores.index_copy(0, at, picked)

    def _with_logprobs(self, raw: torch.Tensor, tokens: torch.Tensor, requests: Sequence[Request]) -> list[Chosen]:
        ids: list[int] = tokens.tolist()
        chosen = [Chosen(token) for token in ids]
        asked = [(n, r.sampling.logprobs) for n, r in enumerate(requests) if r.sampling.logprobs is not None]
        if not asked:
            return chosen
        at = self._index([n for n, _ in asked])
        logprobs = raw[at].float().log_softmax(-1)
        own = logprobs.gather(1, tokens[at].unsqueeze(1)).squeeze(1).tolist()
        values, likely = (t.tolist() for t in logprobs.topk(max(count for _, count in asked)))
        for (n, count), logprob, top, tops in zip(asked, own, likely, values, strict=True):
            pairs = tuple(zip(top[:count], tops[:count], strict=True))
            chosen[n] = Chosen(ids[n], logprob, pairs)
        return chosen


def _wishes(request: Request) -> bool:
    return request.mask is not None or _shapes(request)


def _shapes(request: Request) -> bool:
    wanted = request.sampling
    return bool(wanted.logit_bias) or request.made < wanted.min_new_tokens or wanted.penalises


def _accepted(request: Request, chosen: Chosen) -> Chosen | QqvlError:
    if request.mask is not None:
        try:
            request.mask.accept(chosen.token)
        except Exception as error:
            # The edge of a grammar library, as above: the others in the batch keep their tokens.
            return _grammar_failed(error)
    return chosen


def _grammar_failed(error: Exception) -> QqvlError:
    if isinstance(error, QqvlError):
        return error
    logger().warning("约束解码失败", kind=type(error).__name__, exc_info=error)
    return GenerationFailed(_GRAMMAR_FAILED)
