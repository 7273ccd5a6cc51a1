"""Talk that is only listened to is read ahead, once per burst, and never in the way of a turn."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qqvl_server.chat.message import ChatKey, ChatKind, Incoming, Speaker, Text
from qqvl_server.chat.service import ChatService
from qqvl_server.chat.store import Store
from qqvl_server.generation.port import GenerationRequest, Urgency
from qqvl_server.settings import ChatSettings, GenerationSettings
from tests.chat.storing import store_in
from tests.fakes import PictureShelf, ScriptedVoice, text_of

pytestmark = pytest.mark.anyio
GROUP = ChatKey(ChatKind.GROUP, "1")


class ListeningVoice(ScriptedVoice):
    def __init__(self) -> None:
        super().__init__(lambda _: "好")
        self.read: list[GenerationRequest] = []
        self.has_read = asyncio.Event()

    async def warm(self, request: GenerationRequest) -> None:
        self.read.append(request)
        self.has_read.set()


def said(text: str, at_me: bool) -> Incoming:
    return Incoming("req", GROUP, Speaker("10001", "张三"), (Text(text),), 0.0, None, at_me=at_me)


def service_on(store: Store, voice: ListeningVoice) -> ChatService:
    settings = ChatSettings(group_reply="addressed")
    return ChatService(store, lambda: voice, PictureShelf(), settings, GenerationSettings(), 4)


async def test_a_burst_of_talk_is_read_ahead_once_and_whole(tmp_path: Path) -> None:
    voice = ListeningVoice()
    async with store_in(tmp_path) as store:
        service = service_on(store, voice)
        for text in ("一", "二", "三"):
            await service.handle(said(text, at_me=False), "群")
        await asyncio.wait_for(voice.has_read.wait(), 30)
        await service.drain(0)
    (request,) = voice.read
    assert request.urgency is Urgency.IDLE
    assert request.owner == "group:1"
    assert [text_of(m).rpartition(" ")[2] for m in request.messages[1:]] == ["一", "二", "三"]


async def test_a_call_takes_the_place_of_reading_ahead_and_goes_first(tmp_path: Path) -> None:
    voice = ListeningVoice()
    async with store_in(tmp_path) as store:
        service = service_on(store, voice)
        await service.handle(said("一", at_me=False), "群")
        await service.handle(said("二", at_me=True), "群")
        await service.drain(0)
    assert voice.read == []
    assert [request.urgency for request in voice.asked] == [Urgency.ADDRESSED]
