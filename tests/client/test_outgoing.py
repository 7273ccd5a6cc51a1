"""What the chat server's answers become in QQ, how often, where and in which order."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from onebot.events import SELF_ID, group_message, image, private_message
from onebot.pictures import drawn
from onebot.world import Stack

pytestmark = pytest.mark.anyio


def says(text: str, **more: Any) -> Any:
    """A script that always answers this."""
    return lambda _: {"status": "success", "should_reply": True, "reply": text} | more


async def settled(stack: Stack, chat_id: int) -> None:
    """Wait until a later message of the chat has been answered: whatever came before is over."""
    marker = f"完{time.monotonic_ns()}"
    before = stack.chat.scripts.get(str(chat_id), stack.chat.script)
    last = says(marker)
    stack.chat.scripts[str(chat_id)] = lambda body: (last if body["content"] == "还有吗" else before)(body)
    await stack.onebot.event(group_message("还有吗", chat_id))
    await stack.onebot.until(lambda: any(s.text == marker for s in stack.onebot.to(chat_id)), "the marker comes back")


CQ = "[CQ:at,qq=all] [CQ:image,file=/etc/hostname] &amp; &#91; [CQ:x] <b>"


async def test_group_reply_is_one_text_segment_verbatim_quoting_the_asker(stack: Stack, chat_id: int) -> None:
    stack.chat.scripts[str(chat_id)] = says(CQ)
    event = await stack.onebot.event(group_message("说", chat_id))
    sent = (await stack.onebot.replied(chat_id))[0]
    assert sent.kind == "group"
    assert sent.message == [
        {"type": "reply", "data": {"id": str(event["message_id"])}},
        {"type": "text", "data": {"text": CQ}},
    ]


async def test_private_reply_goes_to_the_person_without_a_quote(stack: Stack, chat_id: int) -> None:
    stack.chat.scripts[str(chat_id)] = says(CQ)
    await stack.onebot.event(private_message("说", chat_id))
    sent = (await stack.onebot.replied(chat_id))[0]
    assert (sent.kind, sent.params["user_id"]) == ("private", chat_id)
    assert sent.message == [{"type": "text", "data": {"text": CQ}}]


async def test_messages_are_sent_in_order_in_place_of_reply(stack: Stack, chat_id: int) -> None:
    parts = [{"type": "text", "text": "一"}, {"type": "text", "text": "二"}]
    stack.chat.scripts[str(chat_id)] = says("一二", messages=parts)
    await stack.onebot.event(group_message("数", chat_id))
    sent = await stack.onebot.replied(chat_id, 2)
    assert [(s.text, s.quoted is not None) for s in sent] == [("一", True), ("二", False)]


async def test_long_replies_are_split_in_order_and_whole(stack: Stack, chat_id: int) -> None:
    reply = "".join(f"第{i}句话，说了一些东西。\n" for i in range(800)) + "🙂" * 300
    stack.chat.scripts[str(chat_id)] = says(reply)
    await stack.onebot.event(group_message("长", chat_id))
    await stack.onebot.until(lambda: sum(len(s.text) for s in stack.onebot.to(chat_id)) >= len(reply), "all of it")
    parts = [sent.text for sent in stack.onebot.to(chat_id)]
    assert "".join(parts) == reply
    assert len(parts) > 1
    assert max(len(part) for part in parts) <= 4500


async def test_a_reply_of_a_million_letters_is_a_few_messages_and_says_so(stack: Stack, chat_id: int) -> None:
    stack.chat.scripts[str(chat_id)] = says("字" * 1_000_000)
    await stack.onebot.event(group_message("长", chat_id))
    await settled(stack, chat_id)
    *parts, _ = [sent.text for sent in stack.onebot.to(chat_id)]
    assert len(parts) == 8
    assert all(len(part) <= 4500 for part in parts)
    shown = sum(part.count("字") for part in parts) - 1
    assert parts[-1].endswith(f"……（太长，后面还有 {1_000_000 - shown} 个字没有发）")


async def test_many_messages_of_one_reply_count_together(stack: Stack, chat_id: int) -> None:
    messages = [{"type": "text", "text": f"第{n}条"} for n in range(20)]
    stack.chat.scripts[str(chat_id)] = says("x", messages=messages)
    await stack.onebot.event(group_message("多", chat_id))
    await settled(stack, chat_id)
    parts = [sent.text for sent in stack.onebot.to(chat_id)][:-1]
    assert parts[:7] == [f"第{n}条" for n in range(7)]
    assert len(parts) == 8


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "success", "should_reply": False, "reply": "憋住"},
        {"status": "success", "should_reply": True, "reply": ""},
        {"status": "success", "should_reply": True, "reply": " \n"},
        {"status": "success", "should_reply": True, "reply": None},
        {"status": "success", "reply": "没说要回"},
    ],
    ids=["told-not-to", "empty", "blank", "null", "not-said"],
)
async def test_silence_is_silence(stack: Stack, chat_id: int, answer: dict[str, Any]) -> None:
    stack.chat.scripts[str(chat_id)] = lambda _: answer
    await stack.onebot.event(group_message("嗯", chat_id))
    await stack.chat.asked(chat_id)
    await settled(stack, chat_id)
    assert len(stack.onebot.to(chat_id)) == 1


async def test_own_messages_are_not_answered(stack: Stack, chat_id: int) -> None:
    own = group_message("我自己说的", chat_id, user_id=SELF_ID)
    await stack.onebot.event(own)
    await stack.onebot.event(own | {"post_type": "message_sent", "message_sent_type": "self"})
    await settled(stack, chat_id)
    assert [body["content"] for body in stack.chat.of(chat_id)] == ["还有吗"]


async def test_duplicates_are_answered_once(stack: Stack, chat_id: int) -> None:
    event = group_message("一次", chat_id)
    await stack.onebot.event(event)
    await stack.onebot.event(event)
    await stack.onebot.close()
    await stack.onebot.line()
    await stack.onebot.event(event)
    await settled(stack, chat_id)
    assert [body["content"] for body in stack.chat.of(chat_id)] == ["一次", "还有吗"]


async def test_the_same_message_id_in_another_chat_is_another_message(
    stack: Stack, chat_id: int, other_id: int
) -> None:
    event = await stack.onebot.event(group_message("这里", chat_id))
    await stack.onebot.event(event | {"group_id": other_id})
    await stack.onebot.replied(chat_id)
    await stack.onebot.replied(other_id)


async def test_each_line_is_posted_as_it_comes_and_answers_go_out_in_order(stack: Stack, chat_id: int) -> None:
    """As the server merges: four wait together; here the last is answered first, and the first last."""
    posted: list[str] = []
    turns = {str(number): asyncio.Event() for number in range(4)}

    async def in_turn(body: dict[str, Any]) -> dict[str, Any]:
        posted.append(body["content"])
        await turns[body["content"]].wait()
        return {"status": "success", "should_reply": True, "reply": f"回{body['content']}"}

    stack.chat.scripts[str(chat_id)] = in_turn
    for number in range(4):
        await stack.onebot.event(group_message(f"{number}", chat_id))
    await stack.chat.asked(chat_id, 4)
    assert posted == ["0", "1", "2", "3"]
    for number in (3, 2, 1, 0):
        assert stack.onebot.to(chat_id) == []
        turns[str(number)].set()
    sent = await stack.onebot.replied(chat_id, 4)
    assert [s.text for s in sent] == ["回0", "回1", "回2", "回3"]


async def test_a_short_line_does_not_overtake_the_pictures_before_it(stack: Stack, chat_id: int) -> None:
    url = stack.pictures.put(drawn() + bytes(250_000), delay_s=0.3)
    await stack.onebot.event(group_message([image(url), image(url), image(url)], chat_id))
    await stack.onebot.event(group_message("上面是什么", chat_id))
    bodies = await stack.chat.asked(chat_id, 2)
    assert [len(body["images"]) for body in bodies] == [3, 0]


async def test_a_merged_answer_sends_nothing(stack: Stack, chat_id: int) -> None:
    last = group_message("二", chat_id)

    def merged(body: dict[str, Any]) -> Any:
        if body["content"] == "一":
            # A server that is careless with the rest: what counts is the word that it is merged.
            return says("一的答复", merged_into=str(last["message_id"]))(body)
        return says("两句都答了")(body)

    stack.chat.scripts[str(chat_id)] = merged
    await stack.onebot.event(group_message("一", chat_id))
    await stack.onebot.event(last)
    await stack.onebot.replied(chat_id)
    await settled(stack, chat_id)
    first, _ = stack.onebot.to(chat_id)
    assert (first.text, first.quoted) == ("两句都答了", str(last["message_id"]))


async def test_many_chats_are_asked_side_by_side(stack: Stack, chat_id: int) -> None:
    together = asyncio.Barrier(12)

    async def all_at_once(body: dict[str, Any]) -> dict[str, Any]:
        await together.wait()
        return {"status": "success", "reply": "好"}

    people = range(chat_id * 100, chat_id * 100 + 12)
    for person in people:
        stack.chat.scripts[str(person)] = all_at_once
        await stack.onebot.event(private_message("一起", person))
    for person in people:
        await stack.onebot.replied(person)


async def test_two_hundred_in_a_burst_are_all_answered_once_in_order_in_the_right_place(
    stack: Stack, chat_id: int
) -> None:
    chats = [chat_id * 1000 + number for number in range(8)]
    for number in range(200):
        await stack.onebot.event(group_message(f"第{number}条", chats[number % 8]))
    await stack.onebot.until(lambda: sum(len(stack.onebot.to(c)) for c in chats) >= 200, "200 replies", within=40)
    for place, chat in enumerate(chats):
        assert [s.text for s in stack.onebot.to(chat)] == [f"答：第{n}条" for n in range(place, 200, 8)]


async def test_an_old_backlog_is_history_and_gets_no_answer(stack: Stack, chat_id: int) -> None:
    await stack.onebot.event(group_message("昨天的", chat_id, time=int(time.time()) - 86400))
    await settled(stack, chat_id)
    old, new = stack.chat.of(chat_id)
    assert (old["content"], old["context_only"]) == ("昨天的", True)
    assert "context_only" not in new
    assert len(stack.onebot.to(chat_id)) == 1


async def test_a_delivered_send_that_reports_1200_is_not_repeated(stack: Stack, chat_id: int) -> None:
    stack.onebot.send_faults.append("1200 delivered")
    await stack.onebot.event(group_message("发吧", chat_id))
    await stack.onebot.replied(chat_id)
    await settled(stack, chat_id)
    assert [s.text for s in stack.onebot.to(chat_id)][:-1] == ["答：发吧"]


@pytest.mark.parametrize("fault", ["1200 lost", "mute lost"])
async def test_nothing_is_repeated_when_the_record_cannot_tell(stack: Stack, chat_id: int, fault: Any) -> None:
    stack.onebot.send_faults.append(fault)
    stack.onebot.mute_actions.add("get_group_msg_history")
    await stack.onebot.event(group_message("不清楚", chat_id))
    await settled(stack, chat_id)
    assert "答：不清楚" not in [s.text for s in stack.onebot.to(chat_id)]


async def test_a_record_without_the_question_is_not_believed(stack: Stack, chat_id: int) -> None:
    known = stack.onebot.answers["get_group_msg_history"]
    stack.onebot.answers["get_group_msg_history"] = lambda _: {"messages": []}
    stack.onebot.send_faults.append("1200 delivered")
    await stack.onebot.event(group_message("空记录", chat_id))
    await settled(stack, chat_id)
    stack.onebot.answers["get_group_msg_history"] = known
    assert [s.text for s in stack.onebot.to(chat_id)].count("答：空记录") == 1


@pytest.mark.parametrize("fault", ["1200 lost", "mute lost", "drop lost"])
async def test_a_lost_send_is_repeated_once_the_record_shows_it_missing(stack: Stack, chat_id: int, fault: Any) -> None:
    stack.onebot.send_faults.append(fault)
    await stack.onebot.event(private_message("没发出去", chat_id))
    await stack.onebot.replied(chat_id)
    assert [s.text for s in stack.onebot.to(chat_id)] == ["答：没发出去"]


async def test_a_refused_quote_is_left_out(stack: Stack, chat_id: int) -> None:
    stack.onebot.send_faults.append("refused")
    await stack.onebot.event(group_message("撤回了", chat_id))
    sent = (await stack.onebot.replied(chat_id))[0]
    assert (sent.text, sent.quoted) == ("答：撤回了", None)
