"""One frame of a picture: decoded as far as its file goes, cut to the screen, turned upright, as RGB. Knows Pillow."""

from __future__ import annotations

import io
import math
import os
from dataclasses import replace
from typing import Any, Final

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from qqvl_server.errors import ImageRejected
from qqvl_server.media.containers import Container, orientation_of

# Each is opened by its own reader, never by guessing: Pillow's other plugins (EPS calls Ghostscript) see no client
# bytes, and a JPEG is never taken for a container of several pictures.
_READERS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "ICO": IcoImagePlugin.IcoImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
# Browsers show the upper part of these; of the others they show nothing, or nobody has ever seen it.
_SHOWN_IN_PART: Final = frozenset(("JPEG", "PNG", "GIF"))
_NO_HEIF: Final = (
    "HEIC 图片要装了扩展才能看：在服务器上执行 .venv/bin/pip install -c constraints.txt -e '.[heif]' 再重新启动"
)
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BAND_PIXELS: Final = 2_000_000
_CHANNEL_BYTES: Final = {"I": 4, "F": 4, "I;16": 2}
# What libjpeg shows for blocks that it was not given.
_MISSING_GREY: Final = 128
# Rows that it holds back: one row of blocks, and what the colours are smoothed by.
_HELD_BACK: Final = 18
_ROW_END: Final = 12


def opened(container: Container, max_pixels: int) -> Image.Image:
    """A picture of which only the headers were read.

    Raises:
        ImageRejected: there is no decoder for it here.
        DecompressionBombError: more than ``max_pixels``. Whatever else a decoder raises.
    """
    # Half, because Pillow warns from there and refuses at the double; some decoders allocate before we see a size.
    Image.MAX_IMAGE_PIXELS = max(max_pixels // 2, 1)
    # By default as many threads as there are cores: the time one picture may take is counted over all of them.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    reader = _heif() if container.kind == "HEIF" else _READERS[container.kind]
    return reader(io.BytesIO(container.data))


def _heif() -> type[ImageFile.ImageFile]:
    try:
        import pillow_heif
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError:
        raise ImageRejected(_NO_HEIF) from None
    pillow_heif.options.DECODE_THREADS = 1
    reader: type[ImageFile.ImageFile] = HeifImageFile
    return reader


def load(image: Image.Image, container: Container, max_tokens: int) -> tuple[Image.Image, float]:
    """The current frame as its decoder gives it, and the share of its rows that were in the file.

    Raises: whatever a decoder does.
    """
    _draft(image, max_tokens)
    if container.kind not in _SHOWN_IN_PART or len(container.frames) > 1:
        image.load()
        return image, 1.0
    try:
        image.load()
    except (OSError, SyntaxError, ValueError):
        # Once more, onto paper that no picture looks like, to see how far it comes.
        return _in_part(container, max_tokens)
    if container.whole or container.kind != "JPEG" or container.coarse:
        return image, 1.0
    return image, _share_above_grey(image)


def _draft(image: Image.Image, max_tokens: int) -> None:
    target = max_tokens * 32 * 32 * 4
    ratio = (target / (image.width * image.height)) ** 0.5
    if image.format == "JPEG" and ratio < 0.5:
        # libjpeg decodes at 1/2, 1/4 or 1/8 scale without ever holding the full picture.
        image.draft("RGB", (max(1, int(image.width * ratio)), max(1, int(image.height * ratio))))


class _Paper:
    """Rows of noise laid under a decode: a row that still is the noise was never written."""

    def __init__(self, mode: str, size: tuple[int, int]) -> None:
        width, self._height = size
        bands = _CHANNEL_BYTES.get(mode, len(Image.new(mode, (1, 1)).getbands()))
        noise = os.urandom(-(-width // 8) if mode == "1" else width * bands)
        self._row = Image.frombytes(mode, (width, 1), noise)
        # Rows are written from the left: one of which the end is missing is as good as missing.
        self._end = self._row.tobytes()[-_ROW_END:]
        self._width = width

    def lay(self, core: Any) -> None:
        for y in range(self._height):
            core.paste(self._row.im, (0, y, self._width, y + 1))

    def blank(self, image: Image.Image) -> list[int]:
        rows = (image.crop((0, y, self._width, y + 1)) for y in range(self._height))
        return [y for y, row in enumerate(rows) if row.tobytes().endswith(self._end)]


def _in_part(container: Container, max_tokens: int) -> tuple[Image.Image, float]:
    image: Any = opened(container, 2**31)
    height = image.height
    _draft(image, max_tokens)
    prepare = image.load_prepare
    papers: list[_Paper] = []

    def on_paper() -> None:
        prepare()
        papers.append(_Paper(image.im.mode, image.im.size))
        papers[-1].lay(image.im)

    image.load_prepare = on_paper
    try:
        image.load()
    except (OSError, SyntaxError, ValueError):
        if not papers:
            raise
    seen = image._new(image.im)
    seen.info = dict(image.info)
    blank = papers[-1].blank(seen)
    interlaced = bool(image.info.get("interlace"))
    if interlaced and set(range(1, seen.height, 2)) <= set(blank):
        # The last of PNG's seven passes brings every second row; before it, rows are sieves.
        return seen, 0.0
    if container.kind == "JPEG":
        # Told that this is the end, the decoder gives the blocks that it still held back, and grey for the others.
        seen = opened(replace(container, data=container.data + b"\xff\xd9"), 2**31)
        _draft(seen, max_tokens)
        seen.load()
        blank = blank[math.ceil(_HELD_BACK * seen.height / height) :]
    return _mended(seen, blank, interlaced=interlaced or container.kind == "GIF"), 1 - len(blank) / seen.height


def _mended(image: Image.Image, blank: list[int], *, interlaced: bool) -> Image.Image:
    """Missing rows between others look like the row above them; those at the end are white."""
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    missing = set(blank)
    end = max((y for y in range(image.height) if y not in missing), default=-1) + 1
    for y in blank:
        if interlaced and 0 < y < end:
            image.paste(image.crop((0, y - 1, image.width, y)), (0, y))
    if end < image.height:
        image.paste(Image.new("RGB", (image.width, image.height - end), "white").convert(image.mode), (0, end))
    return image


def _share_above_grey(image: Image.Image) -> float:
    """Of a progressive JPEG cut in its first scans: what was not given ends it in even grey."""
    for y in range(image.height - 1, -1, -1):
        lowest_highest = image.crop((0, y, image.width, y + 1)).convert("L").getextrema()
        if any(abs(int(value) - _MISSING_GREY) > 1 for value in lowest_highest):  # type: ignore[arg-type]
            return (y + 1) / image.height
    return 0.0


def upright_rgb(image: Image.Image, container: Container, max_tokens: int) -> Image.Image:
    """The loaded frame as RGB: 16-bit scaled, alpha laid on white, turned, shrunk early when huge."""
    target = max_tokens * 32 * 32 * 4
    if container.screen and image.size != container.screen:
        image = image.crop((0, 0, *container.screen))
    top = _white_of(image)
    factor = math.ceil((image.width * image.height / target) ** 0.5)
    frame = _plain(image, top) if factor < 2 else _shrunk(image, factor, top)
    if frame is image:
        frame = frame.copy()
    turn = _TURNS.get(orientation(image, container))
    return frame if turn is None else frame.transpose(turn)


def orientation(image: Image.Image, container: Container) -> int:
    """As ``orientation_of``. TIFF and HEIF readers turn the picture themselves."""
    if container.kind in ("WEBP", "AVIF"):
        return orientation_of(image.info.get("exif", b""))
    return container.orientation


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
    if image.mode == "F":
        return float(high) if high > 0 else 1
    return 65535 if high > 255 else 255
