"""One turn from message to answer, with a voice the test controls and a real database."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.chat.message import ChatKey, ChatKind, EncodedPicture, Incoming, Quote, Speaker, Text
from qqvl_server.chat.service import ChatService
from qqvl_server.errors import Busy, DeadlineExceeded, Draining, GenerationFailed, InvalidRequest, Loading, QqvlError
from qqvl_server.generation.port import GenerationRequest, Voice
from qqvl_server.settings import ChatSettings, GenerationSettings
from tests.chat.storing import store_in
from tests.fakes import PictureShelf, ScriptedVoice, images_of, text_of

pytestmark = pytest.mark.anyio
GROUP = ChatKey(ChatKind.GROUP, "1")
PRIVATE = ChatKey(ChatKind.PRIVATE, "1")


def said(text: str, chat: ChatKey = PRIVATE, message_id: str | None = None, **extra: Any) -> Incoming:
    return Incoming("req", chat, Speaker("10001", "张三"), (Text(text),), 0.0, message_id, **extra)


def echo(request: GenerationRequest) -> str:
    return "答" + text_of(request.messages[-1])


@asynccontextmanager
async def opened(
    folder: Path, voice: Voice, chat: ChatSettings | None = None, generation: GenerationSettings | None = None
) -> AsyncIterator[ChatService]:
    async with store_in(folder) as store:
        yield ChatService(
            store, lambda: voice, PictureShelf(), chat or ChatSettings(), generation or GenerationSettings(), 4
        )


async def test_history_reaches_the_model_in_order(tmp_path: Path) -> None:
    voice = ScriptedVoice(echo)
    async with opened(tmp_path, voice, ChatSettings(system_prompt="人设")) as service:
        for text in ("一", "二", "三"):
            await service.handle(said(text), "")
    assert [text_of(m) for m in voice.asked[-1].messages] == ["人设", "一", "答一", "二", "答二", "三"]


async def test_each_prompt_is_the_last_one_plus_a_little(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice) as service:
        for turn in range(12):
            await service.handle(said(f"第{turn}句", GROUP), "群")
    prompts = [request.messages for request in voice.asked]
    for earlier, later in itertools.pairwise(prompts):
        assert later[: len(earlier)] == earlier


async def test_a_chat_is_answered_in_order_while_others_go_on(tmp_path: Path) -> None:
    voice = ScriptedVoice(echo)
    voice.gate.clear()
    async with opened(tmp_path, voice) as service:
        tasks = [asyncio.create_task(service.handle(said(f"甲{n}"), "")) for n in range(3)]
        tasks += [
            asyncio.create_task(service.handle(said(f"群{n}", ChatKey(ChatKind.GROUP, str(n))), "")) for n in range(3)
        ]
        while voice.most_running < 4:
            await asyncio.sleep(0.01)
        voice.gate.set()
        answers = await asyncio.gather(*tasks)
        assert [a.reply for a in answers[:3]] == ["答甲0", "答甲1", "答甲2"]
        assert voice.most_running == 4
        stored = await service.messages(PRIVATE, before=None, limit=100)
    assert stored is not None
    assert [m.seq for m in stored] == [1, 2, 3, 4, 5, 6]


async def test_a_repeated_message_id_gets_the_first_answer_and_runs_once(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda r: f"第{len(voice.asked)}次")
    voice.gate.clear()
    async with opened(tmp_path, voice) as service:
        together = [asyncio.create_task(service.handle(said("问", message_id="7"), "")) for _ in range(5)]
        while not voice.asked:
            await asyncio.sleep(0.01)
        voice.gate.set()
        answers = [*await asyncio.gather(*together), await service.handle(said("问", message_id="7"), "")]
        assert {a.reply for a in answers} == {"第1次"}
        other_chat = await service.handle(said("问", GROUP, message_id="7"), "")
        assert other_chat.reply == "第2次"
    async with opened(tmp_path, voice) as service:
        assert (await service.handle(said("问", message_id="7"), "")).reply == "第1次"


async def test_a_failed_turn_leaves_the_message_and_no_half_reply(tmp_path: Path) -> None:
    outcome: list[str | QqvlError] = [GenerationFailed("坏了"), "好了"]
    voice = ScriptedVoice(lambda _: outcome.pop(0))
    async with opened(tmp_path, voice) as service:
        with pytest.raises(GenerationFailed):
            await service.handle(said("问", message_id="1"), "")
        stored = await service.messages(PRIVATE, before=None, limit=10)
        assert stored is not None
        assert [(m.role, m.message_id) for m in stored] == [("user", "1")]
        assert (await service.handle(said("问", message_id="1"), "")).reply == "好了"
        stored = await service.messages(PRIVATE, before=None, limit=10)
    assert stored is not None
    assert [m.role for m in stored] == ["user", "assistant"]


async def test_a_caller_that_hangs_up_still_finds_its_answer(tmp_path: Path) -> None:
    voice = ScriptedVoice(echo)
    voice.gate.clear()
    async with opened(tmp_path, voice) as service:
        caller = asyncio.create_task(service.handle(said("问", message_id="1"), ""))
        while not voice.asked:
            await asyncio.sleep(0.01)
        caller.cancel()
        voice.gate.set()
        assert (await service.handle(said("问", message_id="1"), "")).reply == "答问"
    assert len(voice.asked) == 1


async def test_history_longer_than_the_window_never_fails(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好" * 20, context_tokens=1200)
    settings = GenerationSettings(max_new_tokens=200)
    async with opened(tmp_path, voice, ChatSettings(system_prompt="短"), settings) as service:
        for turn in range(60):
            await service.handle(said(f"{turn}" * 15), "")
        assert (await service.handle(said("长" * 5000), "")).reply
    starts = {text_of(request.messages[1]) for request in voice.asked}
    assert len(starts) < 12
    for request in voice.asked:
        assert sum(len(text_of(m)) for m in request.messages) + 200 <= 1200


async def test_the_newest_message_alone_over_the_budget_keeps_both_ends_and_the_last_pictures(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好", context_tokens=300)
    parts: tuple[Text | EncodedPicture, ...] = (
        Text("开头" + "中" * 5000 + "结尾"),
        *(EncodedPicture(str(n)) for n in range(4)),
    )
    async with opened(tmp_path, voice, ChatSettings(system_prompt="")) as service:
        await service.handle(Incoming("r", PRIVATE, Speaker("1", "a"), parts, 0.0), "")
    shown = text_of(voice.asked[0].messages[-1])
    assert shown.startswith("开头")
    assert "结尾" in shown
    assert "省略" in shown


async def test_reset_forgets_and_says_so_once(tmp_path: Path) -> None:
    voice = ScriptedVoice(echo)
    async with opened(tmp_path, voice, ChatSettings(system_prompt="")) as service:
        await service.handle(said("我叫小明"), "")
        first = await service.handle(said("/reset", message_id="9"), "")
        assert await service.messages(PRIVATE, before=None, limit=10) == ()
        await service.handle(said("在吗"), "")
        assert await service.handle(said("/reset", message_id="9"), "") == first
        assert [text_of(m) for m in voice.asked[-1].messages] == ["在吗"]
        stored = await service.messages(PRIVATE, before=None, limit=10)
        assert stored is not None
        assert len(stored) == 2
        for word in ("重置", "/重置", "@小Q /RESET"):
            assert "清空" in (await service.handle(said(word), "")).reply


async def test_pictures_that_cannot_be_read_are_told_and_do_not_spoil_the_chat(tmp_path: Path) -> None:
    voice = ScriptedVoice(echo)
    async with opened(tmp_path, voice, ChatSettings(system_prompt="")) as service:
        several: list[Text | EncodedPicture] = [EncodedPicture("more")] * 5
        mixed = (Text("看图"), EncodedPicture("bad"), EncodedPicture("good"), *several)
        answer = await service.handle(Incoming("r", PRIVATE, Speaker("1", "a"), mixed, 0.0), "")
        assert len(answer.warnings) == 2
        assert "[图片无法打开]" in text_of(voice.asked[0].messages[0])
        assert len(images_of(voice.asked[0].messages[0])) == 3
        for parts in ((EncodedPicture("bad"),), (Text("  "),), (), (Quote("x", "只有引用"),)):
            with pytest.raises(InvalidRequest):
                await service.handle(Incoming("r", PRIVATE, Speaker("1", "a"), parts, 0.0), "")
        await service.handle(said("后来"), "")
    assert len(voice.asked[-1].messages) == 3


async def test_the_same_picture_twice_is_one_picture(tmp_path: Path) -> None:
    voice = ScriptedVoice(echo)
    async with opened(tmp_path, voice, ChatSettings(system_prompt="")) as service:
        for _ in range(2):
            await service.handle(Incoming("r", PRIVATE, Speaker("1", "a"), (EncodedPicture("x"),), 0.0), "")
    first, _, second = voice.asked[-1].messages
    assert images_of(first) == images_of(second) != []


@pytest.mark.parametrize(
    ("mode", "incoming", "answered"),
    [
        ("all", said("大家好", GROUP, at_me=False), True),
        ("addressed", said("大家好", GROUP, at_me=False), False),
        ("addressed", said("大家好", GROUP), False),
        ("addressed", said("大家好", GROUP, at_me=True), True),
        ("addressed", said("小Q你看", GROUP, at_me=False), True),
        ("addressed", said("你好", PRIVATE, at_me=False), True),
        ("all", said("旧消息", GROUP, context_only=True), False),
        ("all", said("旧消息", PRIVATE, context_only=True), False),
    ],
)
async def test_who_is_answered(tmp_path: Path, mode: str, incoming: Incoming, answered: bool) -> None:
    voice = ScriptedVoice(echo)
    settings = ChatSettings.model_validate({"group_reply": mode, "bot_names": "小Q"})
    async with opened(tmp_path, voice, settings) as service:
        answer = await service.handle(incoming, "")
        assert answer.should_reply is answered
        assert bool(voice.asked) is answered
        stored = await service.messages(incoming.chat, before=None, limit=10)
    assert stored is not None
    assert stored[0].role == "user"


async def test_each_chat_may_have_its_own_system_prompt(tmp_path: Path) -> None:
    voice = ScriptedVoice(echo)
    settings = ChatSettings(system_prompt="大家", system_prompts={"group:1": "这个群"})
    async with opened(tmp_path, voice, settings) as service:
        await service.handle(said("a", GROUP), "")
        await service.handle(said("a", PRIVATE), "")
    assert [text_of(r.messages[0]) for r in voice.asked] == ["这个群", "大家"]


async def test_more_than_may_wait_are_refused_at_once(tmp_path: Path) -> None:
    voice = ScriptedVoice(echo)
    voice.gate.clear()
    async with opened(tmp_path, voice, generation=GenerationSettings(max_pending=2)) as service:
        waiting = [asyncio.create_task(service.handle(said(str(n)), "")) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Busy) as refused:
            await service.handle(said("3"), "")
        assert refused.value.retry_after >= 1
        voice.gate.set()
        await asyncio.gather(*waiting)
        assert (await service.handle(said("4"), "")).reply == "答4"


async def test_a_turn_that_takes_too_long_ends_and_frees_its_lane(tmp_path: Path) -> None:
    voice = ScriptedVoice(echo)
    voice.gate.clear()
    # The service waits one second longer than the voice should.
    async with opened(tmp_path, voice, generation=GenerationSettings(request_timeout_s=0.05)) as service:
        with pytest.raises(DeadlineExceeded):
            await service.handle(said("慢"), "")
        assert voice.running == 0
        voice.gate.set()
        assert (await service.handle(said("快"), "")).reply.endswith("快")


async def test_draining_finishes_what_it_can_and_tells_the_rest(tmp_path: Path) -> None:
    voice = ScriptedVoice(echo)
    voice.gate.clear()
    async with opened(tmp_path, voice) as service:
        stuck = asyncio.create_task(service.handle(said("一"), ""))
        while not voice.asked:
            await asyncio.sleep(0.01)
        draining = asyncio.create_task(service.drain(0.05))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await service.handle(said("二"), "")
        with pytest.raises(Draining):
            await stuck
        await draining


async def test_messages_are_refused_while_the_model_loads(tmp_path: Path) -> None:
    def loading() -> Voice:
        raise Loading("加载中", retry_after=5)

    async with store_in(tmp_path) as store:
        service = ChatService(store, loading, PictureShelf(), ChatSettings(), GenerationSettings(), 4)
        with pytest.raises(Loading):
            await service.handle(said("你好"), "")
        assert await service.messages(PRIVATE, before=None, limit=1) is None


async def test_fifty_interleaved_chats_keep_their_secrets(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda r: "|".join(text_of(m) for m in r.messages[1:]))
    async with opened(tmp_path, voice) as service:
        chats = [ChatKey(kind, str(n)) for n in range(25) for kind in ChatKind]
        for turn in range(3):
            await asyncio.gather(*(service.handle(said(f"<{chat}#{turn}>", chat), "") for chat in chats))
    for request in voice.asked:
        owners = {text.partition("#")[0].rpartition("<")[2] for text in map(text_of, request.messages[1:])}
        assert len(owners) == 1


async def test_a_picture_of_the_history_that_could_not_be_shown_is_told(tmp_path: Path) -> None:
    voice = ScriptedVoice(echo)
    async with opened(tmp_path, voice) as service:
        assert (await service.handle(said("问"), "")).warnings == ()
        voice.unseen = ("磁盘上的图片已损坏",)
        (warning,) = (await service.handle(said("再问"), "")).warnings
    assert "没有看到" in warning
    assert "磁盘上的图片已损坏" in warning
