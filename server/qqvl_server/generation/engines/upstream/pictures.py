"""Pictures as upstreams are sent them: upright, without what the camera wrote, no larger than the settings allow.

Blocking and thread-safe. The same picture becomes the same bytes, or nobody's cache would know it again.
"""

from __future__ import annotations

import base64
import io
import math
import threading
from collections import OrderedDict
from typing import Final

from PIL import Image

from qqvl_server.media.image import ImageRef
from qqvl_server.media.library import ImageLibrary

# Pixels along a side of the square that one token of Qwen3-VL sees; of other models' more.
EDGE: Final = 32
_REMEMBERED_BYTES: Final = 64_000_000
_QUALITY: Final = 92
# A drawing is small without loss; a photograph is not.
_LARGEST_PNG: Final = 700_000
_LOSSY: Final = ("jpeg", "jpg", "webp", "heif", "heic", "avif", "mpo")


class Gallery:
    """``max_tokens`` bounds one picture, as everywhere."""

    def __init__(self, library: ImageLibrary, max_tokens: int) -> None:
        self._library = library
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._remembered: OrderedDict[ImageRef, tuple[str, ...]] = OrderedDict()

    def addresses(self, ref: ImageRef) -> tuple[str, ...]:
        """A ``data:`` address for each frame. Raises ImageRejected: the picture is gone, or cannot be shown."""
        with self._lock:
            if ref in self._remembered:
                self._remembered.move_to_end(ref)
                return self._remembered[ref]
        size = self.size(ref)
        made = tuple(_address(frame, size, ref.format) for frame in self._library.open(ref))
        with self._lock:
            self._remembered[ref] = made
            while sum(len(one) for kept in self._remembered.values() for one in kept) > _REMEMBERED_BYTES:
                self._remembered.popitem(last=False)
        return made

    def size(self, ref: ImageRef) -> tuple[int, int]:
        """Width and height of each frame as it is sent, in pixels."""
        most = min(self._max_tokens, ref.most_tokens or self._max_tokens)
        area = max(most // len(ref.frames), 4) * EDGE * EDGE
        if ref.width * ref.height <= area:
            return ref.width, ref.height
        shrink = math.sqrt(area / (ref.width * ref.height))
        width, height = (max(int(side * shrink) // EDGE * EDGE, EDGE) for side in (ref.width, ref.height))
        return width, height


def data_of(width: int, height: int) -> str:
    """The address of a blank picture of this size."""
    return _address(Image.new("RGB", (width, height), (200, 30, 30)), (width, height), "png")


def _address(frame: Image.Image, size: tuple[int, int], came_as: str) -> str:
    if frame.size != size:
        frame = frame.resize(size, Image.Resampling.BICUBIC)
    if came_as.lower() not in _LOSSY:
        data = _written(frame, "PNG")
        if len(data) <= _LARGEST_PNG:
            return f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f"data:image/jpeg;base64,{base64.b64encode(_written(frame, 'JPEG')).decode()}"


def _written(frame: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "PNG":
        frame.save(file, "PNG", compress_level=4)
    else:
        frame.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
