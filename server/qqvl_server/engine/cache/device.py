"""How numbers get to the device and back, and what a lost or full one looks like, whichever call it surfaces in."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy
import torch
from numpy.typing import NDArray

from qqvl_server.engine.steps.batch import Chosen, NoNumbers, Sampled
from qqvl_server.engine.steps.core import OutOfMemory
from qqvl_server.errors import EngineDead

# Bytes: no type is read across what it is a multiple of.
_ALIGNED: Final = 16
_FULL: Final = re.compile(r"out.of.memory|can't allocate memory|ALLOC(ATION)?_FAILED", re.IGNORECASE)


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
    """Only CUDA's allocator has a type for it; the CPU's, and libraries that allocate by themselves, say so in words.

    cuBLAS says CUBLAS_STATUS_ALLOC_FAILED, cuDNN CUDNN_STATUS_ALLOC_FAILED and, from its ninth version on,
    …_DEVICE_ALLOCATION_FAILED; NCCL and drivers CUDA_ERROR_OUT_OF_MEMORY.
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(_FULL.search(str(error)))


def send(numbers: Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """``numbers`` as a tensor on ``device``; the host does not wait for what the device is still doing."""
    return moved(torch.tensor(numbers, dtype=dtype), device)


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """As ``send``, for a tensor in the host's memory: only out of pinned memory is it copied later, in its turn."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def moved_together(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[torch.Tensor]:
    """As ``moved``, for several: by one copy, for starting one costs more than it takes."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    return taken_apart(put_together(arrays, pinned=device.type == "cuda").to(device, non_blocking=True), arrays)


def put_together(arrays: Sequence[NDArray[Any]], *, pinned: bool) -> torch.Tensor:
    """The bytes of all, one after the other."""
    whole = torch.empty(sum(map(_room, arrays)), dtype=torch.uint8, pin_memory=pinned)
    bytes_, start = whole.numpy(), 0
    for array in arrays:
        bytes_[start : start + array.nbytes] = numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8)
        start += _room(array)
    return whole


def taken_apart(whole: torch.Tensor, arrays: Sequence[NDArray[Any]]) -> list[torch.Tensor]:
    """Views of ``whole``, each of the type and shape of one of the ``arrays`` that were put together."""
    found, start = [], 0
    for array in arrays:
        kind = torch.from_numpy(numpy.empty(0, array.dtype)).dtype
        found.append(whole[start : start + array.nbytes].view(kind).view(array.shape))
        start += _room(array)
    return found


def _room(array: NDArray[Any]) -> int:
    return -(-array.nbytes // _ALIGNED) * _ALIGNED


def _arriving(tensor: torch.Tensor) -> torch.Tensor:
    """On its way to the host, which may read it once an event recorded after this has come."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


class OnDevice:
    """Sampled ``tokens`` (N,) and the ``best`` score of each row, on their way to the host while the device goes on."""

    def __init__(self, tokens: torch.Tensor, best: torch.Tensor) -> None:
        self.tokens = tokens
        self._arriving, self._arrived = (tokens, best), None
        if tokens.is_cuda:
            self._arriving = _arriving(tokens), _arriving(best)
            self._arrived = torch.cuda.current_stream(tokens.device).record_event()

    @watched()
    def wait(self) -> Sampled:
        """A row of which the best score is no number has none at all. Raises as ``watched`` does."""
        if self._arrived is not None:
            self._arrived.synchronize()
        tokens, best = (t.tolist() for t in self._arriving)
        return [Chosen(t) if math.isfinite(score) else NoNumbers() for t, score in zip(tokens, best, strict=True)]
