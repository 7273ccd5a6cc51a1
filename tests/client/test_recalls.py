"""What was taken back, and what QQ calls the messages we sent: told to the server, and done in QQ."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from onebot.chat import answer_for, error
from onebot.events import SELF_ID, Event, group_message, private_message, recall
from onebot.process import ClientProcess
from onebot.world import Stack, World

pytestmark = pytest.mark.anyio


def withdrawing(*ids: str) -> Any:
    return lambda _: {"status": "success", "withdraw": list(ids)}


def id_of(stack: World, chat_id: int, place: int = 0) -> str:
    """What QQ calls a message that was sent into a chat."""
    ours = [e for e in stack.onebot.history if e["user_id"] == SELF_ID]
    here = [e for e in ours if chat_id in (e.get("group_id"), e.get("target_id"))]
    return str(here[place]["message_id"])


async def test_what_was_sent_is_reported_by_qqs_ids_in_order(stack: Stack, chat_id: int) -> None:
    parts = [{"text": "一"}, {"text": "二"}]
    stack.chat.scripts[str(chat_id)] = lambda body: answer_for(body) | {"messages": parts}
    event = await stack.onebot.event(group_message("数", chat_id))
    reports = await stack.chat.reported("sent", chat_id, 2)
    assert [i for report in reports for i in report["sent_ids"]] == [id_of(stack, chat_id, n) for n in (0, 1)]
    for report in reports:
        del report["sent_ids"]
        place = {"group_id": str(chat_id), "self_id": str(SELF_ID)}
        assert report == {**place, "message_id": str(event["message_id"])}


async def test_a_private_answer_is_reported_too(stack: Stack, chat_id: int) -> None:
    event = await stack.onebot.event(private_message("在吗", chat_id))
    (report,) = await stack.chat.reported("sent", chat_id)
    ids = {"message_id": str(event["message_id"]), "sent_ids": [id_of(stack, chat_id)]}
    assert report == {"user_id": str(chat_id), "self_id": str(SELF_ID), **ids}


async def test_the_id_of_a_send_nobody_answered_is_found_in_the_record(stack: Stack, chat_id: int) -> None:
    stack.onebot.send_faults.append("1200 delivered")
    await stack.onebot.event(private_message("发吧", chat_id))
    (report,) = await stack.chat.reported("sent", chat_id)
    assert report["sent_ids"] == [id_of(stack, chat_id)]


async def test_a_message_without_an_id_is_not_reported(stack: Stack, chat_id: int) -> None:
    await stack.onebot.event(private_message("没有号", chat_id, message_id=0))
    await stack.onebot.event(private_message("有号", chat_id))
    (report,) = await stack.chat.reported("sent", chat_id)
    assert report["sent_ids"] == [id_of(stack, chat_id, 1)]


@pytest.mark.parametrize("kind", ["group", "private"])
async def test_a_recall_is_told_and_our_answer_withdrawn(stack: Stack, chat_id: int, kind: str) -> None:
    said: Event = (group_message if kind == "group" else private_message)("说漏了", chat_id)
    await stack.onebot.event(said)
    await stack.chat.reported("sent", chat_id)
    stack.chat.report_script = withdrawing(id_of(stack, chat_id))
    await stack.onebot.event(recall(said, operator_id=40004))
    (told,) = await stack.chat.reported("recall", chat_id)
    place = {"group_id": str(chat_id), "operator_id": "40004"} if kind == "group" else {"user_id": str(chat_id)}
    assert told == {**place, "self_id": str(SELF_ID), "message_id": str(said["message_id"])}
    ours = id_of(stack, chat_id)
    await stack.onebot.until(lambda: stack.onebot.withdrawn.count(ours) == 1, "our answer is withdrawn")


async def test_what_the_answer_to_a_report_withdraws_is_withdrawn(stack: Stack, chat_id: int) -> None:
    """The recall came while the answer was on its way."""
    stack.chat.report_script = lambda body: {"status": "success", "withdraw": body["sent_ids"]}
    await stack.onebot.event(private_message("快", chat_id))
    await stack.onebot.replied(chat_id)
    await stack.onebot.until(lambda: id_of(stack, chat_id) in stack.onebot.withdrawn, "our answer is withdrawn")


async def test_nothing_more_is_said_to_what_was_taken_back(stack: Stack, chat_id: int) -> None:
    taken_back = asyncio.Event()

    async def late(body: dict[str, Any]) -> Any:
        if body["content"] == "说漏了":
            await taken_back.wait()
        return answer_for(body)

    stack.chat.scripts[str(chat_id)] = late
    said = await stack.onebot.event(group_message("说漏了", chat_id))
    await stack.chat.asked(chat_id)
    await stack.onebot.event(recall(said))
    await stack.chat.reported("recall", chat_id)
    taken_back.set()
    await stack.onebot.event(group_message("别的", chat_id))
    assert [s.text for s in await stack.onebot.replied(chat_id)] == ["答：别的"]


@pytest.mark.parametrize("failure", ["500", "503", "garbage"])
async def test_a_recall_is_told_again_until_the_server_has_it(stack: Stack, chat_id: int, failure: str) -> None:
    left = [failure] * 2

    def script(body: dict[str, Any]) -> Any:
        if not left or body.get("group_id") != str(chat_id):
            return {"status": "success"}
        return {"what": "?"} if left.pop() == "garbage" else error(int(failure))

    stack.chat.report_script = script
    await stack.onebot.event(recall(group_message("说漏了", chat_id)))
    assert len(await stack.chat.reported("recall", chat_id, 3)) == 3


@pytest.mark.parametrize("status", [404, 405, 400])
async def test_a_server_that_takes_no_reports_is_asked_once_and_all_else_goes_on(
    stack: Stack, chat_id: int, status: int
) -> None:
    stack.chat.report_script = lambda _: error(status)
    await stack.onebot.event(private_message("一", chat_id))
    await stack.chat.reported("sent", chat_id)
    await stack.onebot.event(private_message("二", chat_id))
    await stack.chat.reported("sent", chat_id, 2)
    assert [s.text for s in stack.onebot.to(chat_id)] == ["答：一", "答：二"]


@pytest.mark.parametrize("gone", [{"message_id": 0}, {"group_id": None}, {"message_id": [1]}])
async def test_a_recall_that_names_nothing_is_let_go(stack: Stack, chat_id: int, gone: dict[str, Any]) -> None:
    said = group_message("说漏了", chat_id)
    await stack.onebot.event(recall(said) | gone)
    await stack.onebot.event(recall(said))
    assert len(await stack.chat.reported("recall", chat_id)) == 1


async def test_recalls_and_reports_survive_a_kill(world: World, tmp_path: Path, chat_id: int, other_id: int) -> None:
    async with ClientProcess(tmp_path, world.settings()) as client:
        await world.onebot.line()
        world.chat.report_script = lambda _: error(503)
        said = await world.onebot.event(group_message("说漏了", chat_id))
        await world.onebot.event(private_message("在吗", other_id))
        await world.chat.reported("sent", other_id)
        await world.onebot.event(recall(said))
        # Behind the chat's report, which the server does not take.
        await client.logged("撤回了")
        await client.kill()
        world.chat.reports.clear()
        world.chat.report_script = withdrawing("2000000001")
        await client.start()
        await world.onebot.line()
        (told,) = await world.chat.reported("recall", chat_id)
        (sent,) = await world.chat.reported("sent", other_id)
        await world.onebot.until(lambda: "2000000001" in world.onebot.withdrawn, "withdrawn")
        assert await client.stop() == 0
    assert told["message_id"] == str(said["message_id"])
    assert sent["sent_ids"] == [id_of(world, other_id)]
    assert "Traceback" not in client.log


async def test_an_answer_written_before_the_kill_is_not_sent_after_its_question_was_taken_back(
    world: World, tmp_path: Path, chat_id: int
) -> None:
    async with ClientProcess(tmp_path, world.settings()) as client:
        await world.onebot.line()
        world.onebot.mute_actions.add("get_friend_msg_history")
        world.onebot.send_faults.append("mute lost")
        said = await world.onebot.event(private_message("说漏了", chat_id))
        await client.logged("结果不明")
        await world.onebot.event(recall(said))
        await client.logged("撤回了")
        await world.chat.reported("recall", chat_id)
        await client.kill()
        world.onebot.mute_actions.clear()
        await client.start()
        await world.onebot.line()
        await world.onebot.event(private_message("别的", chat_id))
        assert [s.text for s in await world.onebot.replied(chat_id)] == ["答：别的"]
        assert await client.stop() == 0
