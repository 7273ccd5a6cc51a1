"""The paged engine against ``model.generate``, token for token: float32, greedy, the demo checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qqvl_server.engine.block_pool import BlockPool
from qqvl_server.engine.core import EngineCore
from qqvl_server.engine.request import ImageSpan, Request, SamplingParams
from qqvl_server.engine.runner import ModelRunner
from qqvl_server.engine.sampler import Sampler
from qqvl_server.engine.scheduler import Scheduler
from qqvl_server.engine.vision import Patches
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


class Bench:
    """The demo's model twice: once as ``generate`` uses it, once behind the engine."""

    def __init__(self, demo: Path) -> None:
        self.plain = self._load(demo)
        self.paged = self._load(demo)
        self.processor: Any = self.plain.processor
        self.inputs = [self._inputs(prompt) for prompt in PROMPTS]
        self.expected = [self._generated(inputs) for inputs in self.inputs]

    def _load(self, demo: Path) -> LoadedModel:
        return load(locate(str(demo), demo.parents[1]), WeightsSettings(device="cpu", dtype="float32"))

    def _inputs(self, parts: list[str | Image.Image]) -> Any:
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
            for part in parts
        ]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip

    def _generated(self, inputs: Any) -> list[int]:
        whole = self.plain.model.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=None)
        tokens: list[int] = whole[0, inputs["input_ids"].shape[1] :].tolist()
        return tokens

    def engine(self, *, blocks: int = 400, size: int = 16, tokens: int = 64, requests: int = 8) -> EngineCore:
        self.runner = ModelRunner(self.paged.model, blocks=blocks, block_size=size, feature_bytes=10**8)
        scheduler = Scheduler(BlockPool(blocks, size), max_tokens=tokens, max_requests=requests)
        return EngineCore(scheduler, self.runner, Sampler("cpu"))

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


@pytest.fixture(scope="module")
def bench(demo: Path) -> Bench:
    return Bench(demo)


def test_one_at_a_time(bench: Bench) -> None:
    engine = bench.engine(tokens=2048)
    for n, inputs in enumerate(bench.inputs):
        request, patches = bench.request(str(n), inputs)
        engine.add(request, patches)
        assert bench.run(engine, [request]) == [bench.expected[n]]


@pytest.mark.parametrize(
    "shape",
    [
        {"tokens": 2048},
        {"tokens": 64},
        {"tokens": 7},
        {"tokens": 64, "size": 4},
        {"tokens": 64, "size": 8, "blocks": 40},
        {"tokens": 64, "requests": 2},
    ],
    ids=lambda shape: ",".join(f"{k}={v}" for k, v in shape.items()),
)
def test_many_at_once_in_chunks_with_preemption_and_again_from_the_cache(bench: Bench, shape: dict[str, int]) -> None:
    engine = bench.engine(**shape)
    first = bench.add_all(engine, "a")
    assert bench.run(engine, first) == bench.expected
    again = bench.add_all(engine, "b")
    assert bench.run(engine, again) == bench.expected


def test_requests_that_join_late_change_nothing(bench: Bench) -> None:
    engine = bench.engine()
    early = [bench.request(f"e{n}", bench.inputs[n]) for n in (0, 2)]
    for request, patches in early:
        engine.add(request, patches)
    for _ in range(4):
        engine.step()
    late = bench.add_all(engine, "l")
    assert bench.run(engine, late) == bench.expected
    assert [request.output for request, _ in early] == [bench.expected[0], bench.expected[2]]


def test_a_prefix_may_end_inside_a_picture(bench: Bench) -> None:
    """With blocks of 4 tokens the cached prefix of a shared picture ends in its middle."""
    engine = bench.engine(size=4)
    (request, patches) = bench.request("whole", bench.inputs[1])
    engine.add(request, patches)
    bench.run(engine, [request])
    cut = Request("cut", "cut", request.prompt[: request.images[0].start + 6], SamplingParams(1), request.images)
    ends = cut.prompt[-1]
    assert ends == bench.processor.image_token_id
    again, patches = bench.request("again", bench.inputs[1])
    engine.add(again, patches)
    assert bench.run(engine, [again]) == [bench.expected[1]]
    assert (again.cached or 0) > again.images[0].start


def test_a_picture_seen_before_is_not_looked_at_again(bench: Bench) -> None:
    engine = bench.engine(tokens=2048)
    for n in range(3):
        request, patches = bench.request(str(n), bench.inputs[1])
        request.salt = str(n).encode()
        engine.add(request, patches)
        bench.run(engine, [request])
    assert bench.runner.features.misses == 1


def test_a_seed_gives_the_same_answer_whatever_else_runs(bench: Bench) -> None:
    settings = {"temperature": 1.0, "top_p": 0.95, "seed": 7}
    alone = bench.engine()
    one, patches = bench.request("one", bench.inputs[2], **settings)
    alone.add(one, patches)
    bench.run(alone, [one])
    crowded = bench.engine()
    others = bench.add_all(crowded, "x")
    two, patches = bench.request("two", bench.inputs[2], **settings)
    crowded.add(two, patches)
    bench.run(crowded, others)
    assert two.output == one.output
