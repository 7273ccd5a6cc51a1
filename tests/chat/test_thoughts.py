"""What a thinking checkpoint thinks is neither said in QQ nor stored: a real model recites it, on both engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qqvl_server.chat.message import Answer, ChatKey, ChatKind, Incoming, Speaker, Text
from qqvl_server.chat.service import ChatService
from qqvl_server.generation.engines import choosing
from qqvl_server.generation.local import LocalVoice
from qqvl_server.generation.prompts.preprocess import Preprocessor, Prompt
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ChatSettings, EngineSettings, GenerationSettings, WeightsSettings
from qqvl_server.weights.load import load
from qqvl_server.weights.locate import locate
from tests.chat.storing import store_in
from tests.checkpoints import demo_files, open_thought, reciting
from tests.fakes import ScriptedVoice, text_of

pytestmark = pytest.mark.anyio
CHAT = ChatKey(ChatKind.GROUP, "1")


@asynccontextmanager
async def speaking(folder: Path, engine: str) -> AsyncIterator[tuple[LocalVoice[Prompt], ImageLibrary]]:
    loaded = load(locate(str(folder), folder.parent), WeightsSettings(device="cpu"))
    library = ImageLibrary(folder / "images", 10**9, ImageLimits(20_000_000, 50_000_000, 4, 64))
    settings = EngineSettings(engine=engine, kv_cache_gb=0.05)
    voice = LocalVoice(
        Preprocessor(loaded.processor, library, 64, loaded.context_tokens),
        choosing.build(loaded, settings, loaded.context_tokens, Metrics()),
        device="cpu", context_tokens=loaded.context_tokens, metrics=Metrics(),
    )  # fmt: skip
    try:
        yield voice, library
    finally:
        await voice.aclose()


async def answers(
    folder: Path, voice: LocalVoice[Prompt] | ScriptedVoice, library: ImageLibrary, longest: int = 1000
) -> tuple[Answer, list[str]]:
    """The answer to one message, and all that is stored after it."""
    async with store_in(folder) as store:
        generation = GenerationSettings(max_new_tokens=longest, temperature=0)
        service = ChatService(store, lambda: voice, library, ChatSettings(), generation, 4)
        asked = Incoming("r", CHAT, Speaker("1", "张三"), (Text("你好"),), 0.0)
        answer = await service.handle(asked, "群")
        stored = await service.messages(CHAT, before=None, limit=9)
        assert stored is not None
        return answer, ["".join(part.text for part in line.parts if isinstance(part, Text)) for line in stored]


# Whether the template opens the thought, what is recited, the most tokens, what QQ hears.
THINKING = [
    ("none", False, "你好", 1000, "你好"),
    ("closed", False, "<think>想</think>\n\n你好", 1000, "你好"),
    ("unclosed", False, "<think>想", 1000, ""),
    ("opened", True, "想</think>\n\n你好", 1000, "你好"),
    ("opened_unclosed", True, "想", 1000, ""),
    ("cut", True, "想</think>\n\n你好", 1, ""),
]


@pytest.mark.parametrize("engine", ["paged", "generate"])
@pytest.mark.parametrize(("name", "opened", "recited", "longest", "heard"), THINKING, ids=[t[0] for t in THINKING])
async def test_thoughts_are_neither_said_nor_stored(
    name: str, opened: bool, recited: str, longest: int, heard: str, engine: str, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    tokenizer = demo_files(folder)
    if opened:
        open_thought(folder)
    reciting(folder, tokenizer, tokenizer.encode(recited), after=tokenizer.encode("\n")[0])
    async with speaking(folder, engine) as (voice, library):
        answer, stored = await answers(tmp_path, voice, library, longest)
    assert (answer.reply, answer.should_reply) == (heard, bool(heard))
    assert stored == ["你好", heard] if heard else stored == ["你好"]
    assert answer.completion_tokens
    # Silence for want of room is told.
    assert [("--max-new-tokens" in line) for line in answer.warnings] == ([True] if name == "cut" else [])


@pytest.mark.parametrize(
    ("said", "heard"),
    [("<think>想</think>\n\n你好", "你好"), ("<think>想了又想", ""), ("想\n</think>\n你好", "你好")],
)
async def test_any_voices_thoughts_stay_its_own(
    said: str, heard: str, tmp_path: Path, make_library: Callable[[], ImageLibrary]
) -> None:
    voice = ScriptedVoice(lambda _: said)
    answer, stored = await answers(tmp_path, voice, make_library())
    assert answer.reply == heard
    assert "想" not in "".join(stored)
    assert all("想" not in text_of(message) for request in voice.asked for message in request.messages)


@pytest.fixture
def make_library(tmp_path: Path) -> Callable[[], ImageLibrary]:
    return lambda: ImageLibrary(tmp_path / "images", 10**9, ImageLimits(20_000_000, 50_000_000, 4, 64))
