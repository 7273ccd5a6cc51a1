"""When the bot joins a talk that nobody called it into, and when it does not: a scripted voice, a real store."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.chat.decision import Activity, Decision, Reason
from qqvl_server.chat.gate import features, scenes
from qqvl_server.chat.gate.question import CANDIDATES, QUESTION
from qqvl_server.chat.gate.weights import Gate, Weight, question_digest
from qqvl_server.chat.message import Answer, ChatKey, ChatKind, EncodedPicture, Incoming, Speaker, Text
from qqvl_server.chat.policy import Case, joins
from qqvl_server.chat.service import ChatService
from qqvl_server.errors import GenerationFailed, QqvlError
from qqvl_server.generation.port import GenerationRequest, Urgency
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ChatSettings, GenerationSettings
from tests.chat.storing import store_in
from tests.fakes import PictureShelf, ScriptedVoice, text_of

pytestmark = pytest.mark.anyio
GROUP = ChatKey(ChatKind.GROUP, "1")
PRIVATE = ChatKey(ChatKind.PRIVATE, "10001")
# The model's own word decides.
GATE = Gate(
    fingerprint="any",
    question=question_digest(),
    weights={name: Weight(mean=0, scale=1, weight=float(name == features.LOG_ODDS)) for name in features.NAMES},
    bias=0,
    threshold=0,
)
FREE: dict[str, Any] = {"group_reply": "smart", "cooldown_s": 0, "max_active_per_hour": 999, "max_active_per_day": 999}


def script(request: GenerationRequest) -> str | QqvlError:
    """Joins where somebody asks whoever knows; breaks down where a bomb is spoken of."""
    *talk, last = map(text_of, request.messages)
    if last != QUESTION:
        return GenerationFailed("坏了") if "哑弹" in last else "我知道"
    if "炸弹" in talk[-1]:
        return GenerationFailed("坏了")
    return CANDIDATES[0] if "谁知道" in talk[-1] else CANDIDATES[1]


class GateVoice(ScriptedVoice):
    """``scoring`` holds the question back until it is set."""

    def __init__(self) -> None:
        super().__init__(script)
        self.scoring = asyncio.Event()
        self.scoring.set()
        self.questions: list[GenerationRequest] = []

    @property
    def replies(self) -> list[GenerationRequest]:
        return [request for request in self.asked if request not in self.questions]

    async def score(self, request: GenerationRequest, candidates: Sequence[str]) -> tuple[float, ...]:
        self.questions.append(request)
        await self.scoring.wait()
        return await super().score(request, candidates)


def said(text: str, chat: ChatKey = GROUP, **more: Any) -> Incoming:
    mine: dict[str, Any] = {"self_id": "7", "at_me": False}
    return replace(Incoming("req", chat, Speaker("10001", "张三"), (Text(text),), None), **(mine | more))


@asynccontextmanager
async def opened(
    folder: Path, voice: ScriptedVoice, metrics: Metrics | None = None, gate: Gate | None = GATE, **chat: Any
) -> AsyncIterator[ChatService]:
    async with store_in(folder) as store:
        settings = ChatSettings(**(FREE | chat))
        service = ChatService(
            store, lambda: voice, PictureShelf(), settings, GenerationSettings(), 4, metrics, gate=gate
        )
        yield service
        await service.drain(0)


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def told(answer: Answer) -> tuple[str, str]:
    return answer.reply, str(answer.reason)


def decisions(folder: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "qqvl.sqlite3")) as database:
        return database.execute("SELECT speak, reason, score, cost_ms FROM decisions ORDER BY id").fetchall()


async def test_it_joins_where_the_model_would_and_says_why(tmp_path: Path) -> None:
    voice, metrics = GateVoice(), Metrics()
    other = ChatKey(ChatKind.GROUP, "2")
    async with opened(tmp_path, voice, metrics) as service:
        first = service.handle(said("早", other), "")
        fits, fits_not = await asyncio.gather(service.handle(said("谁知道几点开会"), ""), first)
        assert (told(fits), told(fits_not)) == (("我知道", "smart"), ("", "silent"))
        assert not fits_not.should_reply
        why = await service.handle(said("/why", at_me=True), "")
        assert "我觉得该插句话（smart）" in why.reply
        assert "插话的把握：+10.00" in why.reply
    # Asked in its place, behind what listening reads, and answered from there.
    assert {request.urgency for request in voice.asked} == {Urgency.ACTIVE_SPEECH}
    (question,) = (request for request in voice.questions if request.owner == str(GROUP))
    (reply,) = voice.replies
    assert question.messages == (*reply.messages, *scenes.rendered(())[1:])
    assert (question.owner, reply.owner) == (str(GROUP), str(GROUP))
    assert [row[:3] for row in decisions(tmp_path) if row[1] != "command"] == [(0, "silent", -10.0), (1, "smart", 10.0)]
    assert all(cost_ms > 0 for *_, cost_ms in decisions(tmp_path))
    value = metrics.registry.get_sample_value
    for reason in ("smart", "silent", "command"):
        assert value("qqvl_chat_decisions_total", {"reason": reason}) == 1
        assert value("qqvl_chat_decision_seconds_count", {"reason": reason}) == 1
    assert value("qqvl_chat_gate_score_count") == 2
    assert value("qqvl_chat_gate_score_bucket", {"le": "0.0"}) == 1


async def test_scenes_are_shown_as_the_service_shows_them(tmp_path: Path) -> None:
    """What a gate was calibrated and the demo trained with is what is asked."""
    voice = GateVoice()
    talk = [("谁知道几点开会", "张三", "10001"), ("> 早", "[李四 QQ:1]", "10002"), ("谁知道呢", "张三", "10001")]
    async with opened(tmp_path, voice) as service:
        for text, name, who in talk:
            await service.handle(said(text, speaker=Speaker(who, name)), "")
    lines = [scenes.Line(scene="s", text=text, at=0, speaker=name, user_id=who) for text, name, who in talk]
    ours = scenes.Line(scene="s", text="我知道", at=0, ours=True)
    scene = scenes.Scene("s", "test", (lines[0], ours, lines[1], lines[2]))
    assert [q.messages for q in voice.questions] == [scenes.rendered(scene.history(place)) for place in (0, 2, 3)]


async def test_a_burst_is_one_question_and_its_earlier_lines_wait_for_nothing(tmp_path: Path) -> None:
    voice = GateVoice()
    async with opened(tmp_path, voice) as service:
        answers = []
        for text in ("谁知道", "几点", "开会，谁知道"):
            answers.append(asyncio.create_task(service.handle(said(text), "")))
            await asyncio.sleep(0.05)
        assert [told(await answer) for answer in answers[:2]] == [("", "silent")] * 2
        assert voice.questions == []
        assert told(await answers[2]) == ("我知道", "smart")
    assert len(voice.questions) == 1
    assert len(voice.questions[0].messages) == 1 + 3 + 1


async def test_whoever_calls_waits_for_no_pause_and_no_question(tmp_path: Path) -> None:
    voice = GateVoice()
    async with opened(tmp_path, voice, merge_wait_s=0) as service:
        talk = asyncio.create_task(service.handle(said("谁知道"), ""))
        await asyncio.sleep(0.05)
        assert told(await service.handle(said("在吗", at_me=True), "")) == ("我知道", "addressed")
        assert told(await talk) == ("", "silent")
        assert voice.questions == []
        # Nor does a question that is being asked, or an answer that is being made.
        for hold in (voice.scoring, voice.gate):
            hold.clear()
            asked = len(voice.questions) if hold is voice.scoring else len(voice.replies)
            talk = asyncio.create_task(service.handle(said("谁知道"), ""))
            await until(
                lambda asked=asked, hold=hold: len(voice.questions if hold is voice.scoring else voice.replies) > asked
            )
            call = asyncio.create_task(service.handle(said("在吗", at_me=True), ""))
            assert told(await talk) == ("", "silent")
            hold.set()
            assert told(await call) == ("我知道", "addressed")


async def test_newer_talk_drops_what_was_about_to_be_said(tmp_path: Path) -> None:
    voice, metrics = GateVoice(), Metrics()
    async with opened(tmp_path, voice, metrics) as service:
        voice.gate.clear()
        first = asyncio.create_task(service.handle(said("谁知道几点开会"), ""))
        await until(lambda: voice.running)
        second = asyncio.create_task(service.handle(said("三点"), ""))
        answer = await first
        assert (told(answer), answer.should_reply) == (("", "silent"), False)
        await until(lambda: not voice.running)
        voice.gate.set()
        assert told(await second) == ("", "silent")
        kept = await service.messages(GROUP, before=None, limit=9) or ()
        assert [message.role for message in kept] == ["user", "user"]
    # It was found fitting, and yet not said.
    assert [row[:3] for row in decisions(tmp_path)] == [(0, "silent", 10.0), (0, "silent", -10.0)]
    assert metrics.registry.get_sample_value("qqvl_chat_interruptions_total", {"reason": "newer_talk"}) == 1


async def test_stop_and_recall_end_what_nobody_asked_for(tmp_path: Path) -> None:
    voice = GateVoice()
    async with opened(tmp_path, voice) as service:
        for number, end in enumerate(("stop", "recall")):
            voice.gate.clear()
            talk = asyncio.create_task(service.handle(said("谁知道", message_id=str(number)), ""))
            await until(lambda: voice.running)
            if end == "stop":
                stop = await service.handle(said("停止", at_me=True, role="member", message_id="s"), "")
                assert stop.reply == "好的，不说了。"
            else:
                await service.recall(GROUP, str(number))
            assert not (await talk).should_reply
            await until(lambda: not voice.running)
            voice.gate.set()
        kept = await service.messages(GROUP, before=None, limit=9) or ()
        assert len(kept) == 1


async def test_whatever_goes_wrong_is_a_silence(tmp_path: Path) -> None:
    voice = GateVoice()
    async with opened(tmp_path, voice) as service:
        groups = [ChatKey(ChatKind.GROUP, str(n)) for n in range(3)]
        talk = ("谁知道炸弹", "谁知道哑弹", "谁知道")
        answers = await asyncio.gather(
            *(service.handle(said(text, group), "") for text, group in zip(talk, groups, strict=True))
        )
        assert list(map(told, answers)) == [("", "silent"), ("", "silent"), ("我知道", "smart")]


async def test_it_leaves_its_speech_at_that_until_somebody_takes_it_up(tmp_path: Path) -> None:
    voice = GateVoice()
    async with opened(tmp_path, voice, merge_wait_s=0) as service:
        store = service._store
        groups = [ChatKey(ChatKind.GROUP, str(n)) for n in range(2)]
        for count in (1, 2):
            await asyncio.gather(*(service.handle(said("谁知道", group), "") for group in groups))
            found = [(await store.books.activity(group, time.time())).unanswered for group in groups]
            assert found == [count, count]
        await service.handle(said("谢谢", groups[0], at_me=True), "")
        found = [(await store.books.activity(group, time.time())).unanswered for group in groups]
        assert found == [0, 2]


async def test_no_gate_for_the_loaded_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    voice = GateVoice()
    async with opened(tmp_path, voice, gate=None) as service:
        for _ in range(2):
            assert told(await service.handle(said("谁知道"), "")) == ("", "silent")
        assert told(await service.handle(said("在吗", at_me=True), "")) == ("我知道", "addressed")
        status = await service.handle(said("/status", at_me=True), "")
        assert "还没有校准过" in status.reply
    assert voice.questions == []
    assert capfd.readouterr().out.count("group_reply: smart") == 1
    (tmp_path / "with").mkdir()
    async with opened(tmp_path / "with", voice) as service:
        status = await service.handle(said("/status", at_me=True), "")
        assert "校准" not in status.reply
    assert "group_reply: smart" not in capfd.readouterr().out


# The local gates, which cost nothing ------------------------------------------------------------------------

NOON = time.mktime((2026, 11, 29, 12, 0, 0, 0, 0, -1))
SMART = Decision(True, Reason.SMART)
LATELY = Activity(NOON - 59, 1, 1, 1)
SHUT: list[tuple[Incoming, dict[str, Any], dict[str, Any], Decision | None]] = [
    (said("谁知道"), {}, {}, SMART),
    (said("谁知道"), {}, {"has_gate": False}, None),
    (said("谁知道"), {"group_reply": "addressed"}, {}, None),
    (said("谁知道"), {"group_reply": "all"}, {}, None),
    (said("谁知道"), {"group_reply": "off"}, {}, None),
    (said("谁知道", at_me=None), {}, {}, None),
    (said("谁知道", at_me=None, self_id=None), {}, {}, None),
    (said("谁知道", at_me=True), {}, {}, None),
    (said("小Q谁知道"), {"bot_names": ("小Q",)}, {}, None),
    (said("谁知道"), {}, {"quotes_ours": True}, None),
    (said("谁知道", context_only=True), {}, {}, None),
    (said("谁知道", PRIVATE), {}, {}, None),
    (said("/天气 北京"), {}, {}, None),
    (said("重置"), {}, {}, None),
    (said("谁知道", from_bot=True), {}, {}, Decision(False, Reason.BOT)),
    (said("谁知道"), {}, {"is_machine": True}, Decision(False, Reason.BOT)),
    (said("谁知道"), {"deny_groups": ("1",)}, {}, Decision(False, Reason.LISTED)),
    (said("谁知道", sent_at=NOON - 400), {}, {}, Decision(False, Reason.STALE)),
    (said("谁知道"), {}, {"muted": True}, Decision(False, Reason.QUIET)),
    (said("谁知道"), {"quiet_hours": "11:00-13:00"}, {}, Decision(False, Reason.QUIET)),
    (said("谁知道"), {}, {"activity": LATELY}, Decision(False, Reason.COOLDOWN)),
    (said("谁知道"), {}, {"activity": replace(LATELY, last=NOON - 61)}, SMART),
    (said("谁知道"), {"cooldown_s": 10}, {"activity": LATELY}, SMART),
    (said("谁知道"), {}, {"activity": Activity(NOON - 119, 2, 2, 2)}, Decision(False, Reason.COOLDOWN)),
    (said("谁知道"), {}, {"activity": Activity(NOON - 121, 2, 2, 2)}, SMART),
    (said("谁知道"), {}, {"activity": Activity(NOON - 470, 4, 4, 4)}, Decision(False, Reason.COOLDOWN)),
    (said("谁知道"), {}, {"activity": Activity(NOON - 490, 4, 4, 4)}, SMART),
    (said("谁知道"), {}, {"activity": Activity(NOON - 6 * 3600 + 9, 0, 50, 50)}, Decision(False, Reason.COOLDOWN)),
    (said("谁知道"), {}, {"activity": Activity(NOON - 6 * 3600 - 9, 0, 50, 50)}, SMART),
    (said("谁知道"), {}, {"activity": Activity(NOON - 900, 12, 12)}, Decision(False, Reason.COOLDOWN)),
    (said("谁知道"), {}, {"activity": Activity(NOON - 9000, 0, 60)}, Decision(False, Reason.COOLDOWN)),
    (said("谁知道"), {}, {"used_up": "没了"}, Decision(False, Reason.QUOTA)),
    (said("", parts=(EncodedPicture("x"),)), {}, {}, SMART),
]  # fmt: skip


@pytest.mark.parametrize(("incoming", "settings", "known", "decision"), SHUT)
def test_local_gates(
    incoming: Incoming, settings: dict[str, Any], known: dict[str, Any], decision: Decision | None
) -> None:
    case = Case(incoming, ChatSettings(**({"group_reply": "smart"} | settings)), NOON, **({"has_gate": True} | known))
    assert joins(case) == decision


async def test_what_the_local_gates_shut_out_is_told_at_once(tmp_path: Path) -> None:
    voice = GateVoice()
    async with opened(tmp_path, voice, max_active_per_day=0) as service:
        assert told(await service.handle(said("谁知道"), "")) == ("", "cooldown")
        await service.preferences.change(GROUP, {"quiet_hours": ["0:00-24:00"]})
        assert told(await service.handle(said("谁知道"), "")) == ("", "quiet")
    assert voice.questions == []
