"""Who wants to be a friend, or takes the account into a group: told to the owners, decided by their word alone."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Coroutine
from typing import Any

from qqvl_client.entries import Errand
from qqvl_client.errors import LineError
from qqvl_client.journal import Journal
from qqvl_client.message import Application, Chat, MessageEvent
from qqvl_client.onebot import OneBot
from qqvl_client.outbox import Outbox
from qqvl_client.settings import Settings

LOG = logging.getLogger("qqvl.admissions")
WORD = re.compile(r"\s*(同意|拒绝)\s*[#＃]?(\d{0,9})\s*")
KEPT_S = 7 * 86_400
MOST = 100
"""Strangers can ask as often as they like: of more than this the oldest is forgotten."""


class Admissions:
    """Applications wait in the journal; their number there is what the owner names."""

    def __init__(self, settings: Settings, onebot: OneBot, journal: Journal, outbox: Outbox) -> None:
        self._settings = settings
        self._onebot = onebot
        self._journal = journal
        self._outbox = outbox
        self._open: dict[int, Errand] = {}
        self._flags: set[str] = set()
        self._working: set[asyncio.Task[None]] = set()

    def resume(self, errands: list[Errand]) -> None:
        """Owners are reminded of what an earlier run left undecided."""
        for errand in errands:
            self._open[errand.id] = errand
            self._flags.add(errand.told["flag"])
            old = time.time() - errand.made_at > KEPT_S
            self._work(self._forget(errand) if old else self._announce(errand))

    def take(self, application: Application) -> None:
        # Told twice it is one, also while the first is still being written down.
        if application.flag not in self._flags:
            self._flags.add(application.flag)
            self._work(self._applied(application))

    def is_word(self, event: MessageEvent) -> bool:
        """Whether an owner decides here; the same word is plain talk while nobody waits for it."""
        if not self._open or event.chat.kind != "private" or event.sender.id not in self._settings.owners:
            return False
        return WORD.fullmatch(_words(event)) is not None

    def obey(self, event: MessageEvent) -> None:
        self._work(self._decided(event))

    async def aclose(self) -> None:
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_guarded(work), name="admission")
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _applied(self, application: Application) -> None:
        told = {name: getattr(application, name) for name in ("kind", "user_id", "group_id", "comment", "flag")}
        errand = await self._journal.application(Chat("private", application.user_id, application.self_id), told)
        self._open[errand.id] = errand
        while len(self._open) > MOST:
            await self._forget(next(iter(self._open.values())))
        if self._settings.auto_accept:
            await self._tell(errand, f"{await self._what(errand)}\n{await self._decide(errand, approve=True)}")
        else:
            await self._announce(errand)

    async def _announce(self, errand: Errand) -> None:
        await self._onebot.wait_up(errand.chat.self_id)
        what = await self._what(errand)
        if self._settings.owners:
            LOG.info("已问主人：%s", " ".join(what.split()))
        else:
            LOG.warning("没有人能决定（没有设 owners）：%s", " ".join(what.split()))
        await self._tell(errand, f"{what}\n回复“同意 {errand.id}”或“拒绝 {errand.id}”。")

    async def _what(self, errand: Errand) -> str:
        told, self_id = errand.told, errand.chat.self_id
        name = await self._onebot.nickname(self_id, told["user_id"])
        who = f"{name or '某人'}（QQ {told['user_id']}）"
        if told["kind"] == "group":
            group = await self._onebot.group_name(self_id, told["group_id"])
            what = f"{who}邀请机器人进群{group}（{told['group_id']}）"
        else:
            what = f"{who}想加机器人为好友"
        return f"{what}\n附言：{told['comment']}" if told["comment"] else what

    async def _tell(self, errand: Errand, text: str) -> None:
        for owner in self._settings.owners:
            await self._outbox.say(Chat("private", owner, errand.chat.self_id), text)

    async def _decided(self, event: MessageEvent) -> None:
        word = WORD.fullmatch(_words(event))
        assert word is not None
        number = int(word[2]) if word[2] else next(iter(self._open)) if len(self._open) == 1 else 0
        errand = self._open.get(number)
        if errand is None:
            waiting = "、".join(map(str, self._open))
            answer = f"请说明是哪一个：{word[1]} 加上编号。还没答复的编号：{waiting}。"
        else:
            answer = await self._decide(errand, approve=word[1] == "同意")
        await self._outbox.say(event.chat, answer)

    async def _decide(self, errand: Errand, approve: bool) -> str:
        """Carry it out; what the owner is told."""
        word = "同意" if approve else "拒绝"
        told = errand.told
        try:
            await self._onebot.decide(errand.chat.self_id, told["kind"], told["flag"], approve)
        except LineError as error:
            LOG.warning("%s第 %d 个申请没有办成：%s", word, errand.id, error)
            return f"{word} {errand.id} 没有办成（{error}）。可以再说一次，或到 QQ 里处理。"
        await self._forget(errand)
        LOG.info("%s了第 %d 个申请（QQ %s）", word, errand.id, told["user_id"])
        return f"已{word}（编号 {errand.id}，QQ {told['user_id']}）。"

    async def _forget(self, errand: Errand) -> None:
        self._open.pop(errand.id, None)
        self._flags.discard(errand.told["flag"])
        await self._journal.settle(errand)


async def _guarded(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    # The admissions' edge: nobody awaits these tasks, and their errors would be told when they are collected.
    except Exception:
        LOG.exception("处理一个申请时出了没料到的错")


def _words(event: MessageEvent) -> str:
    """What was said, if it is words alone."""
    if any(segment.type != "text" for segment in event.segments):
        return ""
    return "".join(str(segment.data.get("text", "")) for segment in event.segments)
