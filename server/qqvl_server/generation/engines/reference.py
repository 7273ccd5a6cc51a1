"""One plain ``model.generate`` at a time: slow, simple, and the oracle for every faster engine.

Knows the model and token ids; no text, no chats, no event loop.
"""

from __future__ import annotations

import copy
import gc
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from qqvl_server.engine.steps.request import TokenMask
from qqvl_server.errors import EngineDead, GenerationFailed, InvalidRequest
from qqvl_server.generation.port import FinishReason, Sampling
from qqvl_server.generation.prompts.preprocess import Prompt
from qqvl_server.generation.replies.channel import End, LikelyToken
from qqvl_server.weights.load import LoadedModel


class _Tokens(BaseStreamer):
    """Hands on each new id; ``generate`` sends the prompt itself first."""

    def __init__(self, on_token: Callable[[int], None]) -> None:
        self._on_token = on_token
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen:
            for token in value.flatten().tolist():
                self._on_token(int(token))
        self._prompt_seen = True

    def end(self) -> None:
        pass


class _Asked(StoppingCriteria):
    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._stop(), device=input_ids.device, dtype=torch.bool)


class _Wishes(LogitsProcessor):
    """What one request (batch 1) wants of its next token: penalties, biases, an end not too soon, a grammar.

    Remembers the model's own logits. ``prompt_tokens`` is where the reply begins; presence and frequency count the
    reply's tokens only.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt_tokens: int,
        ends: frozenset[int],
        repetition_penalty: float,
        mask: TokenMask | None,
    ) -> None:
        self._sampling = sampling
        self._prompt_tokens = prompt_tokens
        self._ends = sorted(ends)
        self._repetition = RepetitionPenaltyLogitsProcessor(repetition_penalty)
        self._mask = mask
        self._accepted = 0
        self._automata = sampling.banned.automata if sampling.banned is not None else ()
        self._states = [automaton.start for automaton in self._automata]
        self._followed = 0
        self._own = torch.empty(0)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``input_ids`` (1, N) so far, ``scores`` (1, V) of what comes next."""
        if self._sampling.logprobs is not None:
            self._own = torch.log_softmax(scores[0].float(), dim=-1)
        reply = input_ids[0, self._prompt_tokens :]
        scores = self._repetition(input_ids, scores)
        counts = torch.bincount(reply, minlength=scores.shape[1])
        scores = scores - self._sampling.frequency_penalty * counts - self._sampling.presence_penalty * (counts > 0)
        for token, bias in self._sampling.logit_bias:
            scores[0, token] += bias
        scores[0, self._banned(reply)] = -torch.inf
        words = self._allowed(reply)
        if words is not None:
            return scores.masked_fill(~_bits(words, scores.shape[1]).to(scores.device), -torch.inf)
        # A grammar that must end here ends here, however short.
        if len(reply) < self._sampling.min_new_tokens:
            scores[0, self._ends] = -torch.inf
        return scores

    def _allowed(self, reply: torch.Tensor) -> Sequence[int] | None:
        if self._mask is None:
            return None
        for token in reply[self._accepted :].tolist():
            self._mask.accept(token)
        self._accepted = len(reply)
        return self._mask.allowed()

    def _banned(self, reply: torch.Tensor) -> list[int]:
        if self._sampling.banned is None:
            return []
        said = reply[self._followed :].tolist()
        self._followed = len(reply)
        self._states = [a.follow(state, said) for a, state in zip(self._automata, self._states, strict=True)]
        last = (a.banned[state] for a, state in zip(self._automata, self._states, strict=True))
        return [*self._sampling.banned.never, *chain.from_iterable(last)]

    def likely(self, token: int, count: int) -> LikelyToken:
        """The token chosen last, with the ``count`` likeliest at its place."""
        best = torch.topk(self._own, min(count, len(self._own)))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return LikelyToken(token, float(self._own[token]), top)


class ReferenceEngine:
    def __init__(self, loaded: LoadedModel) -> None:
        self._model: Any = loaded.model
        self._ends = loaded.end_tokens
        self._vocabulary = loaded.vocabulary

    def run(
        self,
        prompt: Prompt,
        sampling: Sampling,
        on_token: Callable[[int | LikelyToken], None],
        stop: Callable[[], bool],
        mask: TokenMask | None = None,
    ) -> End:
        """Blocking. Calls ``on_token`` for each token but the end; returns early once ``stop()`` is true.

        Raises:
            InvalidRequest: a token id that the model does not know.
            GenerationFailed: this call failed, the next one may succeed.
            EngineDead: the device is lost; nothing will succeed in this process.
        """
        self._check(prompt.inputs["input_ids"].flatten().tolist())
        self._check([token for token, _ in sampling.logit_bias])
        config = self._config(sampling)
        ends = (frozenset() if sampling.ignore_eos else self._ends) | frozenset(sampling.stop_token_ids)
        # None would bring back the model's own ends; no token has the number of all of them.
        config.eos_token_id = sorted(ends) or [self._vocabulary]
        wishes = _Wishes(sampling, prompt.tokens, ends, _repetition_penalty(sampling, self._model), mask)
        last: list[int] = []

        def take(token: int) -> None:
            last[:] = [token]
            if token not in ends:
                on_token(token if sampling.logprobs is None else wishes.likely(token, sampling.logprobs))

        with self._guarded(), _seeded(sampling.seed, self._model.device):
            self._model.generate(
                **prompt.inputs.to(self._model.device, dtype=self._model.dtype),
                generation_config=config,
                streamer=_Tokens(take),
                logits_processor=LogitsProcessorList([wishes]),
                stopping_criteria=StoppingCriteriaList([_Asked(stop)]),
            )
        if not last or last[0] not in ends:
            return End(FinishReason.LENGTH)
        own = last[0] in self._ends and not sampling.ignore_eos
        return End(FinishReason.STOP, stop_token=None if own else last[0])

    def score(self, prompt: Prompt, candidates: Sequence[Sequence[int]]) -> tuple[float, ...]:
        """One plain forward per candidate. Raises as ``run``."""
        for ids in (prompt.inputs["input_ids"].flatten().tolist(), *candidates):
            self._check(ids)
        with self._guarded():
            return tuple(self._score(prompt, candidate) for candidate in candidates)

    def _check(self, ids: Sequence[int]) -> None:
        """The tokenizer may have more tokens than the model."""
        if max(ids, default=0) >= self._vocabulary:
            raise InvalidRequest(f"token 编号要在 0 到 {self._vocabulary - 1} 之间")

    def _score(self, prompt: Prompt, candidate: Sequence[int]) -> float:
        inputs = dict(prompt.inputs.to(self._model.device, dtype=self._model.dtype))
        tail = torch.tensor([candidate], device=self._model.device)
        text = torch.zeros_like(tail)
        fill = {"input_ids": tail, "attention_mask": text + 1, "mm_token_type_ids": text, "token_type_ids": text}
        for name, value in fill.items():
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], value.to(inputs[name].dtype)], dim=1)
        if "logits_to_keep" in inspect.signature(self._model.forward).parameters:
            # A long prompt's logits over the whole vocabulary would be gigabytes.
            inputs["logits_to_keep"] = len(candidate) + 1
        logits = self._model(**inputs, use_cache=False).logits[0, -len(candidate) - 1 : -1]
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        return float(logprobs.gather(1, tail[0].unsqueeze(1)).sum())

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        out_of_memory = False
        try:
            with torch.inference_mode():
                yield
        except torch.OutOfMemoryError:
            out_of_memory = True
        except torch.AcceleratorError as error:
            raise EngineDead("显卡出错，模型已不能工作，服务将退出以便重启") from error
        if out_of_memory:
            # Outside the except block: its traceback would keep every tensor of the failed step alive.
            gc.collect()
            torch.cuda.empty_cache()
            raise GenerationFailed("显存不够，这条消息没能回答；可以调小 --context-tokens 或 --max-image-tokens")

    def _config(self, sampling: Sampling) -> GenerationConfig:
        config = copy.deepcopy(self._model.generation_config)
        config.max_new_tokens, config.max_length = sampling.max_new_tokens, None
        if config.pad_token_id is None:
            config.pad_token_id = next(iter(self._ends))
        # ``_Wishes`` does these, after it has seen the model's own logits.
        config.repetition_penalty, config.min_new_tokens, config.min_length = 1.0, None, None
        for name in ("top_p", "top_k", "min_p"):
            value = getattr(sampling, name)
            if value is not None:
                setattr(config, name, value)
        if sampling.temperature is not None:
            config.do_sample = sampling.temperature > 0
            config.temperature = sampling.temperature
        if not config.do_sample:
            # Greedy search warns about every sampling knob that is still set.
            config.temperature = config.top_p = config.top_k = config.min_p = None
        config.validate(strict=False)
        return config


def _repetition_penalty(sampling: Sampling, model: Any) -> float:
    own = sampling.repetition_penalty
    return float(own if own is not None else model.generation_config.repetition_penalty or 1.0)


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draws from the seed alone: one request runs at a time, and the process's own randomness comes back after."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**63)
        yield


def _bits(words: Sequence[int], size: int) -> torch.Tensor:
    """(1, size) of bool; what the words do not reach is forbidden."""
    bits = np.unpackbits(np.asarray(words, dtype=np.int32).view(np.uint8), bitorder="little")[:size]
    allowed = np.zeros(size, dtype=bool)
    allowed[: len(bits)] = bits
    return torch.from_numpy(allowed).unsqueeze(0)
