"""A card to be measured: random models made on it, engines around them, and the report of what was found."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from checkpoints import SIZES
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from qqvl_server.engine import build
from qqvl_server.engine.cache.kv_cache import kv_dtype, kv_shape
from qqvl_server.engine.cpu.kernels import text_shape
from qqvl_server.engine.cuda.backend import CudaBackend, Recording
from qqvl_server.engine.cuda.graphs import CudaCapture
from qqvl_server.engine.cuda.trial import Trial
from qqvl_server.engine.cuda.varlen import LIBRARIES
from qqvl_server.engine.forward.backend import Backend
from qqvl_server.engine.forward.sdpa import SdpaBackend
from qqvl_server.engine.forward.vision import Patches
from qqvl_server.engine.steps.core import EngineCore
from qqvl_server.engine.steps.request import ImageSpan, Request, SamplingParams
from qqvl_server.settings import EngineSettings
from qqvl_server.weights import devices

# As Qwen3-VL's own generation_config wishes.
_WISHES: Final[dict[str, Any]] = {"temperature": 0.7, "top_k": 20, "top_p": 0.8}
CONTEXT: Final = 8192
IMAGE: Final = 151_655
_SIDE: Final = 32


class Report:
    """What was found, by part; ``seconds`` is the time there is for all of them."""

    def __init__(self, out: Path | None, seconds: float) -> None:
        self.found: dict[str, Any] = {}
        self._out, self._end = out, time.monotonic() + seconds

    @contextmanager
    def part(self, name: str) -> Iterator[dict[str, Any]]:
        began, rows = time.monotonic(), self.found.setdefault(name, {})
        try:
            yield rows
        except Exception as failed:
            # The edge of a part: the others may still find something out.
            rows["failed"] = f"{type(failed).__name__}: {' '.join(str(failed).split())[:400]}"
        rows["seconds"] = round(time.monotonic() - began, 1)
        print(f"\n## {name}")
        for key, value in rows.items():
            print(f"{key:<34} {value}")
        if self._out is not None:
            self._out.write_text(json.dumps(self.found, ensure_ascii=False, indent=1), encoding="utf-8")

    @property
    def time_left(self) -> bool:
        return time.monotonic() < self._end


class Card:
    """The device that is measured, models on it, and what they are asked."""

    def __init__(self, device: str, size: str, quick: bool) -> None:
        self.device = torch.device(device)
        self.is_card = self.device.type == "cuda"
        self._size, self.quick = size, quick
        self._names = itertools.count()

    def sync(self) -> None:
        if self.is_card:
            torch.cuda.synchronize(self.device)

    def milliseconds(self, work: Callable[[], object], times: int = 20) -> float:
        """The median of ``times``, after one."""
        found = []
        for _ in range(times + 1):
            began = time.perf_counter()
            work()
            self.sync()
            found.append((time.perf_counter() - began) * 1e3)
        return round(statistics.median(found[1:]), 3)

    def model(self) -> Any:
        """Random weights, made where they stay."""
        text, vision = SIZES[self._size]
        config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=text["tie_word_embeddings"])
        config.image_token_id = IMAGE
        machine = devices.survey()
        dtype = devices.dtype(str(self.device), machine) if self.is_card else torch.float32
        torch.set_default_dtype(dtype)
        try:
            with self.device:
                made = Qwen3VLForConditionalGeneration(config).eval()
        finally:
            torch.set_default_dtype(torch.float32)
        return made.requires_grad_(False)

    def engine(self, model: Any, **wishes: Any) -> EngineCore:
        context = 1024 if self.quick else CONTEXT
        granted = {"kv_cache_gb": 0.2} if self.quick else {}
        settings: dict[str, Any] = {"cpu_kernels": "off", "max_running": 64, **granted, **wishes}
        return build.build(model, EngineSettings(**settings), context)

    def by_libraries(self, model: Any) -> EngineCore:
        """Transformers' own layers, attention by what PyTorch or flash-attn has; recorded all the same."""
        kv, dtype = kv_shape(model.config), kv_dtype(model)
        trial = Trial(self.device, dtype, kv, text_shape(model.config, kv).heads, 64, CONTEXT)
        found = build.attention_kernel(trial, LIBRARIES) if self.is_card else None
        backend: Backend = SdpaBackend()
        if found is not None:
            recording = Recording(CudaCapture(self.device), 64, CONTEXT)
            backend = CudaBackend(found.attend, found.block_size, name=found.name, recording=recording)
        tokens = 20_000 if self.quick else 100_000
        return build.assemble(
            model, backend, blocks=tokens // backend.block_size, step_tokens=1024, requests=64, ahead=self.is_card
        )

    def request(self, prompt: int, new: int, *, pictures: int = 0, **wishes: Any) -> tuple[Request, dict[bytes, Any]]:
        """Words nobody has seen, and random pictures of 256 tokens before them."""
        name = str(next(self._names))
        dice, shown = random.Random(name), (_SIDE // 2) ** 2
        spans, patches, ids = [], {}, [7]
        for n in range(pictures):
            digest = f"{name}/{n}".encode()
            spans.append(ImageSpan(len(ids), shown, digest))
            pixels = torch.randn(_SIDE * _SIDE, 3 * 2 * 16 * 16)
            patches[digest] = Patches(pixels, torch.tensor([1, _SIDE, _SIDE]))
            ids += [IMAGE] * shown + [8]
        ids += dice.choices(range(1000, 100_000), k=prompt)
        return Request(name, name, ids, SamplingParams(new, **{**_WISHES, **wishes}), tuple(spans)), patches
