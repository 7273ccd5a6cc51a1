"""How much memory a checkpoint takes. Pure arithmetic, no torch: asked before anything is loaded."""

from __future__ import annotations

from typing import Final

GIB: Final = 1024**3
# Below this a checkpoint gains nothing from half precision on a CPU and loses digits.
SMALL_BYTES: Final = 1 * GIB
_SHARES: Final = {"bnb-4bit": 0.35, "bnb-8bit": 0.6}


def needed(weight_bytes: int, quantization: str, *, is_float32: bool, packed_bytes: int = 0) -> float:
    """Bytes of memory; published checkpoints are bf16, and room for one conversation is the least that works.

    ``packed_bytes`` of the weights stay as they are, whatever the dtype.
    """
    share = _SHARES.get(quantization, 2.0 if is_float32 else 1.0)
    return (packed_bytes + (weight_bytes - packed_bytes) * share) * 1.05
