"""The paged engine behind the voice: rendered prompts become engine requests. Imports no torch itself."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from qqvl_server.engine.forward.vision import Patches
from qqvl_server.engine.steps.batch import Chosen
from qqvl_server.engine.steps.core import EngineCore
from qqvl_server.engine.steps.figures import CLASSES, StepFigures
from qqvl_server.engine.steps.jobs import Ended, Item, Job, Sink
from qqvl_server.engine.steps.meter import Meter
from qqvl_server.engine.steps.request import ImageSpan, Priority, Request, SamplingParams, TokenMask
from qqvl_server.engine.steps.worker import Worker
from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.engines.sinks import CandidateSink, EngineSink, IdleSink, ReplySink, Scoring
from qqvl_server.generation.port import GenerationRequest, Sampling
from qqvl_server.generation.prompts.pictures import digests
from qqvl_server.generation.prompts.preprocess import Prompt
from qqvl_server.generation.replies.channel import TokenChannel, scatter
from qqvl_server.observe.metrics import Metrics

# A chat's older idle prefill gives way to its newer one; so many chats may wait for theirs.
_MOST_IDLE: Final = 256
# A step takes seconds at most; a stuck one must not hold a stop for ever.
_LAST_STEP_S: Final = 5.0


class PagedEngine:
    """``config`` is the model's; ``defaults`` its generation_config, for what a request leaves open.

    An engine whose step takes longer than ``stall_s`` seconds counts as dead: no prefill does, but a lost device may.
    """

    def __init__(
        self, core: EngineCore, config: Any, defaults: Any, metrics: Metrics, *, max_waiting: int, stall_s: float
    ) -> None:
        self._stall_s = stall_s
        # The longest prompt and reply together that the cache can hold.
        self.most_tokens = core.scheduler.capacity_tokens
        self._defaults = defaults
        self._vocabulary = int(config.get_text_config().vocab_size)
        self._image_token = int(config.image_token_id)
        self._placeholders = placeholders(config)
        self._metrics = metrics
        ends = defaults.eos_token_id
        self._ends = frozenset(ends if isinstance(ends, list) else [ends])
        self._idle: dict[str, IdleSink] = {}
        # Callers choose their own ids, and may choose one twice.
        self._numbers = itertools.count()
        self._worker = Worker(core, self._deliver, max_waiting=max_waiting, figures=StepFigures(metrics))
        metrics.show_engine({"engine": "paged", **core.facts}, self._worker.reading)
        metrics.count_model_time(self._worker.meter)
        metrics.requests_running.set_function(lambda: self._worker.running)
        metrics.requests_waiting.set_function(lambda: self._worker.waiting)

    @property
    def alive(self) -> bool:
        return self._worker.alive and self._worker.busy_for_s < self._stall_s

    @property
    def meter(self) -> Meter:
        return self._worker.meter

    def submit(
        self, prompt: Prompt, request: GenerationRequest, channel: TokenChannel, mask: TokenMask | None = None
    ) -> None:
        """Raises InvalidRequest (a token id outside the vocabulary), Busy, EngineDead."""
        made, patches = self._request(prompt, request, self._sampling(request.sampling), mask=mask)
        self._worker.submit(Job(made, patches, ReplySink(channel, made), request.deadline))

    def score(
        self, prompt: Prompt, candidates: Sequence[Sequence[int]], request: GenerationRequest, channel: TokenChannel
    ) -> None:
        """Raises as ``submit``, and InvalidRequest for no candidate or an empty one."""
        if not candidates or not all(candidates):
            raise InvalidRequest("要比较的候选不能为空")
        scoring = Scoring(channel, len(candidates))
        # Those that differ in their last token alone are one request: all are told by the same logits.
        alike: dict[tuple[int, ...], list[int]] = {}
        for place, candidate in enumerate(candidates):
            alike.setdefault(tuple(candidate[:-1]), []).append(place)
        jobs = []
        for beginning, places in alike.items():
            last, *rivals = (candidates[place][-1] for place in places)
            made, patches = self._request(
                prompt, request, SamplingParams(0), targets=(*beginning, last), rivals=tuple(rivals)
            )
            jobs.append(Job(made, patches, CandidateSink(scoring, places), request.deadline))
        first, *rest = jobs
        self._worker.submit(Job(first.request, first.patches, first.sink, first.deadline, tuple(rest)))

    def warm(self, prompt: Prompt, request: GenerationRequest) -> None:
        """Raises as ``submit``."""
        older = self._idle.pop(request.owner, None)
        if older is not None:
            older.over = True
        if len(self._idle) >= _MOST_IDLE:
            for owner in [owner for owner, sink in list(self._idle.items()) if sink.over]:
                self._idle.pop(owner, None)
            return
        made, patches = self._request(prompt, request, SamplingParams(0), priority=Priority.IDLE_PREFILL)
        sink = self._idle[request.owner] = IdleSink()
        self._worker.submit(Job(made, patches, sink, request.deadline))

    def close(self) -> None:
        self._worker.close(_LAST_STEP_S if self.alive else 0)

    def _deliver(self, items: Sequence[tuple[Sink, Item]]) -> None:
        told = []
        chosen = cached = 0
        for sink, item in items:
            if isinstance(item, Chosen):
                chosen += 1
            elif isinstance(item, Ended):
                cached += item.cached
                if isinstance(sink, ReplySink):
                    self._metrics.waited(item.queued_s, item.answer_s, CLASSES[sink.priority])
            delivery = cast(EngineSink, sink).take(item)
            if delivery is not None:
                told.append(delivery)
        self._metrics.generation_tokens.inc(chosen)
        self._metrics.prefix_cached_tokens.inc(cached)
        scatter(told)

    def _request(
        self,
        prompt: Prompt,
        request: GenerationRequest,
        sampling: SamplingParams,
        *,
        mask: TokenMask | None = None,
        targets: tuple[int, ...] = (),
        rivals: tuple[int, ...] = (),
        priority: Priority | None = None,
    ) -> tuple[Request, dict[bytes, Patches]]:
        ids = prompt.inputs["input_ids"][0].tolist()
        self._check(ids)
        self._check((*targets, *rivals))
        if not self._placeholders.isdisjoint((*targets, *rivals)):
            raise InvalidRequest("候选里不能有图片占位符")
        spans, patches = self._pictures(prompt, ids)
        made = Request(
            f"{request.request_id}#{next(self._numbers)}",
            request.owner,
            [*ids, *targets[:-1]],
            sampling,
            spans,
            salt=hashlib.blake2b(request.owner.encode(), digest_size=16).digest(),
            shared_tokens=prompt.shared_tokens,
            priority=Priority(request.urgency) if priority is None else priority,
            mask=mask,
            targets=targets,
            rivals=rivals,
        )
        return made, patches

    def _check(self, ids: Iterable[int]) -> None:
        if not all(0 <= token < self._vocabulary for token in ids):
            raise InvalidRequest(f"token 编号要在 0 到 {self._vocabulary - 1} 之间")

    def _pictures(self, prompt: Prompt, ids: list[int]) -> tuple[tuple[ImageSpan, ...], dict[bytes, Patches]]:
        spans: list[ImageSpan] = []
        patches: dict[bytes, Patches] = {}
        position = offset = 0
        grids = prompt.inputs.get("image_grid_thw", ())
        known = prompt.digests or digests(prompt.inputs.get("pixel_values"), grids)
        for grid, digest in zip(grids, known, strict=True):
            count = int(grid.prod())
            pixels = prompt.inputs["pixel_values"][offset : offset + count]
            offset += count
            start = ids.index(self._image_token, position)
            position = start + count // prompt.patches_per_token
            spans.append(ImageSpan(start, position - start, digest))
            patches[digest] = Patches(pixels, grid)
        # One place-holder without a picture would shift every picture of the step it runs in.
        if sum(token in self._placeholders for token in ids) != sum(span.length for span in spans):
            raise InvalidRequest("图片占位符和图片对不上")
        return tuple(spans), patches

    def _sampling(self, wanted: Sampling) -> SamplingParams:
        self._check(token for token, _ in wanted.logit_bias)
        self._check(wanted.stop_token_ids)
        own = self._defaults
        temperature = wanted.temperature
        if temperature is None:
            temperature = (own.temperature or 1.0) if own.do_sample else 0.0
        return SamplingParams(
            max_new_tokens=wanted.max_new_tokens,
            temperature=temperature,
            top_k=_first(wanted.top_k, own.top_k, 0),
            top_p=_first(wanted.top_p, own.top_p, 1.0),
            min_p=_first(wanted.min_p, own.min_p, 0.0),
            repetition_penalty=_first(wanted.repetition_penalty, own.repetition_penalty, 1.0),
            presence_penalty=wanted.presence_penalty,
            frequency_penalty=wanted.frequency_penalty,
            logit_bias=wanted.logit_bias,
            banned=wanted.banned,
            seed=wanted.seed,
            min_new_tokens=wanted.min_new_tokens,
            logprobs=None if wanted.logprobs is None else min(wanted.logprobs, self._vocabulary),
            stop_token_ids=frozenset(wanted.stop_token_ids),
            end_token_ids=frozenset() if wanted.ignore_eos else self._ends,
        )


def placeholders(config: Any) -> frozenset[int]:
    """Ids that stand for pictures and videos: only a prompt's own pictures may be written with them."""
    return frozenset({int(config.image_token_id), int(config.video_token_id)})


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
