"""A group's memes on the real demo: what their pictures take, what need not be read again, and the third-last one."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from qqvl_server.chat.message import EncodedPicture, Incoming, Text
from qqvl_server.chat.service import ChatService
from qqvl_server.generation.engines import choosing
from qqvl_server.generation.local import LocalVoice
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    GenerationRequest,
    ImagePart,
    TextEvent,
    TextPart,
    Voice,
)
from qqvl_server.generation.prompts.preprocess import Preprocessor, Prompt
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ChatSettings, EngineSettings, GenerationSettings, WeightsSettings
from qqvl_server.weights.load import load
from qqvl_server.weights.locate import locate
from tests.chat.storing import store_in
from tests.chat.test_turns import said
from tests.pictures import COLOURS, base64_of, encoded, picture

pytestmark = pytest.mark.anyio
BUDGET = 800
SHAPES = ("circle", "square", "triangle", "star")


@dataclass
class Told:
    """What the model was shown for one reply, and what of it was known."""

    messages: tuple[ChatMessage, ...]
    prompt: int
    cached: int


class Overheard:
    """The voice, and what was asked of it."""

    def __init__(self, voice: LocalVoice[Prompt]) -> None:
        self._voice = voice
        self.told: list[Told] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._voice, name)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextEvent, None]:
        async for event in self._voice.generate(request):
            if isinstance(event, Finished):
                self.told.append(Told(request.messages, event.usage.prompt_tokens, event.usage.cached_tokens))
            yield event


@asynccontextmanager
async def group(folder: Path, demo: Path) -> AsyncGenerator[tuple[ChatService, Overheard], None]:
    loaded = load(locate(str(demo), demo.parents[1]), WeightsSettings(device="cpu", dtype="float32"))
    library = ImageLibrary(folder, 10**9, ImageLimits(20_000_000, 50_000_000, 4, 1024))
    metrics = Metrics()
    voice = LocalVoice(
        Preprocessor(loaded.processor, library, 1024),
        choosing.build(loaded, EngineSettings(kv_cache_gb=0.2), loaded.context_tokens, metrics),
        device=loaded.device,
        context_tokens=loaded.context_tokens,
        metrics=metrics,
    )
    overheard = Overheard(voice)
    settings = ChatSettings(merge_wait_s=0, picture_tokens=BUDGET, caption_after_s=0)
    try:
        async with store_in(folder) as store:
            generation = GenerationSettings(max_new_tokens=48, temperature=0.0)
            service = ChatService(store, lambda: as_voice(overheard), library, settings, generation, 4, metrics)
            yield service, overheard
            await service.drain(0)
    finally:
        await voice.aclose()
        library.close()


def as_voice(overheard: Overheard) -> Voice:
    return overheard  # type: ignore[return-value]


def memes() -> Iterator[tuple[str, EncodedPicture]]:
    """Endless pictures, none twice, with the word for their colour."""
    for number in itertools.count():
        word, colour = list(COLOURS.items())[number * 3 % len(COLOURS)]
        drawn = picture(colour, SHAPES[number % 4], (200 + number, 240), (240, 240, 255 - number % 50))
        yield word, EncodedPicture(base64_of(encoded(drawn)))


async def picture_tokens(voice: Voice, messages: Sequence[ChatMessage]) -> int:
    seen = [m for m in messages if any(isinstance(part, ImagePart) for part in m.parts)]
    words = [ChatMessage(m.role, tuple(part for part in m.parts if isinstance(part, TextPart))) for m in seen]
    return sum(await voice.count(seen)) - sum(await voice.count(words)) if seen else 0


async def replay(service: ChatService, voice: Overheard, shown: int, ask_each: int) -> list[bool]:
    """Show memes and ask about the third-last now and then: which answers were right."""
    right, colours = [], []
    number = 0

    async def say(parts: tuple[EncodedPicture | Text, ...], who: int, *, at_me: bool) -> str:
        nonlocal number
        number += 1
        incoming: Incoming = said("", number, who=str(who), parts=parts, at_me=at_me)
        return (await service.handle(incoming, "群")).reply

    for place, (word, meme) in enumerate(itertools.islice(memes(), shown), 1):
        colours.append(word)
        await say((meme,), 100 + place % 7, at_me=True)
        if place % ask_each == 0:
            await say((Text("哈哈哈"),), 300, at_me=False)
            asked = "倒数第三张图是什么颜色？" if place % 2 else "倒数第3张是什么颜色"
            right.append(colours[-3] in await say((Text(asked),), 200 + place % 5, at_me=True))
    return right


async def check(service: ChatService, voice: Overheard) -> None:
    for told in voice.told:
        assert await picture_tokens(as_voice(voice), told.messages) <= BUDGET + 49, "a question shows one more"
    assert sum(told.cached for told in voice.told) / sum(told.prompt for told in voice.told) >= 0.75


async def test_a_few_memes_keep_to_their_budget_and_are_not_read_again(tmp_path: Path, demo: Path) -> None:
    async with group(tmp_path, demo) as (service, voice):
        right = await replay(service, voice, 24, 8)
        await check(service, voice)
    assert sum(right) >= len(right) - 1


@pytest.mark.long
async def test_two_hundred_memes_on_the_real_demo(tmp_path: Path, demo: Path) -> None:
    async with group(tmp_path, demo) as (service, voice):
        right = await replay(service, voice, 200, 4)
        await check(service, voice)
    assert sum(right) / len(right) >= 0.9
