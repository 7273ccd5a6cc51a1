"""A scheduled batch becomes one packed forward of the model. Knows tensors and positions; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from qqvl_server.engine import attention, packing, vision
from qqvl_server.engine.batch import ScheduledBatch, ScheduledChunk
from qqvl_server.engine.kv_cache import KVCache, KVShape
from qqvl_server.engine.request import Request
from qqvl_server.engine.vision import EncoderOutput, FeatureCache, Features, Patches


class ModelRunner:
    """Owns the model and its cache; used by one thread."""

    def __init__(self, model: Any, *, blocks: int, block_size: int, feature_bytes: int) -> None:
        attention.register()
        packing.pack(model)
        model.set_attn_implementation({"text_config": attention.NAME, "vision_config": "sdpa"})
        self._model = model
        self._device = model.device
        self._cache = KVCache(kv_shape(model.config), blocks, block_size, dtype=model.dtype, device=model.device)
        self.features = FeatureCache(feature_bytes)
        self._positions: dict[str, tuple[torch.Tensor, int]] = {}
        self._patches: dict[str, Mapping[bytes, Patches]] = {}

    def add(self, request: Request, patches: Mapping[bytes, Patches]) -> None:
        """Learn a request's pictures and positions before its first step.

        M-RoPE's offset stays with the request: the model's own ``rope_deltas`` is shared state that leaks between
        requests.
        """
        self._patches[request.id] = patches
        length = len(request.prompt)
        kinds = torch.zeros(1, length, dtype=torch.int)
        for image in request.images:
            kinds[0, image.start : image.end] = 1
        grids = torch.stack([patches[image.digest].grid for image in request.images]) if request.images else None
        positions, deltas = self._model.model.get_rope_index(
            torch.tensor([list(request.prompt)]), mm_token_type_ids=kinds, image_grid_thw=grids
        )
        self._positions[request.id] = (positions[:, 0], int(deltas[0, 0]))

    def forget(self, request: Request) -> None:
        self._positions.pop(request.id, None)
        self._patches.pop(request.id, None)

    @torch.inference_mode()
    def run(self, batch: ScheduledBatch) -> torch.Tensor:
        """Logits (B, vocabulary) of the chunks that sample, in the batch's order."""
        # Decodes stand first, so that their rows are one slice.
        order = sorted(range(len(batch.chunks)), key=lambda n: batch.chunks[n].count > 1)
        chunks = [batch.chunks[n] for n in order]
        ids = [t for chunk in chunks for t in chunk.request.tokens[chunk.start : chunk.end]]
        last, row = {}, 0
        for n, chunk in zip(order, chunks, strict=True):
            row += chunk.count
            if chunk.samples:
                last[n] = row - 1
        keep = [last[n] for n in sorted(last)]
        encoded = self._encoder_output(chunks)
        out = self._model(
            input_ids=torch.tensor([ids], device=self._device),
            position_ids=torch.cat([self._positions_of(chunk) for chunk in chunks], dim=1)
            .unsqueeze(1)
            .to(self._device),
            logits_to_keep=torch.tensor(keep or [0], device=self._device),
            mm_encoder_outputs=None if encoded is None else {"image": encoded},
            use_cache=False,
            paged=attention.lay_out(self._cache, chunks),
        )
        logits: torch.Tensor = out.logits[0]
        return logits[: len(keep)]

    def _positions_of(self, chunk: ScheduledChunk) -> torch.Tensor:
        """(3, count); beyond the prompt all three axes go on from its end, moved by the request's offset."""
        known, delta = self._positions[chunk.request.id]
        inside = known[:, chunk.start : chunk.end]
        start = max(chunk.start, known.shape[1])
        after = torch.arange(start, max(chunk.end, start)) + delta
        return torch.cat([inside, after.expand(3, -1)], dim=1)

    def _encoder_output(self, chunks: list[ScheduledChunk]) -> EncoderOutput | None:
        """Slices of the pictures' features that stand inside the chunks, in packed order."""
        wanted = [(chunk, image) for chunk in chunks for image in chunk.request.images_in(chunk.start, chunk.end)]
        if not wanted:
            return None
        features = self._features({i.digest: self._patches[c.request.id][i.digest] for c, i in wanted})
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

    def _features(self, pictures: Mapping[bytes, Patches]) -> dict[bytes, Features]:
        found = {digest: self.features.get(digest) for digest in pictures}
        fresh = vision.encode(self._model, {d: pictures[d] for d, features in found.items() if features is None})
        for digest, features in fresh.items():
            self.features.put(digest, features)
        return {digest: features or fresh[digest] for digest, features in found.items()}


def kv_shape(config: Any) -> KVShape:
    """What one token costs in the cache of a model with this configuration."""
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return KVShape(text.num_hidden_layers, text.num_key_value_heads, head_dim)
