"""Steps computed on a CPU by our own kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from qqvl_server.engine.cache.kv_cache import BLOCK_SIZE, KVCache, kv_shape
from qqvl_server.engine.cpu import packing
from qqvl_server.engine.cpu.kernels import Kernels, NativeRows, Workspace, lay_out, text_shape
from qqvl_server.engine.cpu.layers import FusedText, fuse, natives, text_of
from qqvl_server.engine.forward.backend import Prepared, Step
from qqvl_server.engine.forward.packed import ModelForward, pack, plug_in
from qqvl_server.engine.steps.batch import ScheduledChunk


class CpuBackend:
    """Text layers that are known are swapped for fused ones; pictures are looked at by torch, its weights packed."""

    def __init__(self, kernels: Kernels, block_size: int = BLOCK_SIZE) -> None:
        self.block_size = block_size
        self._kernels = kernels
        self._text: FusedText | None = None
        self.workspace: Workspace | None = None

    def adopt(self, model: Any, cache: KVCache) -> None:
        plug_in(model, self._swap)
        self._model, self._cache = model, cache
        shape = text_shape(model.config, kv_shape(model.config))
        self._heads = shape.heads
        self._text = text_of(model, self._kernels, cache)
        self.workspace = Workspace(shape, model.dtype) if natives(model) else None

    def _swap(self, model: Any) -> None:
        fuse(model, self._kernels)
        packing.pack(model)

    def lay_out(self, chunks: Sequence[ScheduledChunk], device: torch.device | None = None) -> NativeRows:
        spans = [(chunk.request.blocks, chunk.start, chunk.count) for chunk in chunks]
        workspace = None
        if self.workspace is not None:
            workspace = self.workspace.rows(sum(chunk.count for chunk in chunks))
        return lay_out(self._kernels, spans, self._cache, self._heads, workspace)

    def prepare(self, step: Step) -> Prepared:
        rows = pack(step, self._cache, self.lay_out)
        if self._text is not None and not rows.shown:
            return self._text.prepare(rows)
        return ModelForward(self._model, rows, step.pictures)

    @property
    def facts(self) -> Mapping[str, object]:
        return {"attention": "own CPU kernels"}

    def release(self) -> None:
        if self.workspace is not None:
            self.workspace.clear()
