"""Steps computed on CUDA: attention reads the cache in place, and steps of decodes are replayed where recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from qqvl_server.engine.cache import gathered
from qqvl_server.engine.cache.device import send
from qqvl_server.engine.cache.kv_cache import KVCache
from qqvl_server.engine.cache.paged_attention import AttentionMetadata
from qqvl_server.engine.cuda import varlen
from qqvl_server.engine.cuda.decode_inputs import Decode
from qqvl_server.engine.cuda.graphs import Capture, DecodeGraphs
from qqvl_server.engine.cuda.varlen import VarlenKernel
from qqvl_server.engine.forward.backend import Prepared, Step
from qqvl_server.engine.forward.packed import ModelForward, carried, logits, pack, plug_in
from qqvl_server.engine.steps.batch import ScheduledBatch, ScheduledChunk
from qqvl_server.observe.logs import logger


@dataclass(frozen=True, slots=True)
class Recording:
    """Decode steps of up to ``requests`` requests of up to ``longest`` tokens are recorded by ``capture``."""

    capture: Capture
    requests: int
    longest: int


class CudaBackend:
    """``kernel``, called ``name``, takes blocks of ``block_size``. ``adapt`` as ``plug_in`` takes it."""

    def __init__(
        self,
        kernel: VarlenKernel,
        block_size: int,
        *,
        name: str = "",
        recording: Recording | None = None,
        adapt: Callable[[Any], object] | None = None,
    ) -> None:
        self.block_size = block_size
        self._name = name
        self._kernel = kernel
        self._recording = recording
        self._adapt = adapt
        self._graphs: DecodeGraphs | None = None
        self._trusted = True

    def adopt(self, model: Any, cache: KVCache) -> None:
        plug_in(model, self._adapt, cache.layer_devices)
        self._model, self._cache = model, cache
        wanted = self._recording
        if wanted is not None:
            forward = partial(logits, model)
            self._graphs = DecodeGraphs(
                forward, cache, self._kernel, wanted.capture, most=wanted.requests, longest=wanted.longest
            )
            if not self._graphs.kernel_is_right:
                logger().warning("注意力算子在这个模型里算得不对，改为拷出缓存再算，会慢几倍", kernel=self._name)
                self._trusted, self._name = False, "SDPA over gathered blocks"

    def lay_out(self, chunks: Sequence[ScheduledChunk], device: torch.device) -> AttentionMetadata:
        if not self._trusted:
            return gathered.lay_out(chunks, self._cache, device)
        return varlen.lay_out(chunks, self._cache, self._kernel, device)

    def prepare(self, step: Step) -> Prepared:
        chunks = step.batch.chunks
        decodes = self._graphs.taken(step.batch) if self._graphs is not None else []
        recorded = {id(chunk) for chunk in decodes}
        others = [chunk for chunk in chunks if id(chunk) not in recorded]
        # Rows that are scored are many, and would be copied.
        if self._graphs is None or not decodes or any(chunk.scored for chunk in others):
            return self._forward(step)
        rows = [_decode(chunk, step) for chunk in decodes]
        replayed = _Replayed(self._graphs, rows, carried(step.batch, chunks, self._cache.device))
        if not others:
            return replayed
        # Decodes stay with their recording: a prompt beside them must not have them launched kernel by kernel.
        rest = self._forward(replace(step, batch=ScheduledBatch(tuple(others))))
        order = _order(chunks, (*decodes, *others))
        at = None if order == list(range(len(order))) else send(order, self._cache.device)
        return _Apart(replayed, rest, at)

    def _forward(self, step: Step) -> ModelForward:
        return ModelForward(self._model, pack(step, self._cache, self.lay_out), step.pictures)

    @property
    def facts(self) -> Mapping[str, object]:
        recorded = self._graphs.recorded if self._graphs is not None else []
        return {"attention": self._name, "graphs": recorded or "off"}

    def release(self) -> None:
        """Nothing is kept but recordings, which steps go on using."""


@dataclass(frozen=True, slots=True)
class _Replayed:
    """``ids`` are the rows' tokens where only the device knows them."""

    graphs: DecodeGraphs
    rows: Sequence[Decode]
    ids: torch.Tensor | None

    def compute(self) -> torch.Tensor:
        return self.graphs.run(self.rows, self.ids)


@dataclass(frozen=True, slots=True)
class _Apart:
    """A step computed as two. Row i of its logits is row ``order[i]`` of theirs, one after the other."""

    replayed: Prepared
    rest: Prepared
    order: torch.Tensor | None

    def compute(self) -> torch.Tensor:
        found = torch.cat([self.replayed.compute(), self.rest.compute()])
        return found if self.order is None else found[self.order]


def _order(chunks: Sequence[ScheduledChunk], computed: Sequence[ScheduledChunk]) -> list[int]:
    """Where the rows that ``chunks`` keep, one after the other, stand among those of the same ones as ``computed``."""
    places, row = {}, 0
    for chunk in computed:
        places[id(chunk)] = range(row, row + len(chunk.kept))
        row += len(chunk.kept)
    return [place for chunk in chunks for place in places[id(chunk)]]


def _decode(chunk: ScheduledChunk, step: Step) -> Decode:
    request = chunk.request
    position = chunk.start + step.positions[request.id].delta
    return Decode(request.tokens[chunk.start], position, request.blocks, chunk.end)
