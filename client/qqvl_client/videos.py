"""How long a video is, from the header of its file; the pictures in it are not looked at."""

from __future__ import annotations

import struct


def length_of(part: bytes) -> float | None:
    """Seconds, from a part of an MP4 or MOV file that holds its `mvhd` box (ISO/IEC 14496-12, 8.2.2)."""
    at = part.find(b"mvhd")
    box = part[at + 4 :]
    if at < 0 or len(box) < 32:
        return None
    scale, duration = struct.unpack_from(">IQ", box, 20) if box[0] == 1 else struct.unpack_from(">II", box, 12)
    return duration / scale if scale and 0 < duration / scale < 1e6 else None
