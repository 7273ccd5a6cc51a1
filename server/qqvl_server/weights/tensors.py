"""What tensors a checkpoint holds, by its files' headers. No torch.

Format: 8 bytes little-endian header length, JSON header (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qqvl_server.weights.locate import shards


@dataclass(frozen=True, slots=True)
class Tensor:
    """``dtype`` as safetensors calls it: F16, BF16, F8_E4M3, I32 …"""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


def tensors(folder: Path) -> Mapping[str, Tensor]:
    """Of a whole checkpoint, by name."""
    found = {}
    for file in shards(folder):
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                found[name] = Tensor(entry["dtype"], tuple(entry["shape"]), end - start)
    return found
