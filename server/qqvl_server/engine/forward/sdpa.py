"""Steps computed by what torch has for every device: the model's own layers, and SDPA over gathered blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from qqvl_server.engine.cache import gathered
from qqvl_server.engine.cache.kv_cache import BLOCK_SIZE, KVCache
from qqvl_server.engine.forward.backend import Prepared, Step
from qqvl_server.engine.forward.packed import ModelForward, pack, plug_in
from qqvl_server.engine.steps.batch import ScheduledChunk


class SdpaBackend:
    """``adapt`` as ``plug_in`` takes it."""

    def __init__(self, block_size: int = BLOCK_SIZE, *, adapt: Callable[[Any], object] | None = None) -> None:
        self.block_size = block_size
        self._adapt = adapt

    def adopt(self, model: Any, cache: KVCache) -> None:
        plug_in(model, self._adapt, cache.layer_devices)
        self._model, self._cache = model, cache

    def lay_out(self, chunks: Sequence[ScheduledChunk], device: torch.device) -> gathered.Gathered:
        return gathered.lay_out(chunks, self._cache, device)

    def prepare(self, step: Step) -> Prepared:
        return ModelForward(self._model, pack(step, self._cache, self.lay_out), step.pictures)

    @property
    def facts(self) -> Mapping[str, object]:
        return {"attention": "SDPA over gathered blocks"}

    def release(self) -> None:
        """Nothing is kept."""
