"""Pictures at the size the model sees them: how many tokens each costs, and its patches. Thread-safe, no tokenizer."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from qqvl_server.errors import InvalidRequest
from qqvl_server.media.image import ImageRef
from qqvl_server.media.library import ImageLibrary

Frames = tuple[Image.Image, ...]

# Twenty pictures of ordinary size; the largest take 25 MB each.
_REMEMBERED_BYTES: Final = 128_000_000
# Pictures arrive at their final size; an extra resize by the processor must be a no-op for all of them.
_AS_THEY_ARE: Final = {"shortest_edge": 1, "longest_edge": 2**40}


@dataclass(frozen=True, slots=True)
class Patches:
    """What Qwen's processor makes of a picture's frames: pixel_values (patches, C·T·P·P), image_grid_thw (frames, 3).

    ``digests`` are the hashes of each frame's patches, by which its features are found again.
    """

    pixel_values: Any
    grids: Any
    digests: tuple[bytes, ...]


class PictureMaker:
    """``processor`` is a whole Transformers processor; ``max_tokens`` bounds one picture."""

    def __init__(self, processor: Any, library: ImageLibrary, max_tokens: int) -> None:
        self._images = processor.image_processor
        self._library = library
        self._max_tokens = max_tokens
        # Qwen's arithmetic is known here; the processors of other families are asked for everything.
        self.qwen = all(hasattr(self._images, name) for name in ("get_number_of_image_patches", "merge_size"))
        self._lock = threading.Lock()
        self._remembered: OrderedDict[ImageRef, Patches] = OrderedDict()
        self.patches_per_token = int(getattr(self._images, "merge_size", 1)) ** 2

    def open(self, ref: ImageRef) -> Frames:
        """At the size for the model.

        Raises:
            ImageRejected: the picture is gone, for it may age out while a chat goes on, or cannot be shown.
        """
        frames = self._library.open(ref)
        if not self.qwen:
            return frames
        size = self._target(ref)
        return tuple(frame if frame.size == size else frame.resize(size, Image.Resampling.BICUBIC) for frame in frames)

    def tokens(self, ref: ImageRef) -> int:
        """Of one frame, by Qwen's arithmetic; every frame of an animation costs the same."""
        width, height = self._target(ref)
        return width // self._edge() * (height // self._edge())

    def patches(self, ref: ImageRef) -> Patches:
        """Raises as ``open``. A chat shows its pictures again on each turn, so the latest are remembered."""
        with self._lock:
            if ref in self._remembered:
                self._remembered.move_to_end(ref)
                return self._remembered[ref]
        made = self._images(images=list(self.open(ref)), size=_AS_THEY_ARE, return_tensors="pt")
        pixels, grids = made["pixel_values"], made["image_grid_thw"]
        patches = Patches(pixels, grids, digests(pixels, grids))
        with self._lock:
            self._remembered[ref] = patches
            while sum(kept.pixel_values.nbytes for kept in self._remembered.values()) > _REMEMBERED_BYTES:
                self._remembered.popitem(last=False)
        return patches

    def _edge(self) -> int:
        """Pixels along one side of the square that one token sees."""
        return int(self._images.patch_size * self._images.merge_size)

    def _limits(self, ref: ImageRef) -> tuple[int, int]:
        """Smallest and largest area of a picture in pixels; the frames of one animation share its tokens."""
        most = min(self._max_tokens, ref.most_tokens or self._max_tokens)
        tokens = max(most // len(ref.frames), 4)
        largest = min(int(self._images.size["longest_edge"]), tokens * self._edge() ** 2)
        return min(int(self._images.size["shortest_edge"]), largest), largest

    def _target(self, ref: ImageRef) -> tuple[int, int]:
        """Width and height in pixels that the processor will bring the picture to (Qwen's smart_resize)."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        smallest, largest = self._limits(ref)
        height, width = smart_resize(ref.height, ref.width, self._edge(), min_pixels=smallest, max_pixels=largest)
        return width, height


def digests(pixel_values: Any, grids: Any) -> tuple[bytes, ...]:
    """Hash of each picture's patches and shape; the arguments are tensors as in ``Patches``."""
    found, offset = [], 0
    for grid in grids:
        count = int(grid.prod())
        hashed = hashlib.blake2b(pixel_values[offset : offset + count].numpy(), digest_size=16)
        hashed.update(str(grid.tolist()).encode())
        found.append(hashed.digest())
        offset += count
    return tuple(found)


def expanded(ids: Sequence[int], pad: int | None, runs: Sequence[int]) -> list[int]:
    """Each image token becomes its picture's run of them.

    Raises:
        InvalidRequest: the template shows another number of pictures than the messages have.
    """
    if ids.count(pad) != len(runs):
        raise InvalidRequest("模型的对话模板不接受这些消息里的图片")
    lengths = iter(runs)
    return [token for one in ids for token in ([one] * next(lengths) if one == pad else [one])]
