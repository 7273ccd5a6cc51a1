"""Vision features, computed once per distinct picture and kept while they fit. Knows patches; no files, no chats."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


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
    """Least recently used by bytes. ``hits`` and ``misses`` count look-ups."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._kept: OrderedDict[bytes, Features] = OrderedDict()
        self._used = 0
        self.hits = 0
        self.misses = 0

    def get(self, digest: bytes) -> Features | None:
        found = self._kept.get(digest)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(digest)
        return found

    def put(self, digest: bytes, features: Features) -> None:
        if features.size > self._capacity or digest in self._kept:
            return
        self._kept[digest] = features
        self._used += features.size
        while self._used > self._capacity:
            _, dropped = self._kept.popitem(last=False)
            self._used -= dropped.size


def encode(model: Any, pictures: Mapping[bytes, Patches]) -> dict[bytes, Features]:
    """Run the vision tower once over several pictures.

    Args:
        model: a Qwen3VLForConditionalGeneration.
        pictures: patches by content digest.
    """
    if not pictures:
        return {}
    device, dtype = model.model.visual.device, model.model.visual.dtype
    pixels = torch.cat([patches.pixel_values for patches in pictures.values()]).to(device, dtype)
    grids = torch.stack([patches.grid for patches in pictures.values()]).to(device)
    out = model.model.get_image_features(pixels, grids)
    levels: Sequence[Sequence[torch.Tensor]] = getattr(out, "deepstack_features", None) or ()
    return {
        # Cloned: a slice would keep the whole batch's tensor alive for as long as one picture is cached.
        digest: Features(out.pooler_output[n].clone(), tuple(level[n].clone() for level in levels))
        for n, digest in enumerate(pictures)
    }
