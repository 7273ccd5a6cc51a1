"""The demo's model twice: plain, as the oracle, and behind the paged engine. Float32, greedy."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image

from qqvl_server.engine.build import assemble
from qqvl_server.engine.forward.backend import Backend
from qqvl_server.engine.forward.runner import ModelRunner
from qqvl_server.engine.forward.sdpa import SdpaBackend
from qqvl_server.engine.forward.vision import Patches
from qqvl_server.engine.steps.core import EngineCore
from qqvl_server.engine.steps.request import ImageSpan, Request, SamplingParams
from qqvl_server.generation.engines.paged import PagedEngine
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import WeightsSettings
from qqvl_server.weights.load import LoadedModel, load
from qqvl_server.weights.locate import locate
from tests.pictures import picture

NEW = 10
RED = picture((255, 0, 0), "circle", (320, 256))
BLUE = picture((0, 0, 255), "star", (256, 320))
GREEN = picture((0, 160, 0), "square", (200, 200))
PROMPTS: list[list[str | Image.Image]] = [
    ["你好"],
    ["这是什么颜色？", RED],
    [RED, "和", BLUE, "第一张是什么颜色？"],
    ["这是什么颜色？", RED, "这个呢？", GREEN],
    ["今天天气很好，我们去公园散步吧。" * 6],
]


class Twins:
    """The demo's model twice: once as ``generate`` uses it, once behind the engine."""

    def __init__(self, demo: Path) -> None:
        self.plain = self._load(demo)
        self.paged = self._load(demo)
        self.processor: Any = self.plain.processor
        self.inputs = [self.inputs_of(prompt) for prompt in PROMPTS]
        self.expected = [self._generated(inputs) for inputs in self.inputs]

    def _load(self, demo: Path) -> LoadedModel:
        return load(locate(str(demo), demo.parents[1]), WeightsSettings(device="cpu", dtype="float32"))

    def inputs_of(self, parts: list[str | Image.Image]) -> Any:
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
            for part in parts
        ]
        return self.templated([{"role": "user", "content": content}])

    def templated(self, messages: list[dict[str, Any]]) -> Any:
        return self.processor.apply_chat_template(
            messages,
            tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip

    def _generated(self, inputs: Any) -> list[int]:
        whole = self.plain.model.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=None)
        tokens: list[int] = whole[0, inputs["input_ids"].shape[1] :].tolist()
        return tokens

    def backend(self, size: int) -> Backend:
        return SdpaBackend(size)

    def engine(
        self, *, blocks: int = 400, size: int = 16, tokens: int = 64, requests: int = 8, backend: Backend | None = None,
        ahead: bool = False,
    ) -> EngineCore:  # fmt: skip
        """``size`` is that of a block, for this class's own ``backend``."""
        core = assemble(
            self.paged.model, backend or self.backend(size), blocks=blocks, step_tokens=tokens, requests=requests,
            ahead=ahead,
        )  # fmt: skip
        assert isinstance(core.runner, ModelRunner)
        self.runner = core.runner
        return core

    def behind_the_port(
        self, metrics: Metrics, *, blocks: int = 400, size: int = 16, tokens: int = 64, requests: int = 8
    ) -> tuple[PagedEngine, EngineCore]:
        core = self.engine(blocks=blocks, size=size, tokens=tokens, requests=requests)
        model = self.paged.model
        return PagedEngine(core, model.config, model.generation_config, metrics, max_waiting=100, stall_s=600), core

    def request(self, name: str, inputs: Any, **sampling: Any) -> tuple[Request, dict[bytes, Patches]]:
        ids = inputs["input_ids"][0].tolist()
        spans, patches, position, offset = [], {}, 0, 0
        for grid in inputs.get("image_grid_thw", ()):
            count = int(grid.prod())
            pixels = inputs["pixel_values"][offset : offset + count]
            offset += count
            start = ids.index(self.processor.image_token_id, position)
            position = start + count // 4
            digest = hashlib.blake2b(pixels.numpy().tobytes(), digest_size=16).digest()
            spans.append(ImageSpan(start, count // 4, digest))
            patches[digest] = Patches(pixels, grid)
        return Request(name, name, ids, SamplingParams(**{"max_new_tokens": NEW, **sampling}), tuple(spans)), patches

    def run(self, engine: EngineCore, requests: list[Request]) -> list[list[int]]:
        while engine.has_work:
            engine.step()
            engine.check_integrity()
        return [request.output for request in requests]

    def add_all(self, engine: EngineCore, name: str) -> list[Request]:
        made = [self.request(f"{name}{n}", inputs) for n, inputs in enumerate(self.inputs)]
        for request, patches in made:
            engine.add(request, patches)
        return [request for request, _ in made]
