"""Vision features, computed once per distinct picture and kept while they fit. Knows patches; no files, no chats."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from transformers import vision_utils

from qqvl_server.engine.cache.device import moved
from qqvl_server.engine.steps.batch import ScheduledChunk
from qqvl_server.engine.steps.request import ImageSpan, Request

# A picture, and the chunk in which some of it stands.
Shown = tuple[ScheduledChunk, ImageSpan]


@dataclass(frozen=True, slots=True)
class Patches:
    """What the image processor makes of one picture: ``pixel_values`` (patches, C·T·P·P), ``grid`` (3,) in patches."""

    pixel_values: torch.Tensor
    grid: torch.Tensor


@dataclass(frozen=True, slots=True)
class Features:
    """``embeddings`` (tokens, hidden); ``deepstack`` one such tensor per level."""

    embeddings: torch.Tensor
    deepstack: tuple[torch.Tensor, ...]

    @property
    def size(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.embeddings, *self.deepstack))


@dataclass(slots=True)
class EncoderOutput:
    """What the model takes as ``mm_encoder_outputs["image"]``: lists over pictures, per level for deepstack."""

    pooler_output: list[torch.Tensor]
    deepstack_features: list[list[torch.Tensor]]


class FeatureCache:
    """Least recently used by bytes. ``hits`` and ``misses`` count look-ups; ``on_look`` hears each, true if found."""

    def __init__(self, capacity_bytes: int, on_look: Callable[[bool], None] = lambda _found: None) -> None:
        self._capacity = capacity_bytes
        self._on_look = on_look
        self._kept: OrderedDict[bytes, Features] = OrderedDict()
        self._used = 0
        self.hits = 0
        self.misses = 0

    def get(self, digest: bytes) -> Features | None:
        found = self._kept.get(digest)
        self._on_look(found is not None)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(digest)
        return found

    def __contains__(self, digest: bytes) -> bool:
        """Not counted as a look-up."""
        return digest in self._kept

    def clear(self) -> None:
        self._kept.clear()
        self._used = 0

    def put(self, digest: bytes, features: Features) -> None:
        if features.size > self._capacity or digest in self._kept:
            return
        self._kept[digest] = features
        self._used += features.size
        while self._used > self._capacity:
            _, dropped = self._kept.popitem(last=False)
            self._used -= dropped.size


class RequestPictures:
    """The pictures of live requests: patches until they are looked at, features from then on.

    Features stay with a request even when the cache drops them, for it may have to be computed again.
    """

    def __init__(self, model: Any, cache: FeatureCache) -> None:
        self._model = model
        self._cache = cache
        self._patches: dict[str, dict[bytes, Patches]] = {}
        self._features: dict[str, dict[bytes, Features]] = {}
        self.encoder_runs = 0

    def add(self, request: Request, patches: dict[bytes, Patches]) -> None:
        """Take ``patches`` over; a picture is taken out of it once its features are known."""
        known = {digest: self._cache.get(digest) for digest in patches if digest in self._cache}
        for digest in known:
            del patches[digest]
        self._patches[request.id] = patches
        self._features[request.id] = {digest: features for digest, features in known.items() if features is not None}

    def forget(self, request: Request) -> None:
        self._patches.pop(request.id, None)
        self._features.pop(request.id, None)

    def check_integrity(self, live: Set[str]) -> None:
        """Raise AssertionError unless the pictures kept are those of requests of these ids."""
        assert self._patches.keys() == self._features.keys() == live, "pictures are kept of others than live requests"

    def features(self, wanted: Sequence[tuple[Request, bytes]]) -> dict[bytes, Features]:
        """Of every picture in ``wanted``; the encoder runs once over all that nobody has looked at yet."""
        found: dict[bytes, Features] = {}
        unseen: dict[bytes, Patches] = {}
        for request, digest in wanted:
            if digest in found or digest in unseen:
                continue
            features = self._features[request.id].get(digest) or self._cache.get(digest)
            if features is None:
                unseen[digest] = self._patches[request.id][digest]
            else:
                found[digest] = features
        if unseen:
            self.encoder_runs += 1
            fresh = encode(self._model, unseen)
            found |= fresh
            for digest, features in fresh.items():
                self._cache.put(digest, features)
        for request, digest in wanted:
            self._features[request.id][digest] = found[digest]
            self._patches[request.id].pop(digest, None)
        return found

    def shown(self, chunks: Sequence[ScheduledChunk]) -> list[Shown]:
        """Which pictures stand in ``chunks``, in their order."""
        return [(chunk, image) for chunk in chunks for image in chunk.request.images_in(chunk.start, chunk.end)]

    def encoded(self, shown: Sequence[Shown]) -> EncoderOutput | None:
        """Slices of the pictures' features that stand inside the chunks, in packed order; None where there is none."""
        if not shown:
            return None
        features = self.features([(chunk.request, image.digest) for chunk, image in shown])
        slices = [
            (
                features[image.digest],
                max(chunk.start, image.start) - image.start,
                min(chunk.end, image.end) - image.start,
            )
            for chunk, image in shown
        ]
        levels = range(len(slices[0][0].deepstack))
        return EncoderOutput(
            [f.embeddings[low:high] for f, low, high in slices],
            [[f.deepstack[level][low:high] for f, low, high in slices] for level in levels],
        )


def encode(model: Any, pictures: Mapping[bytes, Patches]) -> dict[bytes, Features]:
    """Run the vision tower once over several pictures.

    Args:
        model: a Qwen3VLForConditionalGeneration.
        pictures: patches by content digest.
    """
    visual = model.model.visual
    pixels = torch.cat([patches.pixel_values for patches in pictures.values()])
    grids = torch.stack([patches.grid for patches in pictures.values()])
    told = {} if visual.device.type == "cpu" else _geometry(visual, grids)
    out = model.model.get_image_features(moved(pixels, visual.device), grids, **told)
    levels: Sequence[Sequence[torch.Tensor]] = getattr(out, "deepstack_features", None) or ()
    return {
        # Cloned: a slice would keep the whole batch's tensor alive for as long as one picture is cached.
        digest: Features(out.pooler_output[n].clone(), tuple(level[n].clone() for level in levels))
        for n, digest in enumerate(pictures)
    }


def _geometry(visual: Any, grids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the vision tower makes of ``grids`` alone, made on the host as Transformers means it to be.

    From grids on the device the tower would read lengths back, three times a layer, and wait for the device each time.
    """
    side, merge = visual.num_grid_per_side, visual.config.spatial_merge_size
    indices, weights = vision_utils.get_vision_interpolation_indices_and_weights(
        grids, num_grid_per_side=side, mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners, spatial_merge_size=merge,
    )  # fmt: skip
    places = vision_utils.get_vision_position_ids(grids, merge)
    return {
        "interp_indices": moved(indices, visual.device),
        "interp_weights": moved(weights, visual.device),
        "position_ids": moved(places, visual.device),
        # Read as numbers: it stays with the host.
        "cu_seqlens": vision_utils.get_vision_cu_seqlens(grids),
    }
