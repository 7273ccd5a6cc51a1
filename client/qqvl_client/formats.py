"""The one list of picture formats, and the one rule for base64. The chat server has both too: what either side
takes is written down in `tests/fixtures/contract/pictures.json`, which both are tested against."""

from __future__ import annotations

import base64
import binascii
import re
import struct

from qqvl_client.errors import PictureError, PictureTooLargeError

PICTURE_NAMES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib"),
    *(".tif", ".tiff", ".avif", ".heic", ".heif", ".hif", ".ico"),
)
INLINE = ("base64://", "data:")
_START = re.compile(r"\s*(?:base64://|data:[^,]{0,256},)", re.IGNORECASE)
_STANDARD = bytes.maketrans(b"-_", b"+/")
# ISO/IEC 23008-12: the brands a file names first, or as compatible, tell how its picture is coded.
_AVIF = frozenset({b"avif", b"avis"})
_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),  # MPO, a JPEG with more pictures behind the first, too
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
)


def format_of(data: bytes) -> str | None:
    """What the bytes are, whatever the file's name says: QQ names GIFs .jpg."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return _iso_format(data)
    if data[:2] == b"BM" and len(data) > 18 and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if data[:4] == b"\0\0\1\0" and len(data) > 22 and 0 < int.from_bytes(data[4:6], "little") <= 256:
        return "ico"
    return None


def decode_inline(source: str, most: int) -> bytes:
    """The bytes of a `data:` URI or `base64://` word as clients really write them: any case, line breaks, URL-safe
    letters, no padding. Raises PictureError, and PictureTooLargeError above `most` bytes."""
    start = _START.match(source)
    body = source[start.end() :] if start else source
    if len(body) > most * 2 + 1000:
        raise PictureTooLargeError
    data = _decode(body)
    if len(data) > most:
        raise PictureTooLargeError
    return data


def _decode(body: str) -> bytes:
    try:
        letters = body.encode("ascii").translate(_STANDARD, delete=b" \t\r\n\f\v").rstrip(b"=")
        return base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise PictureError("编码有误") from None


def _iso_format(data: bytes) -> str | None:
    (size,) = struct.unpack(">I", data[:4])
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, min(size, 256), 4))]
    for brand in brands:
        if brand in _AVIF:
            return "avif"
    return "heic" if any(brand in _HEIC for brand in brands) else None
