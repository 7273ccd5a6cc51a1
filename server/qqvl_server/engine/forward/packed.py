"""A step as one packed row of tokens, and Transformers' own forward over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy
import torch

from qqvl_server.engine.cache import paged_attention
from qqvl_server.engine.cache.device import moved, moved_together, send
from qqvl_server.engine.cache.kv_cache import KVCache
from qqvl_server.engine.cache.paged_attention import AttentionMetadata, PagedBatch
from qqvl_server.engine.forward import positions
from qqvl_server.engine.forward.backend import Step
from qqvl_server.engine.forward.split import relay
from qqvl_server.engine.forward.vision import EncoderOutput, RequestPictures, Shown
from qqvl_server.engine.steps.batch import ScheduledBatch, ScheduledChunk
from qqvl_server.engine.steps.request import ImageSpan


@dataclass(frozen=True, slots=True)
class Packed:
    """The N rows of a step, on its device.

    ``ids`` (N,); ``positions`` (3, 1, N); ``keep`` (K,) are the rows whose logits are wanted, at least one: the first
    ``wanted`` of them are. ``shown`` are the pictures that stand in the rows, in their order, and ``pictured`` (P,) the
    rows of them all.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    keep: torch.Tensor
    wanted: int
    paged: PagedBatch
    shown: Sequence[Shown]
    pictured: torch.Tensor


def pack(
    step: Step, cache: KVCache, lay_out: Callable[[Sequence[ScheduledChunk], torch.device], AttentionMetadata]
) -> Packed:
    """``lay_out`` is the backend's."""
    batch = step.batch
    # Decodes stand first, the longest before the shorter, so that rows of about one length are one slice.
    chunks = sorted(batch.chunks, key=lambda chunk: (chunk.count > 1, -chunk.end))
    rows, row = {}, 0
    for chunk in chunks:
        rows[chunk.request.id] = row - chunk.start
        row += chunk.count
    keep = [rows[chunk.request.id] + position for chunk in batch.chunks for position in chunk.kept]
    places = positions.packed(((step.positions[c.request.id], c.start, c.count) for c in chunks), row)
    tokens = [t for chunk in chunks for t in chunk.request.tokens[chunk.start : chunk.end]]
    slots = positions.slots(chunks, row, cache.block_size)
    shown = step.pictures.shown(chunks)
    pictured = [rows[chunk.request.id] + position for chunk, image in shown for position in _within(chunk, image)]
    arrays = (
        numpy.array(tokens), places[:, None], slots, numpy.array(keep or [0]), numpy.array(pictured, numpy.int64)
    )  # fmt: skip
    ids, where, new_slots, kept, of_pictures = moved_together(arrays, cache.device)
    known = carried(batch, chunks, cache.device)
    elsewhere = {}
    for device in cache.devices[1:]:
        elsewhere[device] = PagedBatch(cache, moved(torch.from_numpy(slots), device), lay_out(chunks, device))
    paged = PagedBatch(cache, new_slots, lay_out(chunks, cache.device), elsewhere)
    return Packed(ids if known is None else known, where, kept, len(keep), paged, shown, of_pictures)


def _within(chunk: ScheduledChunk, image: ImageSpan) -> range:
    """The positions of ``image`` that stand in ``chunk``."""
    return range(max(chunk.start, image.start), min(chunk.end, image.end))


def carried(batch: ScheduledBatch, chunks: Sequence[ScheduledChunk], device: torch.device) -> torch.Tensor | None:
    """The tokens of ``chunks``, in their order, that the step before left on the device."""
    if batch.carried is None:
        return None
    places = [batch.carried.places[chunk.request.id] for chunk in chunks]
    tokens: torch.Tensor = batch.carried.tokens
    return tokens if places == list(range(len(tokens))) else tokens[send(places, device)]


def plug_in(model: Any, adapt: Callable[[Any], object] | None = None, devices: Sequence[torch.device] = ()) -> None:
    """Have ``model`` attend over the paged cache; ``adapt`` is given it before that, to swap or compile its layers.

    ``devices`` are those of its layers.
    """
    paged_attention.register()
    if adapt is not None:
        adapt(model)
    if set(devices) - {model.device}:
        relay(model, devices)
    text = model.model.language_model
    text._deepstack_process = partial(_deepstack, partial(type(text)._deepstack_process, text))
    model.set_attn_implementation({"text_config": paged_attention.NAME, "vision_config": "sdpa"})


def _deepstack(
    by_mask: Callable[..., torch.Tensor], hidden: torch.Tensor, rows: torch.Tensor, features: torch.Tensor
) -> Any:
    """In the place of Transformers', which is given a mask and asks the device how many rows it has."""
    if rows.dtype is torch.bool:
        return by_mask(hidden, rows, features)
    return hidden.index_add(1, rows.to(hidden.device), features.to(hidden.device, hidden.dtype).unsqueeze(0))


def logits(
    model: Any,
    ids: torch.Tensor,
    positions: torch.Tensor,
    paged: PagedBatch,
    keep: torch.Tensor | int = 0,
    encoded: EncoderOutput | None = None,
    pictured: torch.Tensor | None = None,
) -> torch.Tensor:
    """(N, vocabulary) of the rows ``keep`` (0: of all), from ``ids`` (1, N) and ``positions`` (3, 1, N).

    ``encoded`` stands in the rows ``pictured`` (P,). They are known, so that the model's own way, which looks for them
    on the device and waits for the answer, is not taken. Nor is it where layers lie elsewhere: the rows are then known
    on the first device alone.
    """
    if encoded is not None or paged.elsewhere:
        words = model.get_input_embeddings()(ids)
        levels = None
        if encoded is not None:
            assert pictured is not None
            shown = torch.cat(encoded.pooler_output).to(words.dtype).unsqueeze(0)
            words = words.index_copy(1, pictured, shown)
            levels = [torch.cat(level) for level in encoded.deepstack_features]
        out = model.model.language_model(
            inputs_embeds=words,
            position_ids=positions,
            visual_pos_masks=None if levels is None else pictured,
            deepstack_visual_embeds=levels,
            use_cache=False,
            paged=paged,
        )
        hidden = out.last_hidden_state
        kept = hidden if isinstance(keep, int) else hidden[:, keep.to(hidden.device)]
        by_text: torch.Tensor = model.lm_head(kept)[0].to(ids.device)
        return by_text
    out = model(input_ids=ids, position_ids=positions, logits_to_keep=keep, use_cache=False, paged=paged)
    found: torch.Tensor = out.logits[0]
    return found


@dataclass(frozen=True, slots=True)
class ModelForward:
    """A packed step through the model as it stands, pictures included."""

    model: Any
    rows: Packed
    pictures: RequestPictures

    def compute(self) -> torch.Tensor:
        rows = self.rows
        encoded = self.pictures.encoded(rows.shown)
        ids = rows.ids.unsqueeze(0)
        return logits(self.model, ids, rows.positions, rows.paged, rows.keep, encoded, rows.pictured)[: rows.wanted]
