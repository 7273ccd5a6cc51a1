"""Answers in the browser that are stopped, left alone, or broken off by an error or by an end: what came stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qqvl_server.chat.conversations.running import Ended, Running
from qqvl_server.chat.conversations.talking import Saying, Talking, cut
from qqvl_server.chat.conversations.values import Said, Status, ToolResult, Wishes
from qqvl_server.errors import AlreadySaid, Conflict, GenerationFailed, InvalidRequest
from qqvl_server.generation.port import GenerationRequest, Sampling, TextDelta, Tool
from tests.chat.storing import store_in
from tests.fakes import PictureShelf, ScriptedVoice, text_of

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def talking(
    folder: Path, voice: ScriptedVoice, tools: tuple[Tool, ...] = ()
) -> AsyncIterator[tuple[Talking, str]]:
    async with store_in(folder) as store:
        talks = Talking(
            store.conversations,
            lambda: voice,
            PictureShelf(),
            lambda _, most: Wishes(Sampling(most), tools=tools),
            60,
            "m",
        )
        made = await store.conversations.create("me", "", {})
        yield talks, made.id
        await talks.aclose()


async def ended(running: Running) -> Said:
    _, following = running.watch()
    async for item in following:
        if isinstance(item, Ended):
            return item.said
    raise AssertionError("no end")


async def until_running(voice: ScriptedVoice) -> None:
    while not voice.running:
        await asyncio.sleep(0)


async def test_an_answer_goes_on_alone_and_whoever_comes_back_misses_nothing(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好的")
    voice.gate.clear()
    async with talking(tmp_path, voice) as (talks, one):
        running = await talks.say("me", one, Saying("r", None, "你好"))
        with pytest.raises(Conflict):
            await talks.say("me", one, Saying("r", None, "还有"))
        _, left = running.watch()
        looking = asyncio.ensure_future(anext(left))
        await until_running(voice)
        looking.cancel()
        voice.gate.set()
        so_far, following = running.watch()
        told = [item async for item in following]
        assert so_far.text + "".join(item.text for item in told if isinstance(item, TextDelta)) == "好的"
        assert talks.find(one) is None
        assert [(said.text, said.status) for said in await talks.store.messages("me", one)] == [
            ("你好", Status.DONE), ("好的", Status.DONE)
        ]  # fmt: skip


async def test_what_is_sent_twice_is_said_once(tmp_path: Path) -> None:
    async with talking(tmp_path, ScriptedVoice(lambda _: "好的")) as (talks, one):
        for attempt in ("r1", "r2"):
            saying = Saying(attempt, None, "你好", key="a")
            if attempt == "r1":
                await ended(await talks.say("me", one, saying))
            else:
                with pytest.raises(AlreadySaid):
                    await talks.say("me", one, saying)
        await ended(await talks.say("me", one, Saying("r3", None, "你好", key="b")))
        texts = [said.text for said in await talks.store.messages("me", one)]
        assert texts == ["你好", "好的", "你好", "好的"]


async def test_what_a_call_gave_is_shown_to_the_model_with_the_call(tmp_path: Path) -> None:
    def script(request: GenerationRequest) -> str:
        given = [text_of(message) for message in request.messages if message.role == "tool"]
        return f"是{given[-1]}" if given else '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'

    voice, now = ScriptedVoice(script, context_tokens=400), Tool("now", "几点", "{}")
    async with talking(tmp_path, voice, (now,)) as (talks, one):
        called = await ended(await talks.say("me", one, Saying("r", None, "几点了？")))
        (call,) = called.tool_calls
        assert call.name == "now"
        for wrong in ((ToolResult("other", "x"),), (ToolResult(call.id, "x"), ToolResult(call.id, "y"))):
            with pytest.raises(InvalidRequest):
                await talks.say("me", one, Saying("r", called.id, results=wrong))
        given = (ToolResult(call.id, "八点"),)
        said = await ended(await talks.say("me", one, Saying("r", called.id, results=given)))
        assert said.text == "是八点"
        roles = [message.role for message in voice.asked[-1].messages]
        assert roles == ["user", "assistant", "tool"]
        assert voice.asked[-1].messages[2].tool_call_id == voice.asked[-1].messages[1].tool_calls[0].id == call.id
        assert voice.asked[-1].tools == (now,)
        assert (await talks.store.messages("me", one))[2].tool_results == given
        # What was cut off with its call is not shown without it.
        long = await ended(await talks.say("me", one, Saying("r", said.id, "长" * 300)))
        assert [message.role for message in voice.asked[-1].messages] == ["user"], long


@pytest.mark.parametrize("begun", [True, False])
async def test_a_stopped_answer_keeps_what_came(tmp_path: Path, begun: bool) -> None:
    voice = ScriptedVoice(lambda _: "好的")
    voice.gate.clear()
    async with talking(tmp_path, voice) as (talks, one):
        running = await talks.say("me", one, Saying("r", None, "你好"))
        if begun:
            await until_running(voice)
            running.take(TextDelta("说到一半"))
        assert await talks.stop("me", one)
        said = await ended(running)
        assert (said.status, said.text, said.error) == (Status.STOPPED, "说到一半" if begun else "", None)
        assert (await talks.store.messages("me", one))[-1] == said
        assert not await talks.stop("me", one)
        voice.gate.set()
        again = await ended(await talks.say("me", one, Saying("r", said.parent)))
        assert again.text == "好的"


async def test_an_error_midway_is_told_and_what_came_stays(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: GenerationFailed("模型这一步没算出来"))
    async with talking(tmp_path, voice) as (talks, one):
        said = await ended(await talks.say("me", one, Saying("r", None, "你好")))
        assert (said.status, said.text, said.error) == (Status.FAILED, "half of a rep", "模型这一步没算出来")
        assert (await talks.store.messages("me", one))[-1] == said


async def test_the_servers_end_and_a_kill_keep_what_came(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好的")
    voice.gate.clear()
    async with talking(tmp_path, voice) as (talks, one):
        running = await talks.say("me", one, Saying("r", None, "你好"))
        await until_running(voice)
        running.take(TextDelta("说到"))
        await talks.aclose()
        kept = (await talks.store.messages("me", one))[-1]
        assert (kept.text, kept.status) == ("说到", Status.INTERRUPTED)
        # As a kill leaves it.
        lost = Said("m_lost", kept.parent, "assistant", "说", 1.0, status=Status.RUNNING)
        await talks.store.add("me", one, [lost])
    async with store_in(tmp_path) as store:
        found = (await store.conversations.messages("me", one))[-1]
        assert (found.id, found.text, found.status) == ("m_lost", "说", Status.INTERRUPTED)
        assert found.error


async def test_a_deleted_conversation_takes_its_answer_with_it(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好的")
    voice.gate.clear()
    async with talking(tmp_path, voice) as (talks, one):
        running = await talks.say("me", one, Saying("r", None, "你好"))
        await until_running(voice)
        assert await talks.delete("me", one) == 1
        await ended(running)
        assert await talks.store.listed("me", "", None, 9) == ()
        assert voice.running == 0


async def test_a_long_talk_is_shown_from_a_question_on(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好" * 30, context_tokens=200)
    async with talking(tmp_path, voice) as (talks, one):
        parent = None
        for number in range(12):
            said = await ended(await talks.say("me", one, Saying("r", parent, f"{number:02}" + "问" * 20)))
            assert said.status is Status.DONE
            parent = said.id
            shown = voice.asked[-1].messages
            assert shown[0].role == "user"
            assert text_of(shown[-1]).startswith(f"{number:02}")
            assert sum(len(text_of(message)) for message in shown) < 100
        # The beginning stays for as long as it fits.
        firsts = [text_of(request.messages[0]) for request in voice.asked]
        assert len(set(firsts)) < len(firsts)


def test_the_cut_moves_in_large_steps() -> None:
    assert cut((10,) * 5, 100) == 0
    assert cut((10,) * 11, 100) == 6
    assert [cut((10,) * count, 100) for count in range(11, 17)] == [6, 6, 6, 6, 6, 6]
    assert cut((500,), 100) == 0
    assert cut((10, 500), 100) == 1
