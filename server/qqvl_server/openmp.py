"""How long OpenMP's threads spin when they wait: told to the runtime before torch loads it. Knows nothing else."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

# Looks of a waiting thread before it sleeps, some tens of microseconds. GNU's runtime makes 300,000 by itself and
# LLVM's spins for 200 ms: beside a busy program they burn the time that the thread they wait for would need.
_SPINS: Final = {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "0"}
_OPERATORS: Final = ("OMP_WAIT_POLICY", *_SPINS)


def bound_spinning(env: MutableMapping[str, str] = os.environ) -> None:
    """Call it before the first ``import torch``. Leaves alone what the operator has set (``OMP_WAIT_POLICY``, …)."""
    if not any(env.get(name) for name in _OPERATORS):
        env.update(_SPINS)
