"""A voice in replicas: what crosses, who is asked, and what becomes of a turn whose replica dies. Without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qqvl_server import cluster
from qqvl_server.config import resolve
from qqvl_server.errors import (
    Away,
    ConfigError,
    DeadlineExceeded,
    EngineDead,
    GenerationFailed,
    PromptTooLong,
    QqvlError,
)
from qqvl_server.generation.engines.affinity import Homes, session_of, two_for
from qqvl_server.generation.engines.remote import RemoteVoice, ReplicaLost
from qqvl_server.generation.engines.served import Described, Served
from qqvl_server.generation.port import (
    ChatMessage,
    GenerationRequest,
    Grammar,
    GrammarKind,
    ImagePart,
    Sampling,
    TextPart,
    Tool,
    Urgency,
)
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.metrics import Metrics
from tests.fakes import ScriptedVoice
from tests.pictures import base64_picture

pytestmark = pytest.mark.anyio

Answering = Callable[[GenerationRequest], str | QqvlError]


def asking(
    text: str = "hi", owner: str = "group:1", urgency: Urgency = Urgency.PRIVATE, **more: Any
) -> GenerationRequest:
    messages = (ChatMessage("user", (TextPart(text),)),)
    return GenerationRequest("r", messages, Sampling(64), time.monotonic() + 60, owner=owner, urgency=urgency, **more)


def shelf(folder: Path) -> ImageLibrary:
    return ImageLibrary(folder, 10**9, ImageLimits(20_000_000, 50_000_000, 4, 1024))


class One:
    """A replica that can be killed: before it takes the next call, or once so many answers of it have been told."""

    def __init__(self, folder: Path, script: Answering) -> None:
        self.voice = ScriptedVoice(script)
        self.library = shelf(folder)
        self.served = Served(self.voice, self.library)
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.ends_after: int | None = None
        self.dies_at = ""


class Fleet:
    """Replicas by the protocol that Ray's are behind: everything crosses as bytes, a chat goes where it is at home."""

    def __init__(self, folder: Path, count: int, script: Answering) -> None:
        self.alive = {f"r{number}": One(folder / f"r{number}", script) for number in range(count)}
        self.back = asyncio.Event()
        self._homes = Homes()

    async def call(self, method: str, session: str, *values: Any) -> Any:
        name, one = await self._taken(method, session, values)
        if one.ends_after == 0 or method == one.dies_at:
            del self.alive[name]
            raise ReplicaLost(name)
        return _crossed(await getattr(one.served, method)(*_crossed(values)))

    async def stream(self, method: str, session: str, *values: Any) -> AsyncGenerator[Any, None]:
        name, one = await self._taken(method, session, values)
        told = 0
        async with aclosing(getattr(one.served, method)(*_crossed(values))) as items:
            async for item in items:
                if told == one.ends_after:
                    del self.alive[name]
                    raise ReplicaLost(name)
                yield _crossed(item)
                told += 1

    async def aclose(self) -> None:
        self.alive.clear()

    async def _taken(self, method: str, session: str, values: tuple[Any, ...]) -> tuple[str, One]:
        while not self.alive:
            await self.back.wait()
        name = self._homes.of(session, self.alive) or two_for(session, self.alive)[0]
        self._homes.settle(session, name)
        one = self.alive[name]
        one.calls.append((method, values))
        return name, one

    @property
    def asked(self) -> list[str]:
        return [name for name, one in self.alive.items() for _ in one.voice.asked]


def _crossed(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def voice_of(fleet: Fleet, folder: Path, **more: Any) -> RemoteVoice:
    return RemoteVoice(fleet, Described(1000, "cpu", True), shelf(folder / "door"), Metrics(), **more)


async def said(voice: RemoteVoice, request: GenerationRequest) -> str:
    return "".join([getattr(event, "text", "") async for event in voice.generate(request)])


async def test_a_reply_crosses_as_it_was_told(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1, lambda _: "一句话")
    request = asking(choices=2)
    here = [event async for event in fleet.alive["r0"].voice.generate(request)]
    assert [event async for event in voice_of(fleet, tmp_path).generate(request)] == here
    assert await voice_of(fleet, tmp_path).score(request, ["一", "二"]) == (0.0, -10.0)
    assert await voice_of(fleet, tmp_path).detokenize(await voice_of(fleet, tmp_path).tokenize(request)) == "hi"


async def test_a_replica_lost_before_the_first_word_is_asked_again_of_another(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 3, lambda _: "hello")
    voice = voice_of(fleet, tmp_path)
    home = two_for(session_of(asking()), fleet.alive)[0]
    fleet.alive[home].ends_after = 0
    assert await said(voice, asking()) == "hello"
    assert home not in fleet.alive
    assert len(fleet.asked) == 1
    # And so is what is no reply: nothing of it has been told.
    for one in fleet.alive.values():
        one.ends_after = 0
        break
    assert await voice.count(asking("new words").messages) == (9,)
    assert voice.status().alive


async def test_a_reply_that_has_begun_is_not_begun_again(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 2, lambda _: GenerationFailed("half is told before this"))
    home = two_for(session_of(asking()), fleet.alive)[0]
    fleet.alive[home].ends_after = 1
    async with aclosing(voice_of(fleet, tmp_path).generate(asking())) as events:
        assert await anext(events)
        with pytest.raises(GenerationFailed) as failed:
            await anext(events)
    assert failed.value.may_retry
    assert not fleet.asked


async def test_a_replica_whose_engine_died_is_as_good_as_lost(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1, lambda _: "hello")
    voice = voice_of(fleet, tmp_path)
    fleet.alive["r0"].served = Served(DyingVoice(lambda _: "never"), shelf(tmp_path / "r0"))
    with pytest.raises(GenerationFailed):
        await said(voice, asking())
    assert len(fleet.alive["r0"].calls) == 3
    # What stands behind the doors is not dead: replicas are replaced.
    assert voice.status().alive


class DyingVoice(ScriptedVoice):
    async def generate(self, request: GenerationRequest) -> Any:
        if request.owner:
            raise EngineDead("模型已停止工作")
        yield


async def test_errors_cross_as_they_are(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1, lambda _: PromptTooLong("内容太长", limit=7))
    voice = voice_of(fleet, tmp_path)
    with pytest.raises(PromptTooLong) as long:
        await said(voice, asking())
    assert (long.value.message, long.value.limit) == ("内容太长", 7)
    with pytest.raises(PromptTooLong):
        await voice.score(asking(), ["a"])


async def test_a_chat_keeps_its_replica_while_that_lives() -> None:
    homes, there = Homes(), ["a", "b", "c"]
    chats = [f"chat-{number}" for number in range(200)]
    for chat in chats:
        homes.settle(chat, two_for(chat, there)[0])
    before = {chat: homes.of(chat, there) for chat in chats}
    assert all(40 < list(before.values()).count(name) < 95 for name in there)
    # b dies, and what takes its place has a new name.
    there = ["a", "b2", "c"]
    after = {chat: homes.of(chat, there) for chat in chats}
    assert all(after[chat] == home for chat, home in before.items() if home != "b")
    assert all(after[chat] is None for chat, home in before.items() if home == "b")
    # By the hash alone the newcomer would have drawn a third of the survivors' chats from where they are cached.
    moved = [chat for chat in chats if before[chat] != "b" and two_for(chat, there)[0] == "b2"]
    assert len(moved) > 20


async def test_doors_that_never_met_place_a_chat_between_the_same_two() -> None:
    there = ["a", "b", "c", "d", "e"]
    assert all(two_for(f"{n}", there) == two_for(f"{n}", reversed(there)) for n in range(50))


async def test_requests_of_one_conversation_have_one_session_and_numbers_do_not_show() -> None:
    chat = asking(owner="group:123456789")
    assert session_of(chat) == session_of(replace(chat, messages=asking("more").messages, urgency=Urgency.IDLE))
    assert "123456789" not in session_of(chat)
    first = asking("a", owner="api:k", urgency=Urgency.API)
    answered = (*first.messages, ChatMessage("assistant", (TextPart("b"),)), ChatMessage("user", (TextPart("c"),)))
    assert session_of(first) == session_of(replace(first, messages=answered))
    assert session_of(first) != session_of(asking("z", owner="api:k", urgency=Urgency.API))
    assert session_of(first) != session_of(asking("a", owner="api:other", urgency=Urgency.API))
    assert session_of(replace(first, messages=(), raw="text")) == ""


async def test_a_picture_is_sent_once_to_each_replica(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 2, lambda _: "red")
    voice = voice_of(fleet, tmp_path)
    ref = shelf(tmp_path / "door").add_base64(base64_picture())
    message = ChatMessage("user", (ImagePart(ref), TextPart("?")))
    request = replace(asking(), messages=(message,))
    for _ in range(2):
        assert await said(voice, request) == "red"
    await voice.score(request, ["red"])
    sent = [method for one in fleet.alive.values() for method, _ in one.calls if method == "keep"]
    assert sent == ["keep"]
    # The replica dies: whoever has the chat now is sent the picture as well.
    home = next(name for name, one in fleet.alive.items() if one.voice.asked)
    fleet.alive[home].ends_after = 0
    assert await said(voice, request) == "red"
    (one,) = fleet.alive.values()
    assert one.library.holds(ref)


async def test_a_replica_lost_while_it_is_sent_a_picture_is_no_error(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 2, lambda _: "red")
    ref = shelf(tmp_path / "door").add_base64(base64_picture())
    request = replace(asking(), messages=(ChatMessage("user", (ImagePart(ref), TextPart("?"))),))
    home = two_for(session_of(request), fleet.alive)[0]
    fleet.alive[home].dies_at = "keep"
    assert await voice_of(fleet, tmp_path).score(request, ["red"]) == (0.0,)
    assert home not in fleet.alive


async def test_a_picture_that_nobody_has_any_more_holds_no_reply_up(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1, lambda _: "gone")
    ref = shelf(tmp_path / "elsewhere").add_base64(base64_picture())
    request = replace(asking(), messages=(ChatMessage("user", (ImagePart(ref),)),))
    assert await said(voice_of(fleet, tmp_path), request) == "gone"


async def test_only_new_messages_are_counted_again(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1, lambda _: "hello")
    voice = voice_of(fleet, tmp_path)
    old, new = asking("old").messages[0], asking("newer").messages[0]
    assert await voice.count([old, old]) == (3, 3)
    assert await voice.count([old, new]) == (3, 5)
    assert [values for method, values in fleet.alive["r0"].calls if method == "count"] == [((old,),), ((new,),)]


async def test_the_models_time_comes_back_with_the_reply(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1, lambda _: "hello")
    voice = voice_of(fleet, tmp_path)
    fleet.alive["r0"].voice.seconds = 2.0
    await said(voice, asking())
    assert voice.take_seconds("group:1") == 2.0
    assert voice.take_seconds("group:1") == 0.0


async def test_what_a_schema_gave_up_is_known_once_a_reply_has_begun(tmp_path: Path) -> None:
    voice = voice_of(Fleet(tmp_path, 1, lambda _: "{}"), tmp_path)
    grammar = Grammar(GrammarKind.JSON_SCHEMA, "{}", given_up=("$.a",))
    request = asking(grammar=grammar)
    async with aclosing(voice.generate(request)) as events:
        await anext(events)
        assert voice.given_up(request) == ("$.a",)
        assert voice.given_up(asking(tools=(Tool("t", None, "{}"),))) == ()


async def test_whoever_leaves_stops_the_replica(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1, lambda _: "hello")
    replica = fleet.alive["r0"].voice
    replica.gate.clear()
    leaving = asyncio.create_task(said(voice_of(fleet, tmp_path), asking()))
    while not replica.running:
        await asyncio.sleep(0)
    leaving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await leaving
    assert not replica.running


async def test_nobody_waits_for_a_replica_past_the_deadline(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1, lambda _: "hello")
    fleet.alive["r0"].voice.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await said(voice_of(fleet, tmp_path), replace(asking(), deadline=time.monotonic() + 0.05))


async def test_a_voice_without_replicas_is_away_and_comes_back(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1, lambda _: "hello")
    lost = dict(fleet.alive)
    fleet.alive.clear()
    voice = voice_of(fleet, tmp_path, away_after_s=0.1)
    watching = asyncio.create_task(voice.watch())
    while not voice.status().away:
        await asyncio.sleep(0.01)
    assert voice.status().alive
    with pytest.raises(Away):
        await said(voice, asking())
    fleet.alive.update(lost)
    fleet.back.set()
    while voice.status().away:
        await asyncio.sleep(0.01)
    assert await said(voice, asking()) == "hello"
    watching.cancel()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"replicas": "3", "max_replicas": "2"}, "--max-replicas"),
        ({"replicas": "2", "replica_gpus": "0.5"}, "--kv-cache-gb"),
        ({"replicas": "2", "engine": "upstream"}, "--engine upstream"),
    ],
)
async def test_settings_that_do_not_go_together_are_told_before_anything_starts(
    flags: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        cluster.check(resolve(flags, {}, None).settings)
    assert told in refused.value.message


async def test_a_misspelt_argument_of_serve_run_is_told() -> None:
    with pytest.raises(ConfigError) as refused:
        cluster.app({"replica": "2"})
    assert "replica" in refused.value.message
