"""Runs scheduled batches on the model: knows its requests' positions and pictures; decides nothing itself."""

from __future__ import annotations

import gc
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import torch

from qqvl_server.engine.cache.device import watched
from qqvl_server.engine.cache.kv_cache import KVCache, kv_dtype, kv_shape
from qqvl_server.engine.forward import positions
from qqvl_server.engine.forward.backend import Backend, Prepared, Step
from qqvl_server.engine.forward.positions import Positions
from qqvl_server.engine.forward.split import layer_devices
from qqvl_server.engine.forward.vision import FeatureCache, Patches, RequestPictures
from qqvl_server.engine.steps.batch import ScheduledBatch
from qqvl_server.engine.steps.request import Request


class ModelRunner:
    """Owns the model and its cache; used by one thread. ``on_picture`` hears of each look-up in the feature cache."""

    def __init__(
        self,
        model: Any,
        backend: Backend,
        *,
        blocks: int,
        feature_bytes: int,
        on_picture: Callable[[bool], None] = lambda _found: None,
    ) -> None:
        self._model = model
        self._backend = backend
        shape, device = kv_shape(model.config), model.device
        cache = KVCache(
            shape, blocks, backend.block_size, dtype=kv_dtype(model), device=device, layers=layer_devices(model)
        )
        backend.adopt(model, cache)
        self.features = FeatureCache(feature_bytes, on_picture)
        self.pictures = RequestPictures(model, self.features)
        self._positions: dict[str, Positions] = {}

    @watched()
    def add(self, request: Request, patches: dict[bytes, Patches]) -> None:
        """Learn a request's pictures and positions before its first step; ``patches`` is emptied as they are used.

        M-RoPE's offset stays with the request: the model's own ``rope_deltas`` is shared state that leaks between
        requests.
        """
        self._positions[request.id] = self._positions_of(request, patches) if request.images else Positions()
        self.pictures.add(request, patches)

    def forget(self, request: Request) -> None:
        self._positions.pop(request.id, None)
        self.pictures.forget(request)

    def release_memory(self) -> None:
        """Drop cached features and whatever torch keeps for later."""
        self.features.clear()
        self._backend.release()
        gc.collect()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    def check_integrity(self, live: Set[str]) -> None:
        """Raise AssertionError unless requests of these ids are remembered, and no others."""
        assert self._positions.keys() == live, "positions are kept of others than live requests"
        self.pictures.check_integrity(live)

    @watched()
    @torch.inference_mode()
    def prepare(self, batch: ScheduledBatch) -> WatchedStep:
        """Raises as ``watched`` does."""
        return WatchedStep(self._backend.prepare(Step(batch, self._positions, self.pictures)))

    def _positions_of(self, request: Request, patches: dict[bytes, Patches]) -> Positions:
        kinds = torch.zeros(1, len(request.prompt), dtype=torch.int)
        for image in request.images:
            kinds[0, image.start : image.end] = 1
        return positions.by_model(
            self._model.model,
            input_ids=torch.tensor([list(request.prompt)]),
            mm_token_type_ids=kinds,
            image_grid_thw=torch.stack([patches[image.digest].grid for image in request.images]),
        )


@dataclass(frozen=True, slots=True)
class WatchedStep:
    """What the backend prepared; its tensors take part in nothing but this step."""

    step: Prepared

    @watched()
    @torch.inference_mode()
    def compute(self) -> torch.Tensor:
        """Logits (N, vocabulary) of the positions that the chunks keep, in the batch's order.

        Raises as ``watched`` does.
        """
        return self.step.compute()
