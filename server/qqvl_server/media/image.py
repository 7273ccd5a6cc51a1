"""Untrusted bytes become a checked picture. Knows pixels and file formats; no HTTP, no chat, no model.

Order matters: byte count, format by magic bytes, then size from the header, and only then a decode, so that a
37 kB file that claims 169 megapixels allocates nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

from qqvl_server.errors import ImageRejected

# Pillow is asked for these by name: its other plugins (EPS calls Ghostscript) never see client bytes.
FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
# Qwen's smart_resize refuses a ratio above 200; above this one a picture is a line and says nothing.
MAX_ASPECT_RATIO: Final = 150
_BAND_PIXELS: Final = 2_000_000
_DATA_URI = re.compile(r"\s*(?:base64://|data:[^,]{0,256},)", re.IGNORECASE)
_STANDARD = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Bounds that hold before a decode allocates; ``max_pixels`` counts one frame."""

    max_bytes: int
    max_pixels: int
    max_frames: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A picture that was checked and is kept: what history and prompts hold in place of bytes.

    ``sha256`` is of the file's bytes; ``width`` and ``height`` are after EXIF orientation; ``frames`` are the
    indices of the distinct frames shown to the model.
    """

    sha256: str
    format: str
    width: int
    height: int
    frames: tuple[int, ...]
    size: int


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
    """Look at a picture's header, then decode it once to be sure that it can be shown.

    Raises:
        ImageRejected: unknown format, too large, a line, or broken.
    """
    if len(data) > limits.max_bytes:
        raise ImageRejected(f"图片太大，最多 {_megabytes(limits.max_bytes)} MB")
    with _opened(data, limits) as image:
        width, height = _oriented_size(image)
        frames = tuple(index for index, _ in _distinct_frames(image, limits))
        if not frames:
            raise ImageRejected("图片已损坏，打不开")
        return ImageRef(
            sha256=hashlib.sha256(data).hexdigest(),
            format=str(image.format).lower(),
            width=width,
            height=height,
            frames=frames,
            size=len(data),
        )


def pixels(data: bytes, ref: ImageRef, limits: ImageLimits) -> tuple[Image.Image, ...]:
    """The frames ``ref`` names, as upright RGB pictures of at most about four times the pixels a model is shown.

    Raises:
        ImageRejected: the bytes are no longer what ``check`` saw.
    """
    with _opened(data, limits) as image:
        shown = []
        for index in ref.frames:
            try:
                image.seek(index)
                shown.append(_upright_rgb(image, limits))
            except _BROKEN as error:
                raise ImageRejected("图片已损坏，打不开") from error
        return tuple(shown)


# What Pillow's decoders raise on truncated, bit-flipped and lying files: its plugins do not wrap their parsers.
_BROKEN: Final = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError,
    AssertionError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip


def _opened(data: bytes, limits: ImageLimits) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Our own pixel budget below is stricter and is an error, not a warning.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageRejected("这不是能识别的图片（支持 jpeg、png、gif、webp、bmp）") from error
    except (Image.DecompressionBombError, *_BROKEN) as error:
        raise ImageRejected("图片已损坏或尺寸过大，打不开") from error
    width, height = image.size
    # libwebp's animation decoder, which Pillow uses for still pictures too, holds four copies of the canvas.
    most = limits.max_pixels * 4 // 5 if image.format == "WEBP" else limits.max_pixels
    if width * height > most:
        raise ImageRejected(f"图片尺寸太大（{width}×{height}），最多 {most / 1_000_000:g} 百万像素")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ImageRejected(f"图片太细长（{width}×{height}），看不了")
    return image


def _oriented_size(image: Image.Image) -> tuple[int, int]:
    try:
        orientation = image.getexif().get(0x0112, 1)
    except _BROKEN:
        orientation = 1
    return (image.height, image.width) if orientation in (5, 6, 7, 8) else image.size


def _distinct_frames(image: Image.Image, limits: ImageLimits) -> Iterator[tuple[int, bytes]]:
    """Indices of frames that differ, spread evenly over the animation, at most ``limits.max_frames``.

    A broken tail of an animation is left out; a picture whose first frame is broken yields nothing.
    """
    try:
        count = int(getattr(image, "n_frames", 1))
    except _BROKEN:
        count = 1
    # Reaching a frame decodes all before it: only as many as four of the largest still pictures would cost.
    count = min(count, max(1, 4 * limits.max_pixels // (image.width * image.height)))
    # Sixteen looks are enough to find four to eight different frames.
    looks = sorted({round(step * (count - 1) / 15) for step in range(16)}) if count > 16 else range(count)
    seen: set[bytes] = set()
    found: list[tuple[int, bytes]] = []
    for index in looks:
        try:
            image.seek(index)
            small = _upright_rgb(image, limits)
            small.thumbnail((64, 64))
        except _BROKEN:
            break
        digest = hashlib.blake2b(small.tobytes(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            found.append((index, digest))
    if len(found) > limits.max_frames:
        last = len(found) - 1
        spread = max(limits.max_frames - 1, 1)
        kept = sorted({round(step * last / spread) for step in range(limits.max_frames)})[: limits.max_frames]
        found = [found[position] for position in kept]
    yield from found


def _upright_rgb(image: Image.Image, limits: ImageLimits) -> Image.Image:
    """The current frame as RGB: 16-bit scaled, alpha laid on white, EXIF applied, shrunk early when huge."""
    target = limits.max_tokens * 32 * 32 * 4
    if image.format == "JPEG":
        ratio = (target / (image.width * image.height)) ** 0.5
        if ratio < 0.5:
            # libjpeg decodes at 1/2, 1/4 or 1/8 scale without ever holding the full picture.
            image.draft("RGB", (max(1, int(image.width * ratio)), max(1, int(image.height * ratio))))
    image.load()
    top = _white_of(image)
    factor = math.ceil((image.width * image.height / target) ** 0.5)
    frame = _plain(image, top) if factor < 2 else _shrunk(image, factor, top)
    if frame is image:
        frame = frame.copy()
    exif = image.getexif()
    if exif.get(0x0112, 1) != 1:
        transposed = ImageOps.exif_transpose(_with_exif(frame, exif))
        frame = transposed if transposed is not None else frame
    return frame


def _with_exif(frame: Image.Image, exif: Image.Exif) -> Image.Image:
    carrier = Image.Exif()
    carrier[0x0112] = exif.get(0x0112, 1)
    frame.info["exif"] = carrier.tobytes()
    return frame


def _shrunk(image: Image.Image, factor: int, top: float) -> Image.Image:
    """``image`` as RGB at one ``factor``-th of its size, band by band: a whole copy would be four bytes a pixel."""
    small = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    rows = factor * max(_BAND_PIXELS // (image.width * factor), 1)
    for y in range(0, image.height, rows):
        band = image.crop((0, y, image.width, min(y + rows, image.height)))
        small.paste(_plain(band, top).reduce(factor), (0, y // factor))
    return small


def _plain(image: Image.Image, top: float) -> Image.Image:
    """As RGB: 16 bits scaled to 8, alpha laid on white. ``convert("L")`` alone would clip all above 255 to white."""
    if top:
        return image.convert("F").point(lambda value: value * (255.0 / top)).convert("L").convert("RGB")
    if "A" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        frame = Image.new("RGB", rgba.size, "white")
        frame.paste(rgba, mask=rgba.getchannel("A"))
        return frame
    return image if image.mode == "RGB" else image.convert("RGB")


def _white_of(image: Image.Image) -> float:
    """What stands for white in a picture of more than 8 bits a channel; 0 for the others."""
    if not image.mode.startswith("I") and image.mode != "F":
        return 0
    high = image.getextrema()[1]
    assert isinstance(high, int | float)
    return 65535 if high > 255 else 255


def _megabytes(count: int) -> str:
    return f"{count / 1_000_000:g}"
