"""The elements of an answer: segments, records, how they are paced, and what is sent before the rest is written."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from onebot.chat import error, streamed
from onebot.events import group_message, private_message
from onebot.process import ClientProcess
from onebot.world import Stack, World

pytestmark = pytest.mark.anyio
Element = dict[str, Any]
CONTRACT = Path(__file__).resolve().parents[1] / "fixtures" / "contract"


def answer(*messages: Element, reply: str = "x") -> Element:
    return {"status": "success", "should_reply": True, "reply": reply, "messages": list(messages)}


def always(*messages: Element) -> Any:
    return lambda _: answer(*messages)


def segment(kind: str, **data: Any) -> Element:
    return {"type": kind, "data": data}


# Segments -----------------------------------------------------------------------------------------------


async def test_segments_are_sent_as_they_are_told(stack: Stack, chat_id: int) -> None:
    told = [
        segment("at", qq="123"),
        segment("text", text=" 看 [CQ:at,qq=all]"),
        segment("face", id="14"),
        segment("image", file="base64://aGk="),
    ]
    stack.chat.scripts[str(chat_id)] = always({"segments": told})
    event = await stack.onebot.event(group_message("来", chat_id))
    (sent,) = await stack.onebot.replied(chat_id)
    assert sent.message == [segment("reply", id=str(event["message_id"])), *told]


async def test_a_quote_of_the_servers_own_takes_the_place_of_ours(stack: Stack, chat_id: int) -> None:
    stack.chat.scripts[str(chat_id)] = always({"segments": [segment("reply", id="77"), segment("text", text="是它")]})
    await stack.onebot.event(group_message("来", chat_id))
    (sent,) = await stack.onebot.replied(chat_id)
    assert (sent.quoted, sent.text, len(sent.message)) == ("77", "是它", 2)


async def test_the_servers_own_quote_is_left_out_where_qq_refuses_it(stack: Stack, chat_id: int) -> None:
    stack.onebot.send_faults.append("refused")
    stack.chat.scripts[str(chat_id)] = always({"segments": [segment("reply", id="77"), segment("text", text="是它")]})
    await stack.onebot.event(private_message("来", chat_id))
    assert [s.message for s in await stack.onebot.replied(chat_id)] == [[segment("text", text="是它")]]


HARMFUL: dict[str, Element] = {
    "everybody": segment("at", qq="all"),
    "a file of NapCat's": segment("image", file="file:///etc/hostname"),
    "a path": segment("image", file="/etc/hostname"),
    "no face": segment("face", id="../1"),
    "another kind": segment("record", file="http://h/a"),
    "no data": {"type": "text"},
    "no segment": {"text": "x"},
}


@pytest.mark.parametrize("kind", HARMFUL)
async def test_what_no_answer_may_do_is_left_out(stack: Stack, chat_id: int, kind: str) -> None:
    stack.chat.scripts[str(chat_id)] = always(
        {"segments": [HARMFUL[kind], segment("text", text="好")]}, {"segments": [HARMFUL[kind]]}, {"segments": "?"}
    )
    await stack.onebot.event(private_message("来", chat_id))
    await stack.chat.reported("sent", chat_id)
    assert [sent.message for sent in stack.onebot.to(chat_id)] == [[segment("text", text="好")]]


# Records ------------------------------------------------------------------------------------------------

NODES = [{"name": "小助手", "user_id": "10001", "text": "第一段"}, {"name": "小助手", "user_id": "10001", "text": "二"}]


@pytest.mark.parametrize("kind", ["group", "private"])
async def test_a_record_is_sent_as_a_forward(stack: Stack, chat_id: int, kind: str) -> None:
    stack.chat.scripts[str(chat_id)] = always({"forward": NODES})
    await stack.onebot.event((group_message if kind == "group" else private_message)("长", chat_id))
    (sent,) = await stack.onebot.replied(chat_id)
    nodes = [node["data"] for node in sent.params["messages"]]
    assert [(n["user_id"], n["nickname"], n["content"][0]["data"]["text"]) for n in nodes] == [
        ("10001", "小助手", "第一段"),
        ("10001", "小助手", "二"),
    ]
    assert len(await stack.chat.reported("sent", chat_id)) == 1


async def test_where_no_record_can_be_sent_its_words_are(stack: Stack, chat_id: int) -> None:
    stack.onebot.send_faults.append("refused")
    stack.chat.scripts[str(chat_id)] = always({"forward": NODES})
    await stack.onebot.event(private_message("长", chat_id))
    assert [sent.text for sent in await stack.onebot.replied(chat_id)] == ["小助手：第一段\n小助手：二"]


@pytest.mark.parametrize("fault", ["1200 delivered", "1200 lost"])
async def test_a_record_of_doubtful_fate_is_sent_once(stack: Stack, chat_id: int, fault: Any) -> None:
    stack.onebot.send_faults.append(fault)
    stack.chat.scripts[str(chat_id)] = always({"forward": NODES})
    await stack.onebot.event(private_message("长", chat_id))
    await stack.chat.reported("sent", chat_id)
    assert len(stack.onebot.to(chat_id)) == 1


# By and by ----------------------------------------------------------------------------------------------


async def test_what_is_written_is_sent_before_the_rest(stack: Stack, chat_id: int) -> None:
    rest = asyncio.Event()
    one, two = {"text": "第一段。"}, {"text": "第二段。"}

    def by_and_by(body: Element) -> Any:
        assert body["stream"] is True
        return streamed(("message", one), rest, ("message", two), ("done", answer(one, two)))

    stack.chat.scripts[str(chat_id)] = by_and_by
    event = await stack.onebot.event(group_message("讲", chat_id))
    (first,) = await stack.onebot.replied(chat_id)
    assert (first.text, first.quoted) == ("第一段。", str(event["message_id"]))
    rest.set()
    assert [sent.text for sent in await stack.onebot.replied(chat_id, 2)] == ["第一段。", "第二段。"]
    await stack.chat.reported("sent", chat_id, 2)
    assert len(stack.onebot.to(chat_id)) == 2


async def test_an_answer_told_by_and_by_waits_for_the_one_before_it(stack: Stack, chat_id: int) -> None:
    before = asyncio.Event()

    async def slowly() -> Element:
        await before.wait()
        return answer({"text": "一"})

    two = {"text": "二"}
    stack.chat.scripts[str(chat_id)] = lambda body: (
        slowly() if body["content"] == "先" else streamed(("message", two), ("done", answer(two)))
    )
    await stack.onebot.event(group_message("先", chat_id))
    await stack.onebot.event(group_message("后", chat_id))
    await stack.chat.asked(chat_id, 2)
    assert stack.onebot.to(chat_id) == []
    before.set()
    assert [sent.text for sent in await stack.onebot.replied(chat_id, 2)] == ["一", "二"]


async def test_a_stream_cut_off_is_asked_again_and_nothing_is_said_twice(stack: Stack, chat_id: int) -> None:
    one, two, rest = {"text": "一"}, {"text": "二"}, asyncio.Event()
    again = streamed(("message", one), ("message", two), rest, ("done", answer(one, two)))
    tries = [streamed(("message", one)), again]
    stack.chat.scripts[str(chat_id)] = lambda _: tries.pop(0)
    await stack.onebot.event(private_message("讲", chat_id))
    assert [sent.text for sent in await stack.onebot.replied(chat_id, 2)] == ["一", "二"]
    rest.set()
    await stack.chat.reported("sent", chat_id, 2)
    assert [sent.text for sent in stack.onebot.to(chat_id)] == ["一", "二"]


@pytest.mark.parametrize(("code", "times"), [("invalid_request", 1), ("busy", 2), ("generation_failed", 2)])
async def test_an_error_told_late_is_an_error(stack: Stack, chat_id: int, code: str, times: int) -> None:
    late = streamed(("error", {"status": "error", "error": {"code": code, "message": "内部细节"}}))
    tries = [late, answer({"text": "好了"})]
    stack.chat.scripts[str(chat_id)] = lambda _: tries.pop(0)
    await stack.onebot.event(private_message("讲", chat_id))
    (sent,) = await stack.onebot.replied(chat_id)
    assert (sent.text == "好了", len(stack.chat.of(chat_id))) == (times == 2, times)
    assert "内部细节" not in sent.text


async def test_the_contracts_stream_is_sent_as_it_says(stack: Stack, chat_id: int) -> None:
    told = json.loads((CONTRACT / "group_stream.json").read_text(encoding="utf-8"))["events"]
    stack.chat.scripts[str(chat_id)] = lambda _: streamed(*((event["event"], event["data"]) for event in told))
    await stack.onebot.event(group_message("讲", chat_id))
    elements = told[-1]["data"]["messages"]
    first, second, record = await stack.onebot.replied(chat_id, len(elements))
    assert first.message == elements[0]["segments"]
    assert second.text == elements[1]["text"]
    lines = [node["data"]["content"][0]["data"]["text"] for node in record.params["messages"]]
    assert lines == [node["text"] for node in elements[2]["forward"]]


async def test_silence_told_by_and_by_is_silence(stack: Stack, chat_id: int) -> None:
    quiet = {"status": "success", "should_reply": False, "reply": "", "messages": []}
    stack.chat.scripts[str(chat_id)] = lambda body: (
        streamed(("done", quiet)) if body["content"] == "嗯" else answer({"text": "完"})
    )
    await stack.onebot.event(group_message("嗯", chat_id))
    await stack.onebot.event(group_message("还有吗", chat_id))
    assert [sent.text for sent in await stack.onebot.replied(chat_id)] == ["完"]


async def test_what_is_history_only_asks_for_no_stream(stack: Stack, chat_id: int) -> None:
    await stack.onebot.event(group_message("旧", chat_id, time=1_700_000_000))
    (body,) = await stack.chat.asked(chat_id)
    assert (body["context_only"], "stream" in body) == (True, False)


async def test_a_kill_in_mid_answer_repeats_nothing(world: World, tmp_path: Path, chat_id: int) -> None:
    one, two = {"text": "一"}, {"text": "二"}
    world.chat.scripts[str(chat_id)] = lambda _: streamed(("message", one), asyncio.Event())
    async with ClientProcess(tmp_path, world.settings() | {"server_timeout_s": 60}) as client:
        await world.onebot.line()
        await world.onebot.event(private_message("讲", chat_id))
        await world.chat.reported("sent", chat_id)
        await client.kill()
        world.chat.scripts[str(chat_id)] = lambda _: streamed(
            ("message", one), ("message", two), ("done", answer(one, two))
        )
        await client.start()
        await world.chat.reported("sent", chat_id, 2)
        assert await client.stop() == 0
    assert [sent.text for sent in world.onebot.to(chat_id)] == ["一", "二"]


async def test_a_server_that_refuses_before_it_streams_is_understood(stack: Stack, chat_id: int) -> None:
    stack.chat.scripts[str(chat_id)] = lambda _: error(413)
    await stack.onebot.event(private_message("讲", chat_id))
    assert "太大" in (await stack.onebot.replied(chat_id))[0].text


# Manners ------------------------------------------------------------------------------------------------


async def test_the_asker_is_called_and_quoted_as_the_owner_wants(world: World, tmp_path: Path, chat_id: int) -> None:
    settings = world.settings() | {"at_asker": "true", "quote_in_groups": "false"}
    async with ClientProcess(tmp_path, settings) as client:
        await world.onebot.line()
        world.chat.scripts[str(chat_id)] = always({"text": "一"}, {"text": "二"})
        await world.onebot.event(group_message("来", chat_id, user_id=40004))
        one, two = await world.onebot.replied(chat_id, 2)
        assert await client.stop() == 0
    assert one.message == [segment("at", qq="40004"), segment("text", text=" "), segment("text", text="一")]
    assert two.message == [segment("text", text="二")]


async def test_a_chats_minute_is_full_and_others_go_on(
    world: World, tmp_path: Path, chat_id: int, other_id: int
) -> None:
    async with ClientProcess(tmp_path, world.settings() | {"sends_per_minute": 3}) as client:
        await world.onebot.line()
        for number in range(5):
            await world.onebot.event(group_message(f"{number}", chat_id))
        await world.onebot.replied(chat_id, 3)
        for number in range(3):
            await world.onebot.event(private_message(f"{number}", other_id))
        await world.onebot.replied(other_id, 3)
        assert len(world.onebot.to(chat_id)) == 3
        await client.kill()


async def test_long_words_take_longer_to_type_than_short_ones(
    world: World, tmp_path: Path, chat_id: int, other_id: int
) -> None:
    settings = world.settings() | {"typing_chars_per_s": 20, "typing_max_s": 60}
    async with ClientProcess(tmp_path, settings) as client:
        await world.onebot.line()
        world.chat.scripts[str(chat_id)] = always({"text": "长" * 1000})
        world.chat.scripts[str(other_id)] = always({"text": "短"})
        await world.onebot.event(private_message("先", chat_id))
        await world.chat.asked(chat_id)
        await world.onebot.event(private_message("后", other_id))
        await world.onebot.replied(other_id)
        assert world.onebot.to(chat_id) == []
        await client.kill()
