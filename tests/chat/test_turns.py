"""Messages that share a turn, turns that end early, recalls, and whom the bot leaves alone: with a scripted voice."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.chat.message import Answer, ChatKey, ChatKind, EncodedPicture, Incoming, Quote, Speaker, Text
from qqvl_server.chat.service import ChatService
from qqvl_server.errors import GenerationFailed, InvalidRequest
from qqvl_server.generation.port import GenerationRequest
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ChatSettings, GenerationSettings
from tests.chat.storing import store_in
from tests.fakes import PictureShelf, ScriptedVoice, images_of, text_of

pytestmark = pytest.mark.anyio
GROUP = ChatKey(ChatKind.GROUP, "1")
PRIVATE = ChatKey(ChatKind.PRIVATE, "10001")
PIC = EncodedPicture("a picture")


def said(text: str, number: int, *, who: str = "10001", chat: ChatKey = GROUP, **more: Any) -> Incoming:
    """A line as our client posts it: it tells ids, time, and that the bot is mentioned."""
    parts = (Text(text),) if text else ()
    mine: dict[str, Any] = {"message_id": f"m{number}", "self_id": "7", "self_names": ("小助手", ""), "at_me": True}
    return replace(Incoming("req", chat, Speaker(who, f"名{who}"), parts, time.time()), **(mine | more))


def shown(number: int, **more: Any) -> Incoming:
    return said("", number, parts=(PIC,), **more)


@asynccontextmanager
async def opened(folder: Path, voice: ScriptedVoice, **chat: Any) -> AsyncIterator[ChatService]:
    async with store_in(folder) as store:
        settings = ChatSettings(**{"merge_wait_s": 0.1, "system_prompt": "", "caption_after_s": 0} | chat)
        metrics = Metrics()
        service = ChatService(store, lambda: voice, PictureShelf(), settings, GenerationSettings(), 4, metrics)
        service.metrics = metrics  # type: ignore[attr-defined]
        service.ended = lambda reason: metrics.registry.get_sample_value(  # type: ignore[attr-defined]
            "qqvl_chat_interruptions_total", {"reason": reason}
        )
        yield service
        await service.drain(0)


def last_prompt(voice: ScriptedVoice) -> str:
    return "\n".join(map(text_of, voice.asked[-1].messages))


def post(service: ChatService, *messages: Incoming) -> list[asyncio.Task[Answer]]:
    return [asyncio.create_task(service.handle(message, "群")) for message in messages]


async def running(voice: ScriptedVoice, asked: int = 1) -> None:
    while len(voice.asked) < asked or not voice.running:
        await asyncio.sleep(0.005)


async def history(service: ChatService, chat: ChatKey = GROUP) -> list[str]:
    lines = await service.messages(chat, before=None, limit=1000) or ()
    return ["".join(p.text for p in m.parts if isinstance(p, Text)) for m in lines]


def count(service: ChatService, reason: str) -> float | None:
    return service.ended(reason)  # type: ignore[attr-defined, no-any-return]


# Merging ---------------------------------------------------------------------------------------------------


async def test_twenty_mentions_at_once_have_three_replies_at_most_and_the_last_saw_all(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice, merge_wait_s=8) as service:
        tasks = []
        for number in range(20):
            tasks += post(service, said(f"第{number}问", number, who=str(100 + number)))
            await asyncio.sleep(0.025)
        answers = await asyncio.gather(*tasks)
        replied = [number for number, answer in enumerate(answers) if answer.should_reply]
        assert 1 <= len(replied) <= 3
        assert replied[-1] == 19
        assert all(f"第{number}问" in last_prompt(voice) for number in range(20))
        for number, answer in enumerate(answers):
            if number not in replied:
                assert (answer.reply, answer.reason) == ("", "merged")
                assert answer.merged_into == f"m{min(n for n in replied if n > number)}"
        assert len(await history(service)) == 20 + len(replied)


async def test_a_resend_of_a_merged_message_is_told_where_it_went_also_after_a_restart(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    first, second = said("一", 1), said("二", 2)
    async with opened(tmp_path, voice) as service:
        told = await asyncio.gather(*post(service, first, second))
    assert [answer.merged_into for answer in told] == ["m2", None]
    async with opened(tmp_path, voice) as service:
        assert [await service.handle(message, "") for message in (first, second)] == told
    assert len(voice.asked) == 1


@pytest.mark.parametrize("chat", [GROUP, PRIVATE])
@pytest.mark.parametrize("picture_first", [True, False])
async def test_a_picture_and_its_question_have_one_reply_that_saw_both(
    tmp_path: Path, chat: ChatKey, picture_first: bool
) -> None:
    voice = ScriptedVoice(lambda _: "红色")
    pair = [shown(1, chat=chat), said("什么颜色", 2, chat=chat)]
    async with opened(tmp_path, voice, merge_wait_s=5) as service:
        tasks = []
        for message in pair if picture_first else pair[::-1]:
            tasks += post(service, message)
            await asyncio.sleep(0.1)
        answers = await asyncio.gather(*tasks)
    assert [answer.should_reply for answer in answers] == [False, True]
    assert len(voice.asked) == 1
    assert "什么颜色" in last_prompt(voice)
    assert sum(len(images_of(message)) for message in voice.asked[0].messages) == 1


async def test_a_call_alone_waits_for_what_follows_though_that_calls_nobody(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "星期三")
    async with opened(tmp_path, voice, merge_wait_s=5) as service:
        (call,) = post(service, said("@小助手 ", 1))
        await asyncio.sleep(0.1)
        # Others talk and ask meanwhile, and are not kept waiting.
        assert (await service.handle(said("哈哈", 2, who="3", at_me=False), "")).reason == "silent"
        assert (await service.handle(said("你好", 3, who="4"), "")).reply == "星期三"
        assert not call.done()
        answer = await service.handle(said("今天星期几", 4, at_me=False), "")
        assert (answer.reply, answer.reason) == ("星期三", "addressed")
        assert ((await call).reason, (await call).merged_into) == ("merged", "m4")
    assert len(voice.asked) == 2


@pytest.mark.parametrize("saying", [
    lambda: shown(1), lambda: said("@小助手 ", 1), lambda: said("小助手，", 1, at_me=False),
])  # fmt: skip
async def test_what_nothing_follows_is_answered_after_its_wait(tmp_path: Path, saying: Callable[[], Incoming]) -> None:
    # Made now: what was made with the table of tests is stale once others have run for minutes.
    alone = saying()
    voice = ScriptedVoice(lambda _: "在")
    async with opened(tmp_path, voice, merge_wait_s=0.2) as service:
        began = time.monotonic()
        assert (await service.handle(alone, "群")).reply == "在"
        assert time.monotonic() - began >= 0.2


def without_ids(message: Incoming) -> Incoming:
    return replace(message, message_id=None, self_id=None, at_me=None, sent_at=1.0)


async def test_the_bare_client_has_a_reply_to_each_at_once(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda r: "答" + text_of(r.messages[-1])[-2:])
    bare = [without_ids(said(f"问{number}", number, from_bot=False)) for number in range(6)]
    async with opened(tmp_path, voice, merge_wait_s=60, known_bots=("10001",)) as service:
        answers = await asyncio.gather(*post(service, *bare))
        assert [answer.reply for answer in answers] == [f"答问{number}" for number in range(6)]
        assert {answer.reason for answer in answers} == {"always"}
        assert (await service.handle(without_ids(shown(9)), "")).should_reply
        assert (await service.handle(without_ids(said("停止", 10)), "")).reply == "答停止"
        one_by_one = [await service.handle(message, "") for message in bare]
        assert all(answer.should_reply for answer in one_by_one)


async def test_one_bad_message_of_a_turn_is_told_and_the_others_answered(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    bad = said("", 1, parts=(EncodedPicture("bad"),))
    async with opened(tmp_path, voice) as service:
        first, second = await asyncio.gather(*post(service, bad, said("在吗", 2)), return_exceptions=True)
        assert isinstance(first, InvalidRequest)
        assert isinstance(second, Answer)
        assert second.reply == "好"


async def test_a_turn_that_fails_is_told_to_all_and_made_again_by_their_resends(tmp_path: Path) -> None:
    failing = [GenerationFailed("坏了")]
    voice = ScriptedVoice(lambda _: failing.pop() if failing else "好")
    pair = (said("一", 1, who="1"), said("二", 2, who="2"))
    async with opened(tmp_path, voice) as service:
        failed = await asyncio.gather(*post(service, *pair), return_exceptions=True)
        assert [type(error) for error in failed] == [GenerationFailed] * 2
        again = await asyncio.gather(*post(service, *pair))
        assert [answer.reply for answer in again] == ["", "好"]
        assert await history(service) == ["一", "二", "好"]


async def test_a_command_is_a_turn_of_its_own_in_its_place(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda r: str(len(r.messages)))
    async with opened(tmp_path, voice, owners=("10001",)) as service:
        lines = (said("一", 1), said("/reset", 2), said("二", 3))
        answers = await asyncio.gather(*post(service, *lines))
        assert [answer.reason for answer in answers] == ["addressed", "command", "addressed"]
        assert await history(service) == ["二", "1"]


# Interrupting ----------------------------------------------------------------------------------------------


async def test_a_follow_up_ends_the_answer_and_is_answered_with_what_it_follows(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "北京晴")
    voice.gate.clear()
    async with opened(tmp_path, voice, merge_wait_s=60) as service:
        (first,) = post(service, said("今天天气", 1))
        await running(voice)
        (second,) = post(service, said("北京的", 2, at_me=False))
        await running(voice, asked=2)
        assert voice.running == 1
        voice.gate.set()
        assert ((await second).reply, (await second).reason) == ("北京晴", "addressed")
        assert ((await first).reply, (await first).merged_into) == ("", "m2")
        assert await history(service) == ["今天天气", "北京的", "北京晴"]
        assert count(service, "follow_up") == 1
    # Its prompt is the first one and what came behind it, so that the cache serves it.
    before, after = (request.messages for request in voice.asked)
    assert after[: len(before)] == before


async def test_anothers_question_waits_and_who_talks_on_and_on_is_answered_in_the_end(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    voice.gate.clear()
    async with opened(tmp_path, voice) as service:
        tasks = post(service, said("一", 1))
        await running(voice)
        tasks += post(service, said("我也问", 100, who="2"))
        await asyncio.sleep(0.05)
        assert len(voice.asked) == 1
        for number in range(2, 8):
            tasks += post(service, said(f"第{number}句", number))
            await asyncio.sleep(0.1)
        assert len(voice.asked) == 1 + 3
        voice.gate.set()
        answers = await asyncio.gather(*tasks)
        assert sum(answer.should_reply for answer in answers) == 2
        assert len(await history(service)) == 8 + 2


@pytest.mark.parametrize(
    ("by", "stopped"),
    [({}, True), ({"who": "2", "role": "admin"}, True), ({"who": "99"}, True), ({"who": "2", "role": "member"}, False)],
)
async def test_stop_ends_the_answer_at_once_for_those_who_may(
    tmp_path: Path, by: dict[str, Any], stopped: bool
) -> None:
    voice = ScriptedVoice(lambda _: "很长的故事")
    voice.gate.clear()
    async with opened(tmp_path, voice, owners=("99",)) as service:
        (story,) = post(service, said("讲个故事", 1))
        await running(voice)
        command = said("/stop", 2, **by)
        told = await service.handle(command, "")
        assert (told.should_reply, told.reason) == (True, "command")
        assert ("不说了" in told.reply) is stopped
        voice.gate.set()
        answer = await story
        assert (answer.reply, answer.reason) == (("", "silent") if stopped else ("很长的故事", "addressed"))
        assert count(service, "stop") == (1 if stopped else None)
        # A resend of either starts and stops nothing.
        assert await service.handle(command, "") == told
        assert "/stop" not in await history(service)
    assert len(voice.asked) == 1


async def test_stop_is_talk_when_it_is_not_said_to_the_bot(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    voice.gate.clear()
    async with opened(tmp_path, voice) as service:
        (first,) = post(service, said("讲个故事", 1))
        await running(voice)
        (second,) = post(service, said("停止", 2, who="2", at_me=False))
        voice.gate.set()
        assert (await first).reply == "好"
        assert (await second).reason == "silent"
        assert "没有" in (await service.handle(said("/stop", 3), "")).reply


# Recall ----------------------------------------------------------------------------------------------------


async def test_a_recalled_message_leaves_with_its_answer_and_what_quotes_it(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "你的密码是swordfish")
    quoting = said("真的？", 3, who="2", parts=(Quote("名10001", "密码swordfish", "m1"), Text("真的？")), at_me=False)
    quoting_us = replace(quoting, message_id="m4", parts=(Quote("bot", "swordfish", "s1"), Text("哦")))
    async with opened(tmp_path, voice) as service:
        await service.handle(said("早", 0, who="3", at_me=False), "")
        await service.handle(replace(shown(1), parts=(Text("密码swordfish"), PIC)), "")
        assert await service.sent(GROUP, "m1", ["s1", "s2"]) == ()
        assert await service.sent(GROUP, "m1", ["s2", "s3"]) == ()
        await service.handle(quoting, "")
        await service.handle(quoting_us, "")
        assert await service.recall(GROUP, "m1") == ("s1", "s2", "s3")
        assert await service.recall(GROUP, "m1") == ("s1", "s2", "s3")
        assert await history(service) == ["早", "真的？", "哦"]
        for file in tmp_path.glob("qqvl.sqlite3*"):
            assert b"swordfish" not in file.read_bytes()
        await service.handle(said("在吗", 5, who="3"), "")
        assert "swordfish" not in last_prompt(voice)
        assert not any(map(images_of, voice.asked[-1].messages))


async def test_what_was_said_to_a_recalled_command_leaves_too(tmp_path: Path) -> None:
    async with opened(tmp_path, ScriptedVoice(lambda _: "好")) as service:
        told = (await service.handle(said("/model", 1), "")).reply
        assert told
        await service.recall(GROUP, "m1")
        for file in tmp_path.glob("qqvl.sqlite3*"):
            assert told.splitlines()[0].encode() not in file.read_bytes()
        again = await service.handle(said("/model", 2), "")
        assert again.reply == told


async def test_a_resend_of_what_was_recalled_is_met_with_silence_also_after_a_restart(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    message = said("收回的话", 1)
    async with opened(tmp_path, voice) as service:
        await service.handle(message, "")
        await service.recall(GROUP, "m1")
    async with opened(tmp_path, voice) as service:
        again = await service.handle(message, "")
        assert (again.reply, again.should_reply) == ("", False)
        assert await history(service) == []
    assert len(voice.asked) == 1


async def test_a_recall_before_its_message_survives_a_restart_and_swallows_it_once(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    message = said("收回的话", 1)
    async with opened(tmp_path, voice) as service:
        for _ in range(3):
            assert await service.recall(GROUP, "m1") == ()
    async with opened(tmp_path, voice) as service:
        for _ in range(2):
            answer = await service.handle(message, "")
            assert (answer.should_reply, answer.reason) == (False, "silent")
        assert await history(service) == []
        # Elsewhere, or later under the same id, it is another message.
        assert (await service.handle(replace(message, chat=PRIVATE), "")).should_reply
        later = said("另一句", 1, sent_at=time.time() + 3600)
        assert (await service.handle(later, "")).should_reply
        assert await service.recall(GROUP, "m0") == ()
        assert await history(service) == ["另一句", "好"]


async def test_recalls_of_what_nobody_knows_are_bounded_and_the_newest_still_wait(tmp_path: Path) -> None:
    def rows(table: str) -> int:
        with closing(sqlite3.connect(tmp_path / "qqvl.sqlite3")) as database:
            return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    async with opened(tmp_path, ScriptedVoice(lambda _: "好")) as service:
        await asyncio.gather(*(service.recall(GROUP, f"x{number}") for number in range(150)))
        elsewhere = ChatKey(ChatKind.GROUP, "heard of by a recall alone")
        await service.recall(elsewhere, "x")
        await service.recall(GROUP, "m1")
        assert rows("recalls") == 101
        assert not (await service.handle(said("收回的话", 1), "")).should_reply
    with closing(sqlite3.connect(tmp_path / "qqvl.sqlite3")) as database:
        database.execute("UPDATE recalls SET created_at = 0")
        database.commit()
    async with opened(tmp_path, ScriptedVoice(lambda _: "好")):
        assert (rows("recalls"), rows("chats")) == (0, 0)


async def test_an_id_that_came_twice_means_its_newest_line(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda r: "答" + text_of(r.messages[-1])[-1:])
    old, new = said("旧", 1, sent_at=time.time() - 60), said("新", 1)
    async with opened(tmp_path, voice) as service:
        await service.handle(old, "")
        await service.sent(GROUP, "m1", ["s-old"])
        await service.handle(new, "")
        await service.sent(GROUP, "m1", ["s-new"])
        for _ in range(2):
            assert await service.recall(GROUP, "m1") == ("s-new",)
            assert await history(service) == ["旧", "答旧"]


async def test_a_recall_drops_what_waits_and_ends_what_is_being_answered(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    voice.gate.clear()
    async with opened(tmp_path, voice) as service:
        first = post(service, said("甲问", 1, who="1"), said("乙问", 2, who="2"))
        await running(voice)
        waiting = post(service, said("丙问", 3, who="3"))
        await asyncio.sleep(0.05)
        assert await service.recall(GROUP, "m3") == ()
        assert (await waiting[0]).reason == "silent"
        assert len(voice.asked) == 1
        assert await service.recall(GROUP, "m2") == ()
        assert (await first[1]).should_reply is False
        await running(voice, asked=2)
        assert "乙问" not in last_prompt(voice)
        voice.gate.set()
        assert ((await first[0]).reply, (await first[0]).reason) == ("好", "addressed")
        assert await history(service) == ["甲问", "好"]
        assert count(service, "recall") == 1


async def test_a_recall_of_all_that_was_asked_ends_the_turn_and_frees_the_chat(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    voice.gate.clear()
    async with opened(tmp_path, voice) as service:
        (task,) = post(service, said("收回的话", 1))
        await running(voice)
        await service.recall(GROUP, "m1")
        assert (await task).should_reply is False
        voice.gate.set()
        assert (await service.handle(said("在吗", 2), "")).reply == "好"
        assert await history(service) == ["在吗", "好"]
        assert "收回" not in last_prompt(voice)


async def test_one_of_several_that_share_a_reply_takes_it_along(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "都好")
    async with opened(tmp_path, voice) as service:
        await asyncio.gather(*post(service, said("甲问", 1, who="1"), said("乙问", 2, who="2")))
        await service.sent(GROUP, "m2", ["s1"])
        assert await service.recall(GROUP, "m1") == ("s1",)
        assert await history(service) == ["乙问"]


async def test_what_is_sent_after_the_recall_is_withdrawn_at_once(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice) as service:
        await service.handle(said("收回的话", 1), "")
        assert await service.recall(GROUP, "m1") == ()
        assert await service.sent(GROUP, "m1", ["s1"]) == ("s1",)
        assert await service.recall(GROUP, "m1") == ("s1",)


async def test_old_answers_and_those_of_whom_it_is_not_wanted_stay_in_qq(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice) as service:
        await service.handle(said("旧话", 1), "")
        await service.sent(GROUP, "m1", ["s1"])
        with closing(sqlite3.connect(tmp_path / "qqvl.sqlite3")) as database, database:
            database.execute("UPDATE sent SET created_at = created_at - 121")
        assert await service.recall(GROUP, "m1") == ()
        assert await history(service) == []
    async with opened(tmp_path, voice, withdraw_replies="off") as service:
        await service.handle(said("新话", 2), "")
        await service.sent(GROUP, "m2", ["s2"])
        assert await service.recall(GROUP, "m2") == ()
        assert await history(service) == []


async def test_our_own_message_that_an_admin_recalls_leaves_the_history(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "说错了")
    async with opened(tmp_path, voice) as service:
        await service.handle(said("问", 1), "")
        await service.sent(GROUP, "m1", ["s1"])
        for _ in range(2):
            assert await service.recall(GROUP, "s1") == ()
            assert await history(service) == ["问"]


async def test_who_quotes_our_message_by_its_id_speaks_to_us(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice) as service:
        await service.handle(said("问", 1), "")
        await service.sent(GROUP, "m1", ["s1"])
        quoting = said("然后呢", 2, who="2", at_me=False)
        assert (await service.handle(replace(quoting, quoted_id="s1"), "")).reason == "reply"
        assert (await service.handle(replace(quoting, message_id="m3", quoted_id="s9"), "")).reason == "silent"


# Whom the bot leaves alone ---------------------------------------------------------------------------------

LONG_AGO = 1234567890.0


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (said("问", 1, sent_at=-400), "stale"),
        (said("/reset", 1, sent_at=-400, role="owner"), "stale"),
        (said("闲聊", 1, sent_at=-400, at_me=False), "silent"),
        (said("问", 1, sent_at=-100), "addressed"),
        (said("问", 1, sent_at=1000), "addressed"),
        (said("问", 1, sent_at=LONG_AGO), "addressed"),
        (said("问", 1, sent_at=None), "addressed"),
        (without_ids(said("问", 1, sent_at=-400)), "always"),
        (said("问", 1, from_bot=True), "bot"),
        (said("问", 1, who="666"), "bot"),
        (said("问", 1, who="666", chat=PRIVATE), "bot"),
        (said("/reset", 1, who="666", role="owner"), "bot"),
        (said("问", 1, chat=PRIVATE), "private"),
        (said("问", 1, quotes_me=True), "reply"),
        (said("小助手你好", 1, at_me=False), "name"),
        (said("问", 1, at_me=None), "always"),
        (said("问", 1, context_only=True), "silent"),
    ],
)
async def test_why_it_is_answered_or_not(tmp_path: Path, message: Incoming, reason: str) -> None:
    if message.sent_at is not None and message.sent_at != LONG_AGO:
        # Told from now on, which is minutes after these were written down.
        message = replace(message, sent_at=time.time() + (message.sent_at if message.sent_at < 10_000 else 0))
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice, known_bots=("666",)) as service:
        answer = await service.handle(message, "")
        assert answer.reason == reason
        assert answer.should_reply is (reason not in ("stale", "bot", "silent"))
        assert len(await history(service, message.chat)) == 1 + answer.should_reply
        with closing(sqlite3.connect(tmp_path / "qqvl.sqlite3")) as database:
            found = database.execute("SELECT speak, reason, message_id FROM decisions").fetchall()
        assert found == [(answer.should_reply, reason, message.message_id)]


async def test_who_may_not_stop_is_told_so_once_an_hour(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    voice.gate.clear()
    async with opened(tmp_path, voice) as service:
        asking = asyncio.create_task(service.handle(said("讲个故事", 1), ""))
        while not voice.running:
            await asyncio.sleep(0.005)
        told = [await service.handle(said("/stop", number, who="2"), "") for number in (2, 3, 4)]
        assert [answer.reply.startswith("只有提问的人") for answer in told] == [True, False, False]
        assert [answer.should_reply for answer in told] == [True, False, False]
        voice.gate.set()
        assert (await asking).reply == "好"


@pytest.mark.parametrize(("mode", "reason"), [("all", "always"), ("off", "silent"), ("addressed", "silent")])
async def test_the_modes_of_a_group(tmp_path: Path, mode: str, reason: str) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with opened(tmp_path, voice, group_reply=mode) as service:
        assert (await service.handle(said("闲聊", 1, at_me=False), "")).reason == reason
        asked = await service.handle(said("问", 2), "")
        assert asked.should_reply is (mode != "off")
        reset = await service.handle(said("/reset", 3, role="admin"), "")
        assert reset.reason == "command"


def quickly(_: GenerationRequest) -> str:
    return "你好呀"


async def test_two_bots_that_answer_each_other_stop_within_four_turns_until_a_person_speaks(tmp_path: Path) -> None:
    voice = ScriptedVoice(quickly)
    async with opened(tmp_path, voice) as service:
        answers = [await service.handle(said(f"你好{n}", n, who="555"), "") for n in range(8)]
        assert sum(answer.should_reply for answer in answers) <= 4
        assert [answer.reason for answer in answers[4:]] == ["bot"] * 4
        assert (await service.handle(said("有人吗", 20, who="1"), "")).should_reply
        assert (await service.handle(said("有的", 21, who="555"), "")).should_reply


@pytest.mark.parametrize("words", ["/help", "/stop", "/nonsense", "坏词"])
async def test_nor_do_two_bots_talk_for_ever_by_commands_or_blocked_words(tmp_path: Path, words: str) -> None:
    voice = ScriptedVoice(quickly)
    async with opened(tmp_path, voice, block_words_in=("坏词",)) as service:
        lines = 0
        while (await service.handle(said(words, lines, who="555"), "")).should_reply:
            lines += 1
            assert lines <= 8
        assert (await service.handle(said("有人吗", 30, who="1"), "")).should_reply
        assert (await service.handle(said(words, 31, who="555"), "")).should_reply


async def test_an_admin_in_a_hurry_is_heard(tmp_path: Path) -> None:
    voice = ScriptedVoice(quickly)
    async with opened(tmp_path, voice) as service:
        for number in range(3):
            assert (await service.handle(said("你好", 2 * number, role="admin"), "")).should_reply
            undone = await service.handle(said("/undo", 2 * number + 1, role="admin"), "")
            assert undone.reply == "好，上一轮问答我忘掉了。"
        assert (await service.handle(said("/mute", 10, role="admin"), "")).should_reply
        assert (await service.handle(said("/unmute", 11, role="admin"), "")).should_reply
        assert (await service.handle(said("你好", 12, role="admin"), "")).should_reply


async def test_who_takes_his_time_is_never_taken_for_a_bot(tmp_path: Path) -> None:
    """By his own clock, as when lines were held up on their way; and a person whose clock nobody knows."""
    voice = ScriptedVoice(quickly)
    async with opened(tmp_path, voice) as service:
        start = time.time()
        paced = [said(f"你好{n}", n, sent_at=start - 60 + 6 * n) for n in range(8)]
        assert all([(await service.handle(message, "")).should_reply for message in paced])
        alone = [said(f"你好{n}", 50 + n, sent_at=1234567890.0, chat=replace(GROUP, id="2")) for n in range(8)]
        assert all([(await service.handle(message, "")).should_reply for message in alone])
        private = [said(f"你好{n}", 90 + n, chat=PRIVATE) for n in range(5)]
        assert all([(await service.handle(message, "")).should_reply for message in private])
