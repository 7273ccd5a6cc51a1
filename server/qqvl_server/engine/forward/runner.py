"""A scheduled batch becomes one packed forward of the model. Knows tensors and positions; decides nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch

from qqvl_server.engine.cache import gathered
from qqvl_server.engine.cache import paged_attention as attention
from qqvl_server.engine.cache.device import moved, send, watched
from qqvl_server.engine.cache.kv_cache import KVCache, KVShape
from qqvl_server.engine.cache.paged_attention import PagedBatch
from qqvl_server.engine.cpu import kernels as native
from qqvl_server.engine.cpu import layers as fused
from qqvl_server.engine.cpu import packing
from qqvl_server.engine.cpu.kernels import Kernels
from qqvl_server.engine.cuda import varlen
from qqvl_server.engine.cuda.decode_inputs import Decode
from qqvl_server.engine.cuda.graphs import Capture, DecodeGraphs
from qqvl_server.engine.cuda.varlen import Kernel
from qqvl_server.engine.forward import positions
from qqvl_server.engine.forward.positions import Positions
from qqvl_server.engine.forward.vision import EncoderOutput, FeatureCache, Patches, PictureShelf
from qqvl_server.engine.steps.batch import ScheduledBatch, ScheduledChunk
from qqvl_server.engine.steps.request import ImageSpan, Request


class ModelRunner:
    """Owns the model and its cache; used by one thread. ``on_picture`` hears of each look-up in the feature cache.

    ``compiled`` names the backend by which torch.compile compiles the text layers when they are first run.
    """

    def __init__(
        self,
        model: Any,
        *,
        blocks: int,
        block_size: int,
        feature_bytes: int,
        kernel: Kernel | None = None,
        kernels: Kernels | None = None,
        compiled: str | None = None,
        on_picture: Callable[[bool], None] = lambda _found: None,
    ) -> None:
        attention.register(compiled=compiled is not None)
        if kernels is not None:
            fused.fuse(model, kernels)
        packing.pack(model)
        if compiled is not None:
            _compile_layers(model, compiled)
        model.set_attn_implementation({"text_config": attention.NAME, "vision_config": "sdpa"})
        self._model = model
        self._device = model.device
        self._cache = KVCache(kv_shape(model.config), blocks, block_size, dtype=model.dtype, device=model.device)
        self._text = None if kernels is None else fused.text_of(model, kernels, self._cache)
        self.features = FeatureCache(feature_bytes, on_picture)
        self.pictures = PictureShelf(model, self.features)
        self._kernel = kernel
        self._kernels = kernels
        shape = native.text_shape(model.config, kv_shape(model.config))
        self._heads = shape.heads
        self._workspace = native.Workspace(shape, model.dtype) if fused.natives(model) else None
        self._graphs: DecodeGraphs | None = None
        self._positions: dict[str, Positions] = {}

    def record(self, capture: Capture, *, requests: int, longest: int) -> None:
        """Record decode steps of up to ``requests`` requests of up to ``longest`` tokens; before the first step.

        Nothing is recorded where no kernel reads the cache in place.
        """
        if self._kernel is not None:
            self._graphs = DecodeGraphs(
                self._logits, self._cache, self._kernel, capture, most=requests, longest=longest
            )

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
        if self._workspace is not None:
            self._workspace.clear()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def run(self, batch: ScheduledBatch, meanwhile: Callable[[], None] = lambda: None) -> torch.Tensor:
        """Logits (N, vocabulary) of the positions that the chunks keep, in the batch's order.

        ``meanwhile`` is called once, when the inputs are made and the computing is about to begin.

        Raises:
            EngineDead: the device is lost.
        """
        with watched():
            return self._forward(batch, meanwhile)

    def _logits(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        paged: PagedBatch,
        keep: torch.Tensor | int = 0,
        encoded: EncoderOutput | None = None,
    ) -> torch.Tensor:
        """(N, vocabulary) of the rows ``keep`` (0: of all), from ``ids`` (1, N) and ``positions`` (3, 1, N)."""
        out = self._model(
            input_ids=ids,
            position_ids=positions,
            logits_to_keep=keep,
            mm_encoder_outputs=None if encoded is None else {"image": encoded},
            use_cache=False,
            paged=paged,
        )
        logits: torch.Tensor = out.logits[0]
        return logits

    def _decode(self, chunk: ScheduledChunk) -> Decode:
        request = chunk.request
        position = chunk.start + self._positions[request.id].delta
        return Decode(request.tokens[chunk.start], position, request.blocks, chunk.end)

    def _forward(self, batch: ScheduledBatch, meanwhile: Callable[[], None]) -> torch.Tensor:
        if self._graphs is not None and self._graphs.takes(batch):
            decodes = [self._decode(chunk) for chunk in batch.chunks]
            meanwhile()
            return self._graphs.run(decodes, self._carried(batch, batch.chunks))
        # Decodes stand first, the longest before the shorter, so that rows of about one length are one slice.
        chunks = sorted(batch.chunks, key=lambda chunk: (chunk.count > 1, -chunk.end))
        rows, row = {}, 0
        for chunk in chunks:
            rows[chunk.request.id] = row - chunk.start
            row += chunk.count
        keep = [rows[chunk.request.id] + position for chunk in batch.chunks for position in chunk.kept]
        places = positions.packed(((self._positions[c.request.id], c.start, c.count) for c in chunks), row)
        ids = self._carried(batch, chunks)
        if ids is None:
            ids = self._tensor([t for chunk in chunks for t in chunk.request.tokens[chunk.start : chunk.end]])
        where = moved(torch.from_numpy(places).unsqueeze(1), self._device)
        paged, kept = self._paged(chunks, row), self._tensor(keep or [0])
        shown = [(chunk, image) for chunk in chunks for image in chunk.request.images_in(chunk.start, chunk.end)]
        if self._text is not None and not shown:
            logits = self._text.logits(ids, where, paged, kept, meanwhile)
        else:
            meanwhile()
            logits = self._logits(ids.unsqueeze(0), where, paged, kept, self._encoder_output(shown))
        return logits[: len(keep)]

    def _carried(self, batch: ScheduledBatch, chunks: Sequence[ScheduledChunk]) -> torch.Tensor | None:
        """The tokens of ``chunks``, in their order, that the step before left on the device."""
        if batch.carried is None:
            return None
        places = [batch.carried.places[chunk.request.id] for chunk in chunks]
        tokens: torch.Tensor = batch.carried.tokens
        return tokens if places == list(range(len(tokens))) else tokens[self._tensor(places)]

    def _tensor(self, numbers: Sequence[Any]) -> torch.Tensor:
        return send(numbers, self._device)

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

    def _paged(self, chunks: Sequence[ScheduledChunk], rows: int) -> PagedBatch:
        slots = moved(torch.from_numpy(positions.slots(chunks, rows, self._cache.block_size)), self._device)
        if self._kernels is not None:
            spans = [(chunk.request.blocks, chunk.start, chunk.count) for chunk in chunks]
            workspace = None if self._workspace is None else self._workspace.rows(rows)
            laid = native.lay_out(self._kernels, spans, self._cache, self._heads, workspace)
            return PagedBatch(self._cache, slots, laid)
        if self._kernel is None:
            return PagedBatch(self._cache, slots, gathered.lay_out(chunks, self._cache))
        return PagedBatch(self._cache, slots, varlen.lay_out(chunks, self._cache, self._kernel))

    def _encoder_output(self, wanted: Sequence[tuple[ScheduledChunk, ImageSpan]]) -> EncoderOutput | None:
        """Slices of the pictures' features that stand inside the chunks, in packed order."""
        if not wanted:
            return None
        features = self.pictures.features([(chunk.request, image.digest) for chunk, image in wanted])
        slices = [
            (
                features[image.digest],
                max(chunk.start, image.start) - image.start,
                min(chunk.end, image.end) - image.start,
            )
            for chunk, image in wanted
        ]
        levels = range(len(slices[0][0].deepstack))
        return EncoderOutput(
            [f.embeddings[low:high] for f, low, high in slices],
            [[f.deepstack[level][low:high] for f, low, high in slices] for level in levels],
        )


def _compile_layers(model: Any, backend: str) -> None:
    # What cannot be compiled here runs as it is, with torch's warning, instead of ending the step.
    torch._dynamo.config.suppress_errors = True
    for layer in model.model.language_model.layers:
        # Layers are alike, and so are steps but for their number of rows: compiled once for all.
        layer.compile(dynamic=True, backend=backend)


def kv_shape(config: Any) -> KVShape:
    """What one token costs in the cache of a model with this configuration."""
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return KVShape(text.num_hidden_layers, text.num_key_value_heads, head_dim)
