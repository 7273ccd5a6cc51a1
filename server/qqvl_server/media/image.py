"""Untrusted bytes become a checked picture. Knows pixels; no HTTP, no chat, no model.

Order matters: byte count, format by magic bytes, the container by its structure, size and work from the headers, and
only then a decode, so that a 37 kB file that claims 169 megapixels allocates nothing. Hostile files still find ways to
be slow or to crash a decoder: in the server this runs in a process that may be ended (``decoder``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from PIL import Image

from qqvl_server.errors import ImageRejected
from qqvl_server.media.animations import BROKEN, TOO_MUCH, most_frames
from qqvl_server.media.containers import Container, trimmed
from qqvl_server.media.frames import load, opened, orientation, upright_rgb

# Qwen's smart_resize refuses a ratio above 200; above this one a picture is a line and says nothing.
MAX_ASPECT_RATIO: Final = 150
_DATA_URI = re.compile(r"\s*(?:base64://|data:[^,]{0,256},)", re.IGNORECASE)
_STANDARD = bytes.maketrans(b"-_", b"+/")
_CUT: Final = "图片文件不完整，缺的太多，看不了"
# Passes over all pixels of the largest picture: a photo has ten over a quarter of them.
_MOST_PASSES: Final = 64
# A hundred million pixels once over, more or less a second; below this, a picture is quick.
_LIGHT: Final = 25_000_000
_LIGHT_BYTES: Final = 8_000_000
# How much longer a pixel takes than in a JPEG.
_WEIGHTS: Final = {"PNG": 1.5, "GIF": 2.0, "WEBP": 2.0, "TIFF": 2.0, "AVIF": 4.0, "HEIF": 4.0}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Bounds that hold before a decode allocates; ``max_pixels`` counts one frame.

    ``min_share`` of a picture's rows must be in a file that was cut short; ``cpu_s`` seconds of a processor are the
    most that one picture may cost.
    """

    max_bytes: int
    max_pixels: int
    max_frames: int
    max_tokens: int
    min_share: float = 0.5
    cpu_s: float = 10


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A picture that was checked and is kept: what history and prompts hold in place of bytes.

    ``sha256`` is of the file's bytes; ``width`` and ``height`` are after EXIF orientation; ``frames`` are the
    indices of the distinct frames shown to the model; ``share`` is how much of the picture is in its file.
    ``most_tokens`` is what it may take of a prompt where that is less than what any may; 0 where it is not.
    """

    sha256: str
    format: str
    width: int
    height: int
    frames: tuple[int, ...]
    size: int
    share: float = field(default=1.0, compare=False)
    most_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Looked:
    """A checked picture with the frames that it will be shown by."""

    ref: ImageRef
    frames: tuple[Image.Image, ...]


class TooHeavy(Exception):
    """Not an error: the picture may be shown, but will take its time."""


def decode_base64(text: str, max_bytes: int) -> bytes:
    """Bytes of a base64 word as clients really send it: data URI, OneBot's base64://, line breaks, URL-safe, unpadded.

    Raises:
        ImageRejected: not base64, empty, or more than ``max_bytes``.
    """
    prefix = _DATA_URI.match(text)
    body = text[prefix.end() :] if prefix else text
    if len(body) > max_bytes * 2:
        raise ImageRejected(f"图片太大，最多 {_megabytes(max_bytes)} MB")
    try:
        letters = body.encode("ascii").translate(_STANDARD, delete=b" \t\r\n\f\v").rstrip(b"=")
        data = base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageRejected("图片不是有效的 base64") from error
    if not data:
        raise ImageRejected("图片是空的")
    if len(data) > max_bytes:
        raise ImageRejected(f"图片太大，最多 {_megabytes(max_bytes)} MB")
    return data


def check(data: bytes, limits: ImageLimits) -> ImageRef:
    """As ``look``, for callers that show nothing."""
    return look(data, limits).ref


def look(data: bytes, limits: ImageLimits, *, light: bool = False) -> Looked:
    """Look at a picture's headers, then decode it once: what is seen here is what is shown.

    Raises:
        ImageRejected: unknown format, too large, too much work, a line, or broken.
        TooHeavy: ``light`` was asked for, and it is not.
    """
    if len(data) > limits.max_bytes:
        raise ImageRejected(f"图片太大，最多 {_megabytes(limits.max_bytes)} MB")
    try:
        return _looked(data, limits, light)
    except (ImageRejected, TooHeavy):
        raise
    except Exception as error:
        # The edge of decoders, which raise anything at all on truncated, bit-flipped and lying files.
        raise ImageRejected(BROKEN) from error


def pixels(data: bytes, ref: ImageRef, limits: ImageLimits, *, light: bool = False) -> tuple[Image.Image, ...]:
    """The frames ``ref`` names, as upright RGB pictures of at most about four times the pixels a model is shown.

    Raises:
        ImageRejected: the bytes are no longer what ``look`` saw.
        TooHeavy: as ``look``.
    """
    try:
        container = trimmed(data, limits.max_pixels)
        with _bounded(container, limits) as image:
            _weigh(container, image, len(data), max(ref.frames) + 1, light)
            shown = {index: frame for index, frame, _ in _decoded(image, container, ref.frames, limits)}
    except (ImageRejected, TooHeavy):
        raise
    except Exception as error:
        # As in ``look``.
        raise ImageRejected(BROKEN) from error
    if not shown:
        raise ImageRejected(BROKEN)
    # Earlier versions named pictures that do not count any more (a second picture behind a photo): the last that does.
    last = shown[max(shown)]
    return tuple(shown.get(index, last) for index in ref.frames)


def _looked(data: bytes, limits: ImageLimits, light: bool) -> Looked:
    container = trimmed(data, limits.max_pixels)
    with _bounded(container, limits) as image:
        looks = _looks(_frames(container, image, limits))
        _weigh(container, image, len(data), looks[-1] + 1, light)
        width, height = _size(container, image)
        found: dict[bytes, tuple[int, Image.Image]] = {}
        share = 1.0
        for index, frame, part in _decoded(image, container, looks, limits):
            share = min(share, part)
            small = frame.copy()
            small.thumbnail((64, 64))
            found.setdefault(hashlib.blake2b(small.tobytes(), digest_size=16).digest(), (index, frame))
        frames = _spread(list(found.values()), limits.max_frames)
        turned = orientation(image, container) in (5, 6, 7, 8)
    if not frames:
        raise ImageRejected(BROKEN)
    if share < limits.min_share:
        raise ImageRejected(_CUT)
    if not container.whole and share == 1.0 and (container.coarse or len(looks) > 1):
        # All of the picture, but not sharp, or not to the end of the animation.
        share = 0.99
    ref = ImageRef(
        hashlib.sha256(data).hexdigest(),
        container.kind.lower(),
        height if turned else width,
        width if turned else height,
        tuple(index for index, _ in frames),
        len(data),
        round(share, 2),
    )
    return Looked(ref, tuple(frame for _, frame in frames))


def _bounded(container: Container, limits: ImageLimits) -> Image.Image:
    # libwebp's animation decoder, which Pillow uses for still pictures too, holds four copies of the canvas.
    most = limits.max_pixels * 4 // 5 if container.kind == "WEBP" else limits.max_pixels
    if container.canvas > most:
        raise _too_large(container.screen, most)
    with warnings.catch_warnings():
        # Our own pixel budget is stricter and is an error, not a warning.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = opened(container, most)
        except Image.DecompressionBombError:
            raise _too_large(container.screen, most) from None
    width, height = _size(container, image)
    if image.width * image.height > most:
        raise _too_large((width, height), most)
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ImageRejected(f"图片太细长（{width}×{height}），看不了")
    if container.scans * width * height > _MOST_PASSES * limits.max_pixels:
        raise ImageRejected(TOO_MUCH)
    return image


def _too_large(size: tuple[int, int] | None, most: int) -> ImageRejected:
    told = f"（{size[0]}×{size[1]}）" if size else ""
    return ImageRejected(f"图片尺寸太大{told}，最多 {most / 1_000_000:g} 百万像素")


def _size(container: Container, image: Image.Image) -> tuple[int, int]:
    return container.screen or image.size


def _frames(container: Container, image: Image.Image, limits: ImageLimits) -> range:
    """Only GIF, APNG and WebP are animations; what else holds several pictures shows its first."""
    if container.kind != "WEBP":
        return container.frames
    return range(min(int(getattr(image, "n_frames", 1)), most_frames(image.width * image.height, limits.max_pixels)))


def _weigh(container: Container, image: Image.Image, size: int, frames: int, light: bool) -> None:
    canvas = max(container.canvas, image.width * image.height)
    work = canvas * frames * _WEIGHTS.get(container.kind, 1.0) * (1 + container.scans / 10)
    if light and (work > _LIGHT or size > _LIGHT_BYTES):
        raise TooHeavy


def _looks(frames: range) -> tuple[int, ...]:
    """Sixteen looks are enough to find four to eight different frames."""
    if len(frames) <= 16:
        return tuple(frames)
    return tuple(sorted({frames[round(step * (len(frames) - 1) / 15)] for step in range(16)}))


def _spread(found: list[tuple[int, Image.Image]], most: int) -> list[tuple[int, Image.Image]]:
    if len(found) <= most:
        return found
    last, gaps = len(found) - 1, max(most - 1, 1)
    return [found[at] for at in sorted({round(step * last / gaps) for step in range(most)})[:most]]


def _decoded(
    image: Image.Image, container: Container, indices: tuple[int, ...], limits: ImageLimits
) -> Iterator[tuple[int, Image.Image, float]]:
    """The frames of an animation up to the first that is broken, each with the share of it that was in the file."""
    for number, index in enumerate(indices):
        try:
            if index:
                image.seek(index)
            part, share = load(image, container, limits.max_tokens)
            frame = upright_rgb(part, container, limits.max_tokens)
        except Exception:
            # The edge of decoders, as above; of a broken animation the frames before are shown.
            if not number:
                raise
            return
        yield index, frame, share


def _megabytes(count: int) -> str:
    return f"{count / 1_000_000:g}"
