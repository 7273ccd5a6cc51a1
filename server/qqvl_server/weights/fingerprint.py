"""What tells one checkpoint from another without reading all of it. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from qqvl_server.weights.locate import Checkpoint, shards

_FILES: Final = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json")
_PIECES: Final = 16
_PIECE_BYTES: Final = 4096


def fingerprint_of(checkpoint: Checkpoint) -> str:
    """Of a model that an upstream loads all that is known is its name. Blocking; raises as ``fingerprint``."""
    if checkpoint.is_elsewhere:
        return hashlib.blake2b(f"upstream\0{checkpoint.name}".encode(), digest_size=8).hexdigest()
    return fingerprint(Path(checkpoint.source))


def fingerprint(folder: Path) -> str:
    """16 hexadecimal digits of a checkpoint's settings and of samples of its weights: training changes them all.

    Blocking.

    Raises:
        WeightsError: there are no weights.
        OSError
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in _FILES:
        path = folder / name
        digest.update(path.read_bytes() if path.is_file() else b"\0")
    for shard in shards(folder):
        size = shard.stat().st_size
        digest.update(f"{shard.name} {size}\n".encode())
        with shard.open("rb") as file:
            for piece in range(_PIECES):
                file.seek(max(size - _PIECE_BYTES, 0) * piece // (_PIECES - 1))
                digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()
