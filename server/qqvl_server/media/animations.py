"""PNG and GIF files rebuilt from their pixels alone, with as many of their frames as may be decoded.

Sources: PNG 1.2 and the APNG chunks of PNG 3; GIF89a. Where files are at odds with them, browsers are followed: what
reaches over the screen is cut off, a screen smaller than the first frame is as large as that frame, a broken
animation is shown as far as it goes or as the still picture in front of it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from qqvl_server.errors import ImageRejected

BROKEN: Final = "图片已损坏，打不开"
TOO_MUCH: Final = "图片解码要做的工作太多，不看"
# A file of these many pieces is made to be walked, not to be seen; 20 MB of ordinary blocks are 80,000.
_MOST_PIECES: Final = 300_000
# Reaching a frame decodes all before it: only as many as four of the largest still pictures would cost.
_STILLS: Final = 4
_MOST_FRAMES: Final = 2_000


@dataclass(frozen=True, slots=True)
class Still:
    """As the fields of ``containers.Container``; ``exif`` as it stands in the file."""

    data: bytes
    frames: range
    screen: tuple[int, int]
    canvas: int
    exif: bytes
    whole: bool


@dataclass(slots=True)
class _Frame:
    """``control`` and ``parts`` are what the frame is made of, in the container's own spelling."""

    control: bytes
    parts: list[bytes | memoryview]


def most_frames(canvas: int, max_pixels: int) -> int:
    return min(max(1, _STILLS * max_pixels // max(canvas, 1)), _MOST_FRAMES)


def png(data: bytes, max_pixels: int) -> Still:
    """Raises ImageRejected: no header, or nothing behind it."""
    walk = _PngWalk(data, max_pixels)
    walk.run()
    return walk.rebuilt()


class _PngWalk:
    def __init__(self, data: bytes, max_pixels: int) -> None:
        self._data = data
        self._view = memoryview(data)
        self._max_pixels = max_pixels
        self._header = b""
        self._beside: dict[bytes, bytes] = {}
        self._still: list[bytes | memoryview] = []
        self._frames: list[_Frame] = []
        self._loops: bytes | None = None
        # Whether the picture that a viewer without animations shows is the first frame.
        self._leads = False
        self._sequence = 0
        self._moving = True
        self.whole = False

    def run(self) -> None:
        at, pieces, size = 8, 0, len(self._data)
        while at + 8 <= size and not self.whole:
            length, kind = int.from_bytes(self._data[at : at + 4]), self._data[at + 4 : at + 8]
            pieces += 1
            if pieces > _MOST_PIECES:
                raise ImageRejected(TOO_MUCH)
            if not kind.isalpha():
                break
            end = at + 8 + length
            body = self._view[at + 8 : min(end, size)]
            if kind == b"IEND":
                self.whole = True
            elif end > size and kind not in (b"IDAT", b"fdAT"):
                # Cut within what is no pixel: all pixels may be there.
                break
            else:
                self._take(kind, body, end <= size, self._data[end : end + 4])
            at = end + 4

    def _take(self, kind: bytes, body: memoryview, complete: bool, checksum: bytes) -> None:
        if not self._header:
            if kind != b"IHDR" or len(body) < 13 or struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))) != checksum:
                raise ImageRejected(BROKEN)
            self._header = bytes(body[:13])
        elif kind == b"IDAT":
            self._still.append(body)
        elif kind in (b"fcTL", b"fdAT"):
            self._moving = self._moving and complete and self._move(kind, body)
        elif kind == b"acTL" and len(body) >= 8 and self._loops is None and not self._still:
            self._loops = bytes(body[4:8])
        elif kind in (b"PLTE", b"tRNS", b"eXIf") and kind not in self._beside and not (self._still and kind != b"eXIf"):
            self._beside[kind] = bytes(body)

    def _move(self, kind: bytes, body: memoryview) -> bool:
        """Whether the animation goes on behind this chunk."""
        if len(body) < (26 if kind == b"fcTL" else 4) or int.from_bytes(body[:4]) != self._sequence:
            return False
        self._sequence += 1
        if kind == b"fdAT":
            if not self._still or not self._frames or (self._leads and len(self._frames) == 1):
                return False
            self._frames[-1].parts.append(body[4:])
            return True
        width, height, x, y = struct.unpack(">4I", body[4:20])
        screen = struct.unpack(">II", self._header[:8])
        if not width or not height or x + width > screen[0] or y + height > screen[1]:
            return False
        if not self._still:
            if self._frames or (width, height) != screen:
                return False
            self._leads = True
        elif self._frames and not self._frames[-1].parts and not (self._leads and len(self._frames) == 1):
            return False
        self._frames.append(_Frame(bytes(body[4:24]) + bytes((min(body[24], 2), min(body[25], 1))), []))
        return True

    def rebuilt(self) -> Still:
        if not self._header or not self._still:
            raise ImageRejected(BROKEN)
        width, height = struct.unpack(">II", self._header[:8])
        frames = [frame for number, frame in enumerate(self._frames) if frame.parts or (self._leads and not number)]
        cut = not self._moving or len(frames) < len(self._frames)
        frames = frames[: most_frames(width * height, self._max_pixels)]
        animated = self._loops is not None and len(frames) + (not self._leads) > 1
        pieces = [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", self._header)]
        if animated:
            assert self._loops is not None
            pieces.append(_chunk(b"acTL", struct.pack(">I", len(frames)) + self._loops))
        pieces += [_chunk(kind, self._beside[kind]) for kind in (b"PLTE", b"tRNS") if self._fits(kind)]
        sequence = 0
        if animated and self._leads:
            pieces.append(_chunk(b"fcTL", bytes(4) + frames[0].control))
            sequence = 1
        pieces.append(_chunk(b"IDAT", b"".join(self._still)))
        for frame in frames[self._leads :] if animated else ():
            pieces.append(_chunk(b"fcTL", struct.pack(">I", sequence) + frame.control))
            pieces.append(_chunk(b"fdAT", struct.pack(">I", sequence + 1) + b"".join(frame.parts)))
            sequence += 2
        pieces.append(_chunk(b"IEND", b""))
        # Pillow counts a picture that is none of the frames as the first of them; browsers do not show it.
        shown = range(not self._leads, len(frames) + (not self._leads)) if animated else range(1)
        whole = self.whole and not (animated and cut)
        return Still(b"".join(pieces), shown, (width, height), width * height, self._beside.get(b"eXIf", b""), whole)

    def _fits(self, kind: bytes) -> bool:
        if kind not in self._beside:
            return False
        colours, length = self._header[9], len(self._beside[kind])
        return kind == b"PLTE" or {0: length == 2, 2: length == 6, 3: length <= 256}.get(colours, False)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return b"".join((struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))))


def gif(data: bytes, max_pixels: int) -> Still:
    """Raises ImageRejected: no frame begins in the file."""
    if len(data) < 13:
        raise ImageRejected(BROKEN)
    screen: tuple[int, int] = struct.unpack_from("<HH", data, 6)
    at = _behind_palette(13, data[10])
    palette, pieces, control = data[10:at], [], b""
    whole, seen, count, canvas = True, 0, 0, 0
    reach = screen
    while at < len(data) and (mark := data[at]) != 0x3B:
        start, seen = at, seen + 1
        if mark == 0x21:
            at, seen, complete = _sub_blocks(data, at + 2, seen)
            if data[start + 1 : start + 3] == b"\xf9\x04" and complete:
                control = data[start:at]
        elif mark == 0x2C and len(data) - at > 10:
            x, y, width, height, flags = struct.unpack_from("<4HB", data, at + 1)
            if not count and (width > screen[0] or height > screen[1]):
                screen = reach = (width, height)
                x = y = 0
            reach = (max(reach[0], x + width), max(reach[1], y + height))
            if not width or not height or (count and count >= most_frames(reach[0] * reach[1], max_pixels)):
                break
            at, seen, complete = _sub_blocks(data, _behind_palette(at + 10, flags) + 1, seen)
            whole = complete
            if complete or not count:
                # Half a first frame is shown; of half a later one the frame before it is the end.
                pieces += [control, struct.pack("<B4H", mark, x, y, width, height), data[start + 9 : at]]
                control, count, canvas = b"", count + 1, reach[0] * reach[1]
            if not complete:
                break
        elif mark == 0 and seen <= _MOST_PIECES:
            # Encoders that count wrongly leave an empty block here.
            at += 1
        else:
            break
    if not count:
        raise ImageRejected(BROKEN)
    head = data[:6] + struct.pack("<HH", *screen) + palette
    return Still(b"".join((head, *pieces, b"\x3b" if whole else b"")), range(count), screen, canvas, b"", whole)


def _behind_palette(at: int, flags: int) -> int:
    return at + (3 << (flags & 7) + 1 if flags & 128 else 0)


def _sub_blocks(data: bytes, at: int, seen: int) -> tuple[int, int, bool]:
    """Where the run of sub-blocks at ``at`` ends, how many were ``seen`` by then, and whether its end is there."""
    size = len(data)
    while at < size:
        length = data[at]
        at += length + 1
        seen += 1
        if not length:
            return at, seen, True
        if seen > _MOST_PIECES:
            raise ImageRejected(TOO_MUCH)
    return size, seen, False
