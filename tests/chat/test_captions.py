"""Captions: written once while a chat is quiet, shown from the next cut on, gone with the picture."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from qqvl_server.chat.captions import WISH, written
from qqvl_server.chat.message import EncodedPicture, Picture
from qqvl_server.chat.service import ChatService
from qqvl_server.generation.port import GenerationRequest, ImagePart, Urgency
from tests.chat.test_turns import GROUP, last_prompt, opened, said
from tests.fakes import ScriptedVoice, text_of

pytestmark = pytest.mark.anyio
# Ten tokens a picture: the newest two as they are, then one small.
BUDGET = 60


def is_wish(request: GenerationRequest) -> bool:
    return text_of(request.messages[-1]).endswith(WISH)


def wishes(voice: ScriptedVoice) -> list[str]:
    """The pictures that captions were asked for."""
    requests = [request for request in voice.asked if is_wish(request)]
    return [part.image.sha256 for r in requests for part in r.messages[0].parts if isinstance(part, ImagePart)]


def describing() -> ScriptedVoice:
    return ScriptedVoice(lambda request: "一只[猫]。\n它在睡" if is_wish(request) else "好", context_tokens=3000)


async def show(service: ChatService, *numbers: int, at_me: bool = False) -> None:
    for number in numbers:
        picture = (EncodedPicture(f"picture {number}"),)
        await service.handle(said("", number, who=str(number % 5 + 1), parts=picture, at_me=at_me), "群")


async def quiet(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not done():
            await asyncio.sleep(0.01)


async def captions(service: ChatService) -> list[str]:
    lines = await service.messages(GROUP, before=None, limit=1000) or ()
    return [part.caption for line in lines for part in line.parts if isinstance(part, Picture)]


def counted(service: ChatService) -> float | None:
    value: float | None = service.metrics.registry.get_sample_value("qqvl_chat_captions_total")  # type: ignore[attr-defined]
    return value


async def test_pictures_that_faded_get_a_caption_once_and_it_is_shown_from_the_next_cut_on(tmp_path: Path) -> None:
    voice = describing()
    async with opened(tmp_path, voice, merge_wait_s=0, picture_tokens=BUDGET, caption_after_s=0.05) as service:
        await show(service, *range(1, 8))
        await service.handle(said("你好", 8), "群")
        shown = last_prompt(voice)
        assert "[图片]" in shown
        await quiet(lambda: len(wishes(voice)) >= 5)
        await quiet(lambda: counted(service) == 5)
        assert await captions(service) == ["一只［猫］"] * 5 + [""] * 2
        asked = next(request for request in voice.asked if is_wish(request))
        assert asked.urgency is Urgency.IDLE
        assert asked.sampling.max_new_tokens == 24
        assert [part.image.most_tokens for part in asked.messages[0].parts if isinstance(part, ImagePart)] == [64]
        # What was shown stays as it was, so that it need not be read again.
        await service.handle(said("在吗", 9), "群")
        assert last_prompt(voice).startswith(shown)
        await show(service, *range(10, 15))
        await service.handle(said("还在吗", 15), "群")
        assert last_prompt(voice).count("[图片：一只［猫］]") >= 4
        await quiet(lambda: len(wishes(voice)) >= 9)
        assert len(wishes(voice)) == len(set(wishes(voice)))


async def test_a_turn_that_begins_ends_what_is_being_written_and_it_is_written_later(tmp_path: Path) -> None:
    voice = describing()
    async with opened(tmp_path, voice, merge_wait_s=0, picture_tokens=BUDGET, caption_after_s=0.05) as service:
        await show(service, *range(1, 8))
        await service.handle(said("你好", 8), "群")
        voice.gate.clear()
        await quiet(lambda: voice.running == 1 and is_wish(voice.asked[-1]))
        asking = asyncio.create_task(service.handle(said("急", 9), "群"))
        await quiet(lambda: not is_wish(voice.asked[-1]))
        assert voice.running == 1
        voice.gate.set()
        assert (await asking).reply == "好"
        await quiet(lambda: counted(service) == 5)


async def test_captions_leave_with_what_is_recalled_or_reset(tmp_path: Path) -> None:
    voice = describing()
    async with opened(tmp_path, voice, merge_wait_s=0, picture_tokens=BUDGET, caption_after_s=0.05) as service:
        await show(service, *range(1, 8))
        await service.handle(said("你好", 8), "群")
        await quiet(lambda: counted(service) == 5)
        await service.recall(GROUP, "m1")
        assert (await captions(service)).count("一只［猫］") == 4
        await service.handle(said("/reset", 9, role="owner"), "群")
        assert await captions(service) == []
    assert "［猫］".encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())


async def test_what_cannot_be_described_is_not_asked_about_again(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda request: "。" if is_wish(request) else "好", context_tokens=3000)
    async with opened(tmp_path, voice, merge_wait_s=0, picture_tokens=BUDGET, caption_after_s=0.05) as service:
        await show(service, *range(1, 8))
        await service.handle(said("你好", 8), "群")
        await quiet(lambda: len(wishes(voice)) == 5)
        await service.handle(said("在吗", 9), "群")
        await asyncio.sleep(0.3)
        assert len(wishes(voice)) == 5
        assert not any(await captions(service))


async def test_no_captions_where_none_are_wanted(tmp_path: Path) -> None:
    voice = describing()
    async with opened(tmp_path, voice, merge_wait_s=0, picture_tokens=BUDGET, caption_after_s=0) as service:
        await show(service, *range(1, 8))
        await service.handle(said("你好", 8), "群")
        await asyncio.sleep(0.3)
    assert not wishes(voice)


@pytest.mark.parametrize(
    ("said", "caption"),
    [
        ("  这是一个红色的圆形。\n还有", "这是一个红色的圆形"),
        ("[图片] QQ:1]", "［图片］ QQ:1］"),
        ("", ""),
        ("好" * 200, "好" * 60),
    ],
)
def test_a_caption_is_one_short_line_that_passes_for_nothing_else(said: str, caption: str) -> None:
    assert written(said) == caption
