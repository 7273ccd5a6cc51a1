"""What a chat's pictures cost, which of them is meant, and what they are called."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.chat.message import EncodedPicture, Quote, Text
from qqvl_server.chat.pointing import from_the_end
from qqvl_server.generation.port import ChatMessage, ImagePart, TextPart
from tests.chat.test_turns import PRIVATE, last_prompt, opened, said
from tests.fakes import ScriptedVoice, images_of, text_of

pytestmark = pytest.mark.anyio
FULL, BUDGET = 256, 4096


def name_of(data: str) -> str:
    return hashlib.sha256(data.encode()).hexdigest()


class Seeing(ScriptedVoice):
    """A picture is 256 tokens, or as many as it may."""

    async def count(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        return tuple(map(tokens_of, messages))


def picture_tokens(message: ChatMessage) -> int:
    return sum(min(FULL, part.image.most_tokens or FULL) for part in message.parts if isinstance(part, ImagePart))


def tokens_of(message: ChatMessage) -> int:
    return 5 + picture_tokens(message) + sum(len(part.text) for part in message.parts if isinstance(part, TextPart))


@pytest.mark.long
async def test_two_hundred_memes_stay_within_their_budget_and_most_of_each_prompt_is_known(tmp_path: Path) -> None:
    voice = Seeing(lambda _: "哈哈，这张不错。", context_tokens=32_000)
    async with opened(tmp_path, voice, merge_wait_s=0, picture_tokens=BUDGET) as service:
        for number in range(200):
            meme = (EncodedPicture(f"meme {number}"), Text("看这个"))
            await service.handle(said("", number, who=str(number % 7), parts=meme), "群")
    assert len(voice.asked) == 200
    known = total = 0
    before: tuple[ChatMessage, ...] = ()
    for asked in voice.asked:
        assert sum(map(picture_tokens, asked.messages)) <= BUDGET
        newest = [part for part in asked.messages[-1].parts if isinstance(part, ImagePart)]
        assert [part.image.most_tokens for part in newest] == [0]
        same = next((n for n, (a, b) in enumerate(zip(before, asked.messages, strict=False)) if a != b), len(before))
        known += sum(map(tokens_of, asked.messages[:same]))
        total += sum(map(tokens_of, asked.messages))
        before = asked.messages
    assert known / total >= 0.75
    shown = [
        part.image.most_tokens for m in voice.asked[-1].messages for part in m.parts if isinstance(part, ImagePart)
    ]
    assert 0 in shown
    assert 64 in shown
    assert "[图片]" in last_prompt(voice)


async def test_a_message_with_more_pictures_than_the_budget_is_seen_whole(tmp_path: Path) -> None:
    voice = Seeing(lambda _: "好", context_tokens=32_000)
    async with opened(tmp_path, voice, merge_wait_s=0, picture_tokens=600) as service:
        await service.handle(said("", 1, parts=(EncodedPicture("old"),)), "群")
        four = tuple(EncodedPicture(f"picture {number}") for number in range(4))
        await service.handle(said("", 2, parts=four), "群")
    assert picture_tokens(voice.asked[-1].messages[-1]) == 4 * FULL
    assert not images_of(voice.asked[-1].messages[0])


async def test_several_pictures_of_one_go_have_numbers(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice, merge_wait_s=0) as service:
        await service.handle(said("", 1, parts=(EncodedPicture("a"),), at_me=False), "群")
        await service.handle(said("", 2, parts=(EncodedPicture("x"),), who="9", at_me=False), "群")
        await service.handle(said("", 3, parts=(EncodedPicture("b"), EncodedPicture("c")), at_me=False), "群")
        await service.handle(said("第二张是什么", 4), "群")
        assert list(map(text_of, voice.asked[-1].messages)) == [
            "[名10001 QQ:10001] <image>",
            "[名9 QQ:9] <image>",
            "[名10001 QQ:10001] （第 2 张图）<image>（第 3 张图）<image>",
            "[名10001 QQ:10001] 第二张是什么",
        ]
        # After an answer it begins anew, with the first where a message holds several.
        await service.handle(said("", 5, parts=(EncodedPicture("d"), EncodedPicture("e"))), "群")
        assert text_of(voice.asked[-1].messages[-1]).endswith("] （第 1 张图）<image>（第 2 张图）<image>")
        # What is quoted has none, and takes none from what is shown.
        quoting = (Quote("李四", "图"), EncodedPicture("d", quoted=True), Text("和这张比"), EncodedPicture("f"))
        await service.handle(said("", 6, parts=quoting), "群")
        assert text_of(voice.asked[-1].messages[-1]).endswith("> 引用 李四: 图\n<image>和这张比<image>")
        both = (*quoting, EncodedPicture("g"))
        # Nobody who alternates with a bot alone is taken for a person.
        await service.handle(said("嗯", 8, who="5", at_me=False), "群")
        await service.handle(said("", 7, parts=both), "群")
        assert text_of(voice.asked[-1].messages[-1]).endswith(
            "图\n<image>和这张比（第 1 张图）<image>（第 2 张图）<image>"
        )


async def test_the_bare_interface_sees_one_picture_as_ever_and_several_with_numbers(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    bare: dict[str, Any] = {"chat": PRIVATE, "message_id": None, "self_id": None, "self_names": (), "at_me": None}
    async with opened(tmp_path, voice, merge_wait_s=0) as service:
        for number in (1, 2):
            await service.handle(said("", number, parts=(Text("看"), EncodedPicture(f"{number}")), **bare), "")
        await service.handle(
            said("", 3, parts=(Text("第二张呢"), EncodedPicture("3"), EncodedPicture("4")), **bare), ""
        )
    assert [text_of(message) for message in voice.asked[-1].messages if message.role == "user"] == [
        "看<image>",
        "看<image>",
        "第二张呢（第 1 张图）<image>（第 2 张图）<image>",
    ]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("倒数第三张图是什么颜色？", 3),
        ("倒数第3张呢", 3),
        ("倒数第 2 幅", 2),
        ("倒数第十个表情", 10),
        ("What is the third-last picture?", 3),
        ("the second to last image", 2),
        ("the fourth picture from the end", 4),
        ("最后一张图", 1),
        ("我考了倒数第三", 0),
        ("倒数第二个人是谁", 0),
        ("第三张呢", 0),
        ("my last word", 0),
    ],
)
def test_which_picture_from_the_end_words_name(text: str, number: int) -> None:
    assert from_the_end(text) == number


async def test_a_picture_named_by_its_place_from_the_end_is_shown_again(tmp_path: Path) -> None:
    """Whoever showed it, and however it is shown by now: there the model need not count."""
    voice = ScriptedVoice(lambda _: "好", context_tokens=3000)
    async with opened(tmp_path, voice, merge_wait_s=0, picture_tokens=20) as service:
        for number in range(1, 9):
            pictures = (EncodedPicture(f"{number}"), EncodedPicture(f"{number}b"))[: 1 + (number == 7)]
            await service.handle(said("", number, who=str(number % 3 + 5), parts=pictures, at_me=False), "群")

        async def shown_for(number: int, text: str) -> tuple[list[str], str]:
            await service.handle(said("嗯", 100 + number, who="5", at_me=False), "群")
            await service.handle(said(text, number), "群")
            return images_of(voice.asked[-1].messages[-1]), text_of(voice.asked[-1].messages[-1])

        shown, text = await shown_for(10, "倒数第三张是什么颜色？")
        assert shown == [name_of("7")]
        assert text == "[名10001 QQ:10001] > 引用 名6: [图片]（倒数第 3 张图）\n<image>倒数第三张是什么颜色？"
        # What was shown again counts no second time.
        assert (await shown_for(11, "what was on the fourth-last picture?"))[0] == [name_of("6")]
        assert (await shown_for(12, "最后一张图呢"))[0] == [name_of("8")]
        assert (await shown_for(13, "倒数第三十张呢"))[0] == []
        await service.handle(said("", 14, parts=(EncodedPicture("new"),)), "群")
        await service.handle(said("", 15, parts=(EncodedPicture("newest"),), at_me=False), "群")
        # It stands right before.
        await service.handle(said("最后一张图呢", 16), "群")
        assert images_of(voice.asked[-1].messages[-1]) == []


async def test_the_speakers_own_picture_comes_with_words_that_point_at_one(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice, merge_wait_s=0) as service:
        await service.handle(said("", 1, parts=(EncodedPicture("mine"),), at_me=False), "群")
        await service.handle(said("", 2, parts=(EncodedPicture("yours"),), who="9", at_me=False), "群")

        async def seen(number: int, text: str, *, who: str = "10001", quoted: str = "") -> list[str]:
            # Nobody who alternates with a bot alone is taken for a person.
            await service.handle(said("嗯", 100 + number, who="5", at_me=False), "群")
            parts = (Quote("李四", "图"), EncodedPicture(quoted, quoted=True), Text(text)) if quoted else (Text(text),)
            answer = await service.handle(said("", number, who=who, parts=parts), "群")
            assert answer.reason == "addressed"
            return images_of(voice.asked[-1].messages[-1])

        pointing = await seen(3, "上面的图里有什么")
        assert pointing == images_of(voice.asked[-1].messages[0]) != []
        assert text_of(voice.asked[-1].messages[-1]).startswith("[名10001 QQ:10001] > 引用 名10001: [图片]\n<image>")
        assert await seen(4, "今天天气好") == []
        assert len(await seen(5, "这张图呢", quoted="quoted")) == 1
        # Who showed none has none.
        assert await seen(6, "这张图好看吗", who="77") == []


async def test_a_picture_right_before_the_words_is_not_shown_twice(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice, merge_wait_s=0) as service:
        await service.handle(said("", 1, parts=(EncodedPicture("new"),), at_me=False), "群")
        await service.handle(said("这张图呢", 2), "群")
        assert list(map(len, map(images_of, voice.asked[-1].messages))) == [1, 0]


async def test_a_recalled_picture_leaves_also_where_words_pointed_at_it(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice, merge_wait_s=0) as service:
        shown = replace(said("", 1, parts=(EncodedPicture("mine"),), at_me=False), sent_at=time.time())
        await service.handle(shown, "群")
        await service.handle(said("哈哈", 2, who="9", at_me=False), "群")
        await service.handle(said("刚才的图怎么样", 3), "群")
        assert images_of(voice.asked[-1].messages[-1])
        await service.recall(shown.chat, "m1")
        await service.handle(said("你好", 4), "群")
        assert not any(map(images_of, voice.asked[-1].messages))
