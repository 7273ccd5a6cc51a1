"""Two single-threaded processes that average their gradients once per step.

On a machine that other programs use too, this keeps going where one process with two threads stalls: threads wait for
each other thousands of times per step, and whenever one of them loses its core both stand still.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed


def average_gradients(weights: Sequence[torch.Tensor]) -> None:
    """Replace every gradient by its mean over the team; without a team nothing happens."""
    if not distributed.is_initialized():
        return
    held = [w for w in weights if w.grad is not None]
    flat = torch.cat([w.grad.flatten() for w in held if w.grad is not None])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    start = 0
    for weight in held:
        weight.grad = flat[start : start + weight.numel()].view_as(weight)
        start += weight.numel()
