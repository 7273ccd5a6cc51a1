"""Image files by their structure: what a decoder is given of them, and what that will cost. No pixel is decoded here.

A container is walked once and rebuilt from what its pixels need. Comments, profiles, previews and second pictures
never reach a decoder: they are where small files hide large work (PNG 1.2 §4.2.3 text and profile chunks,
CIPA DC-007 for pictures behind a JPEG), and none of them changes what is seen.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from typing import Final

from qqvl_server.errors import ImageRejected
from qqvl_server.media.animations import BROKEN, TOO_MUCH, Still, gif, png

_PNG: Final = b"\x89PNG\r\n\x1a\n"
# ISO/IEC 23008-12: pictures whose coding the brands that a file says it is compatible with tell.
_HEIF_BRANDS: Final = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_AVIF_BRANDS: Final = frozenset((b"avif", b"avis"))
# After entropy-coded data: neither a stuffed byte, a restart, nor fill.
_MARKER: Final = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_PROGRESSIVE: Final = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_FRAME_HEADERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SMALL_SEGMENT: Final = 64
_MOST_SEGMENTS: Final = 20_000
# Scans of a progressive picture that was cut after them show all of it, if not sharply.
_COARSE_SCANS: Final = 2
# Compressions 1 and 2 of a bitmap, for which Pillow's decoder is written in Python.
_RUN_LENGTHS: Final = (b"\1", b"\2")
_MOST_RUNS: Final = 2_000_000
_MOST_ICONS: Final = 64


@dataclass(frozen=True, slots=True)
class Container:
    """``kind`` is Pillow's name of the format, ``data`` what its decoder is given.

    ``frames`` may be shown, in order (their indices for ``seek``); ``canvas`` (pixels) is what each costs in memory,
    ``screen`` what is to be seen of it. ``scans`` are the passes over the picture. ``whole`` says that the file came to
    its end; ``coarse`` that, where it did not, all of the picture is there all the same.
    """

    kind: str
    data: bytes
    frames: range = range(1)
    screen: tuple[int, int] | None = None
    canvas: int = 0
    scans: int = 1
    orientation: int = 1
    whole: bool = True
    coarse: bool = False


def trimmed(data: bytes, max_pixels: int) -> Container:
    """The container of a picture as a decoder may see it.

    Raises:
        ImageRejected: no format that is shown, or a container that is mostly not picture.
    """
    kind = kind_of(data)
    if kind == "JPEG":
        return _jpeg(data)
    if kind in ("PNG", "GIF"):
        return _still(kind, png(data, max_pixels) if kind == "PNG" else gif(data, max_pixels))
    if kind is None:
        raise ImageRejected("这不是能识别的图片（支持 jpeg、png、gif、webp、bmp、ico、tiff、avif、heic）")
    if kind == "ICO":
        return _icon(data, max_pixels)
    if kind == "BMP" and data[30:31] in _RUN_LENGTHS and len(data) > _MOST_RUNS:
        raise ImageRejected(TOO_MUCH)
    return Container(kind, data)


def kind_of(data: bytes) -> str | None:
    """The format by its first bytes, in Pillow's words; None for what is never decoded."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(_PNG):
        return "PNG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM"):
        return "BMP"
    if data.startswith(b"\0\0\1\0"):
        return "ICO"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if data[4:8] == b"ftyp":
        length = min(int.from_bytes(data[:4]), 512)
        brands = {data[at : at + 4] for at in range(8, length, 4) if at != 12}
        return "AVIF" if brands & _AVIF_BRANDS else "HEIF" if brands & _HEIF_BRANDS else None
    return None


def orientation_of(exif: bytes) -> int:
    """How a picture is to be turned, 1 to 8 (Exif 2.32, tag 274 of the first directory); 1 where it does not say."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for number in range(min(count, 512)):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * number)
            if tag == 0x0112:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _still(kind: str, found: Still) -> Container:
    return Container(
        kind,
        found.data,
        found.frames,
        found.screen,
        found.canvas,
        orientation=orientation_of(found.exif),
        whole=found.whole,
    )


def _icon(data: bytes, max_pixels: int) -> Container:
    """The largest of an icon's pictures: a PNG as such, a bitmap as an icon of one picture."""
    entries = []
    for number in range(min(int.from_bytes(data[4:6], "little"), _MOST_ICONS)):
        entry = data[6 + 16 * number : 22 + 16 * number]
        if len(entry) < 16:
            break
        size, start = struct.unpack_from("<II", entry, 8)
        picture = data[start : start + size]
        if kind_of(picture) == "PNG":
            width, height = struct.unpack_from(">II", picture.ljust(24, b"\0"), 16)
        else:
            # A bitmap's header counts the mask below the picture as well.
            width, height = struct.unpack_from("<ii", picture.ljust(12, b"\0"), 4)
            height //= 2
        entries.append((width * height, number, entry, picture))
    if not entries:
        raise ImageRejected(BROKEN)
    _, _, entry, picture = max(entries)
    if kind_of(picture) == "PNG":
        return replace(_still("PNG", png(picture, max_pixels)), frames=range(1))
    alone = b"\0\0\1\0\1\0" + entry[:8] + struct.pack("<II", len(picture), 22) + picture
    return Container("ICO", alone, canvas=max(entries)[0])


def _jpeg(data: bytes) -> Container:
    """The first picture of the file alone, without what its application segments hold but for the colour transform."""
    view = memoryview(data)
    kept: list[bytes | memoryview] = [b"\xff\xd8"]
    whole, progressive, scans, segments, orientation, at = False, False, 0, 0, 1, 2
    size = (0, 0)
    while (mark := _MARKER.search(data, at)) is not None:
        if scans:
            kept.append(view[at : mark.start()])
        marker, at, segments = mark[1][0], mark.end(), segments + 1
        if marker == 0xD9 and scans:
            whole = True
            break
        if marker in (0x01, 0xD8, 0xD9):
            continue
        end = at + int.from_bytes(data[at : at + 2])
        if end < at + 2 or end > len(data):
            break
        if segments > _MOST_SEGMENTS:
            raise ImageRejected(TOO_MUCH)
        scans += marker == 0xDA
        progressive = progressive or marker in _PROGRESSIVE
        if marker in _FRAME_HEADERS and end >= at + 7:
            size = struct.unpack_from(">HH", data, at + 3)
        if marker == 0xE1 and data[at + 2 : at + 8] == b"Exif\0\0" and orientation == 1:
            orientation = orientation_of(bytes(view[at + 8 : end]))
        # Of the application's segments, JFIF's and Adobe's tell what the colours are.
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or (marker in (0xE0, 0xEE) and end - at < _SMALL_SEGMENT):
            kept.append(view[mark.start() : end])
        at = end
    else:
        kept.append(view[at:])
    # Where all scans are read before the first row is told, the decoder has to be told that there are no more.
    several = progressive or scans > 1
    if whole or several:
        kept.append(b"\xff\xd9")
    return Container(
        "JPEG",
        b"".join(kept),
        canvas=size[0] * size[1],
        scans=scans if several else 1,
        orientation=orientation,
        whole=whole,
        coarse=several and scans > _COARSE_SCANS,
    )
