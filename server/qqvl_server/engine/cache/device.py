"""How numbers get to the device and back, and what a lost or full one looks like, whichever call it surfaces in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from qqvl_server.engine.steps.batch import Chosen, Sampled
from qqvl_server.engine.steps.core import OutOfMemory
from qqvl_server.errors import EngineDead


@contextmanager
def watched() -> Iterator[None]:
    """What torch raises, told in the engine's terms: the one place that knows what it looks like.

    Raises:
        OutOfMemory: a smaller step may fit.
        EngineDead: the device is lost, and nothing succeeds in this process any more.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if _is_out_of_memory(error):
            raise OutOfMemory from error
        if isinstance(error, torch.AcceleratorError):
            raise EngineDead("显卡出错，模型已不能工作，服务将退出以便重启") from error
        raise


def _is_out_of_memory(error: Exception) -> bool:
    """Only CUDA's allocator has a type for it; the CPU's, and whatever allocates by itself, say so in words."""
    said = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "out of memory" in said or "can't allocate memory" in said
    )


def send(numbers: Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """``numbers`` as a tensor on ``device``; the host does not wait for what the device is still doing."""
    return moved(torch.tensor(numbers, dtype=dtype), device)


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """As ``send``, for a tensor in the host's memory: only out of pinned memory is it copied later, in its turn."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class OnDevice:
    """Sampled ``tokens`` (N,), on their way to the host while the device goes on."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens
        self._arriving, self._arrived = tokens, None
        if tokens.is_cuda:
            self._arriving = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            self._arriving.copy_(tokens, non_blocking=True)
            self._arrived = torch.cuda.current_stream(tokens.device).record_event()

    @watched()
    def wait(self) -> Sampled:
        """Raises as ``watched`` does."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [Chosen(token) for token in self._arriving.tolist()]
