"""A turn that ends early ends the model at its next token, and the one after goes on from the blocks in the cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from qqvl_server.chat.message import Answer, ChatKey, ChatKind, Incoming, Speaker, Text
from qqvl_server.chat.service import ChatService
from qqvl_server.generation.engines import choosing
from qqvl_server.generation.local import LocalVoice
from qqvl_server.generation.prompts.preprocess import Preprocessor
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ChatSettings, EngineSettings, GenerationSettings, WeightsSettings
from qqvl_server.weights.load import load
from qqvl_server.weights.locate import locate
from tests.chat.storing import store_in
from tests.checkpoints import demo_files, reciting

pytestmark = pytest.mark.anyio
CHAT = ChatKey(ChatKind.PRIVATE, "1")
LONGEST = 400


@asynccontextmanager
async def telling_stories(folder: Path) -> AsyncIterator[tuple[ChatService, Metrics]]:
    """A real model on the paged engine that counts without end, whatever is asked."""
    tokenizer = demo_files(folder / "m")
    reciting(folder / "m", tokenizer, tokenizer.encode("一二三"), after=tokenizer.encode("\n")[0], endless=True)
    loaded = load(locate(str(folder / "m"), folder), WeightsSettings(device="cpu"))
    library = ImageLibrary(folder / "images", 10**9, ImageLimits(20_000_000, 50_000_000, 4, 64))
    generation = GenerationSettings(temperature=0, max_new_tokens=LONGEST)
    metrics = Metrics()
    voice = LocalVoice(
        Preprocessor(loaded.processor, library, 64, loaded.context_tokens),
        choosing.build(loaded, EngineSettings(kv_cache_gb=0.05), loaded.context_tokens, metrics),
        device="cpu", context_tokens=loaded.context_tokens, metrics=metrics,
    )  # fmt: skip
    try:
        async with store_in(folder) as store:
            settings = ChatSettings(system_prompt="讲故事。" * 20)
            yield ChatService(store, lambda: voice, library, settings, generation, 4, metrics), metrics
    finally:
        await voice.aclose()


def said(text: str, number: int) -> Incoming:
    message = Incoming("req", CHAT, Speaker("1", "张三"), (Text(text),), time.time())
    return replace(message, message_id=f"m{number}", self_id="7", at_me=True)


def value(metrics: Metrics, name: str) -> float:
    found = metrics.registry.get_sample_value(f"qqvl_{name}_total")
    assert found is not None
    return found


async def begun(service: ChatService, metrics: Metrics, message: Incoming) -> asyncio.Task[Answer]:
    """Its answer, when some of it is there."""
    had = value(metrics, "generation_tokens")
    task = asyncio.create_task(service.handle(message, ""))
    while value(metrics, "generation_tokens") < had + 10:
        assert not task.done()
        await asyncio.sleep(0)
    return task


async def test_nothing_is_computed_after_a_recall_or_a_stop_but_the_step_that_runs(tmp_path: Path) -> None:
    async with telling_stories(tmp_path) as (service, metrics):
        for number, end in ((1, "recall"), (2, "stop")):
            task = await begun(service, metrics, said("讲个故事", number))
            before = value(metrics, "generation_tokens")
            if end == "recall":
                await service.recall(CHAT, "m1")
            else:
                assert "不说了" in (await service.handle(said("/stop", 3), "")).reply
            assert (await task).reply == ""
            # The engine's own thread may have gone on for long before it was told.
            told = value(metrics, "generation_tokens")
            while metrics.registry.get_sample_value("qqvl_requests_running"):
                await asyncio.sleep(0.01)
            # The step that runs, and one of which nobody had heard yet.
            assert value(metrics, "generation_tokens") <= told + 2
            assert told < before + LONGEST - 20
            assert metrics.registry.get_sample_value("qqvl_chat_interruptions_total", {"reason": end}) == 1


async def test_a_follow_up_goes_on_from_the_blocks_of_the_turn_it_ended(tmp_path: Path) -> None:
    async with telling_stories(tmp_path) as (service, metrics):
        first = await begun(service, metrics, said("讲个故事", 1))
        before = value(metrics, "generation_tokens")
        cached, read = value(metrics, "prefix_cached_tokens"), value(metrics, "prompt_tokens")
        answer = await service.handle(said("要短的", 2), "")
        assert answer.completion_tokens == LONGEST
        assert (await first).merged_into == "m2"
        # All but the last blocks of the first prompt, and no token of the story it had begun.
        assert value(metrics, "prefix_cached_tokens") - cached >= read - 2 * 16
        assert value(metrics, "generation_tokens") - before <= answer.completion_tokens + 2
