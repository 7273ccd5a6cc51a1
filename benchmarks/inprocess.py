"""The engine without a server: requests of plain words go in, steps are timed."""

from __future__ import annotations

import itertools
import random
import sys
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "server"))

from qqvl_server.openmp import bound_spinning  # noqa: E402

bound_spinning()

import checkpoints  # noqa: E402
import torch  # noqa: E402

from qqvl_server.engine.build import build  # noqa: E402
from qqvl_server.engine.cache.kv_cache import kv_shape  # noqa: E402
from qqvl_server.engine.steps.request import Request, SamplingParams, Status  # noqa: E402
from qqvl_server.settings import EngineSettings, WeightsSettings  # noqa: E402
from qqvl_server.weights.load import load  # noqa: E402
from qqvl_server.weights.locate import locate  # noqa: E402

# Of prompt and reply together, as the server's default; decode steps are recorded for no more.
_CONTEXT: Final = 16384
# The largest block any kernel takes: so many tokens of the cache may be no whole block.
_BLOCK: Final = 256


class Engine:
    """``tokens`` is how many the cache holds; ``step_tokens`` how many a step may compute, of ``most`` requests.

    Built as the server builds it; ``graphs``, ``ahead`` and ``cpu_kernels`` off are its settings of those names.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str,
        dtype: str,
        tokens: int,
        step_tokens: int,
        most: int = 256,
        graphs: bool = True,
        ahead: bool = True,
        cpu_kernels: bool = True,
    ) -> None:
        settings: Any = {"device": device, "dtype": dtype}
        loaded = load(locate(str(folder), ROOT), WeightsSettings(**settings))
        self.model: Any = loaded.model
        # The layers multiply every token, the head only those that are sampled; a decode step reads both.
        self.layer_weights = sum(p.numel() for p in self.model.model.language_model.layers.parameters())
        self.weight_bytes = (self.layer_weights + self.model.lm_head.weight.numel()) * self.model.dtype.itemsize
        self.kv_bytes = kv_shape(self.model.config).bytes_per_token(self.model.dtype)
        wanted = EngineSettings(
            kv_cache_gb=tokens * self.kv_bytes / 1e9,
            step_tokens=step_tokens,
            max_running=most,
            cuda_graphs="auto" if graphs else "off",
            step_ahead="auto" if ahead else "off",
            cpu_kernels="auto" if cpu_kernels else "off",
        )
        self.core = build(self.model, wanted, min(_CONTEXT, tokens - _BLOCK))
        reader = self.reader = loaded.processor.tokenizer
        self._words = [i for word in checkpoints.vocabulary(folder) for i in reader.encode(f" {word}")]
        self._names = itertools.count()

    def add(self, prompt: int, new: int, **sampling: Any) -> Request:
        """A request of ``prompt`` words nobody has seen and ``new`` tokens to answer."""
        name = str(next(self._names))
        ids = random.Random(name).choices(self._words, k=prompt)
        request = Request(name, name, ids, SamplingParams(new, **sampling))
        self.core.add(request, {})
        return request

    def step(self) -> float:
        """Seconds of one step until its tokens are known, which they are when the device is done with it."""
        started = time.perf_counter()
        self.core.step()
        return time.perf_counter() - started

    def decode_steps(self, batch: int, context: int, steps: int, **sampling: Any) -> list[float]:
        """Seconds of each of ``steps`` steps that give ``batch`` requests of ``context`` tokens one token each."""
        requests = [self.add(context, steps + 3, **sampling) for _ in range(batch)]
        while any(request.pending != 1 or not request.output for request in requests):
            self.core.step()
        self.step()
        times = [self.step() for _ in range(steps)]
        self.clear(requests)
        return times

    def prefill(self, tokens: int) -> float:
        """Seconds that reading one prompt of ``tokens`` takes."""
        request = self.add(tokens, 1)
        seconds = 0.0
        while request.status is not Status.FINISHED:
            seconds += self.step()
        return seconds

    def clear(self, requests: list[Request]) -> None:
        for request in requests:
            self.core.abort(request)
        while self.core.has_work:
            self.core.step()


def bandwidth(device: str) -> float:
    """Bytes a second that are read from memory, the best of several passes over half a gigabyte."""
    data = torch.ones(1 << 27, device=device)
    return data.numel() * data.element_size() / _best(lambda: data.sum(), device)


def matmul_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Floating-point operations a second of a square product."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _best(lambda: left @ right, device)


def _best(work: Any, device: str) -> float:
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best
