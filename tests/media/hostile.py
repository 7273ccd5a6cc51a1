"""Files that are small and honest by their headers, and large, slow or broken behind them."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def png(
    extra: bytes = b"", *, size: tuple[int, int] = (64, 64), pixels: bytes | None = None, end: bytes | None = None
) -> bytes:
    """A red PNG with ``extra`` chunks in front of its pixels, and ``end`` in place of its end."""
    width, height = size
    rows = b"".join(b"\0" + b"\xff\0\0" * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows)) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + body + (chunk(b"IEND", b"") if end is None else end)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def gif(screen: tuple[int, int], *frames: bytes) -> bytes:
    head = b"GIF89a" + struct.pack("<HH", *screen) + b"\x80\0\0" + b"\xff\0\0\0\0\xff"
    return head + b"".join(frames) + b";"


def gif_frame(size: tuple[int, int], at: tuple[int, int] = (0, 0), colour: tuple[int, int, int] = (0, 0, 255)) -> bytes:
    """One frame of one colour, with its own palette."""
    out = io.BytesIO()
    image = Image.new("P", size, 0)
    image.putpalette(colour)
    image.save(out, "GIF")
    data = out.getvalue()
    start = data.index(b"\x2c" + struct.pack("<HHHH", 0, 0, *size))
    palette = bytes(colour) * 2
    return b"\x2c" + struct.pack("<HHHH", *at, *size) + b"\x80" + palette + data[start + 10 :].rstrip(b";")


def slow_jpeg(width: int, height: int, scans: int) -> bytes:
    """Grey and progressive: one scan of DC, then many that refine nothing, each of them a pass over all blocks."""
    blocks = -(-width // 8) * -(-height // 8)
    out = b"\xff\xd8" + _segment(0xDB, b"\0" + bytes([16]) * 64)
    out += _segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00")
    # One code for DC of category 0; fifteen codes of four bits for runs of 2**0 to 2**14 ended blocks.
    out += _segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00")
    out += _segment(0xC4, b"\x10" + bytes([0, 0, 0, 15] + [0] * 12) + bytes(k << 4 for k in range(15)))
    tail = blocks % 8
    dc = bytes(blocks // 8) + (bytes([(1 << (8 - tail)) - 1]) if tail else b"")
    out += b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\x01\x00" + b"\x00\x00\x01" + dc
    bits, left = "", blocks
    while left:
        run = min(left, 32767)
        power = run.bit_length() - 1
        bits += f"{power:04b}" + (f"{run - (1 << power):0{power}b}" if power else "")
        left -= run
    bits += "1" * (-len(bits) % 8)
    ended = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    scan = b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\x01\x00"
    return out + scan + b"\x01\x3f\x01" + ended + (scan + b"\x01\x3f\x10" + ended) * scans + b"\xff\xd9"


def _segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body
