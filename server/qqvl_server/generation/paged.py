"""The paged engine behind the voice: rendered prompts become engine requests. Imports no torch itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from qqvl_server.engine.core import EngineCore
from qqvl_server.engine.request import FinishReason as EngineFinish
from qqvl_server.engine.request import ImageSpan, Request, SamplingParams
from qqvl_server.engine.vision import Patches
from qqvl_server.engine.worker import Item, Job, Sink, Worker
from qqvl_server.errors import EngineDead
from qqvl_server.generation.channel import TokenChannel, scatter
from qqvl_server.generation.port import FinishReason, GenerationRequest, Sampling
from qqvl_server.generation.preprocess import Prompt
from qqvl_server.observe.metrics import Metrics

_ENDS: Final[dict[Any, FinishReason]] = {
    EngineFinish.STOP: FinishReason.STOP,
    EngineFinish.LENGTH: FinishReason.LENGTH,
    EngineFinish.ABORTED: FinishReason.STOP,
}


class PagedEngine:
    """``defaults`` is the checkpoint's own generation_config, for what a request leaves open."""

    def __init__(self, core: EngineCore, defaults: Any, image_token: int, metrics: Metrics) -> None:
        self._defaults = defaults
        self._image_token = image_token
        self._metrics = metrics
        ends = defaults.eos_token_id
        self._ends = frozenset(ends if isinstance(ends, list) else [ends])
        self._worker = Worker(core, self._deliver)

    @property
    def alive(self) -> bool:
        return self._worker.alive

    def submit(self, prompt: Prompt, request: GenerationRequest, channel: TokenChannel) -> None:
        ids = prompt.inputs["input_ids"][0].tolist()
        spans, patches = self._pictures(prompt, ids)
        job = Request(
            request.request_id,
            request.owner,
            ids,
            self._sampling(request.sampling),
            spans,
            salt=hashlib.blake2b(request.owner.encode(), digest_size=16).digest(),
            shared_tokens=prompt.shared_tokens,
        )
        self._metrics.requests_running.inc()
        try:
            self._worker.submit(Job(job, patches, channel, request.deadline))
        except EngineDead:
            self._metrics.requests_running.dec()
            raise

    def close(self) -> None:
        self._worker.close()

    def _deliver(self, items: Sequence[tuple[Sink, Item]]) -> None:
        translated: list[tuple[TokenChannel, Any]] = []
        for sink, item in items:
            assert isinstance(sink, TokenChannel)
            if isinstance(item, int):
                self._metrics.generation_tokens.inc()
            else:
                self._metrics.requests_running.dec()
            translated.append((sink, _ENDS.get(item, item)))
        scatter(translated)

    def _pictures(self, prompt: Prompt, ids: list[int]) -> tuple[tuple[ImageSpan, ...], dict[bytes, Patches]]:
        spans: list[ImageSpan] = []
        patches: dict[bytes, Patches] = {}
        position = offset = 0
        for grid in prompt.inputs.get("image_grid_thw", ()):
            count = int(grid.prod())
            pixels = prompt.inputs["pixel_values"][offset : offset + count]
            offset += count
            digest = hashlib.blake2b(pixels.numpy().tobytes() + bytes(grid.tolist()), digest_size=16).digest()
            start = ids.index(self._image_token, position)
            position = start + count // prompt.patches_per_token
            spans.append(ImageSpan(start, position - start, digest))
            patches[digest] = Patches(pixels, grid)
        return tuple(spans), patches

    def _sampling(self, wanted: Sampling) -> SamplingParams:
        own = self._defaults
        temperature = wanted.temperature
        if temperature is None:
            temperature = (own.temperature or 1.0) if own.do_sample else 0.0
        return SamplingParams(
            max_new_tokens=wanted.max_new_tokens,
            temperature=temperature,
            top_k=_first(wanted.top_k, own.top_k, 0),
            top_p=_first(wanted.top_p, own.top_p, 1.0),
            repetition_penalty=_first(wanted.repetition_penalty, own.repetition_penalty, 1.0),
            stop_token_ids=self._ends,
        )


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
