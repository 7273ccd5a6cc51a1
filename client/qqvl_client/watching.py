"""Looks after both lines, QQ's and the server's: asks them once a minute, mends what can be mended, tells the owners.

A OneBot line can be half dead: events come, actions do nothing, pings are answered. Only a real action shows it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from qqvl_client.alarm import Alarm
from qqvl_client.bodies import status_of
from qqvl_client.errors import ActionRefusedError, LineDownError, LineError
from qqvl_client.figures import Figures
from qqvl_client.message import AccountOffline, Chat, Event, Heartbeat, LineUp, MessageEvent
from qqvl_client.onebot import Link, OneBot
from qqvl_client.settings import Settings

LOG = logging.getLogger("qqvl.watching")
FAILURES = 2
"""Looks in a row that an action has failed in before the line counts as dead: one may be lost to a busy moment."""


class Server(Protocol):
    async def stands(self, status: bytes) -> bool:
        """Tell it how the line stands; whether it would take a message now."""


class Says(Protocol):
    async def say(self, chat: Chat, text: str) -> None: ...


@dataclass
class Outage:
    """One side's being away, where it is: since when, whether it was long enough to tell, whether the bell rang."""

    began: float | None = None
    told: bool = False
    rung: bool = False

    def goes_on(self, now: float) -> float:
        """How many seconds it has lasted."""
        self.began = now if self.began is None else self.began
        return now - self.began

    def end(self, now: float) -> float | None:
        """How many seconds it lasted, where it was told; None else."""
        lasted = now - self.began if self.told and self.began is not None else None
        self.began, self.told, self.rung = None, False, False
        return lasted


@dataclass
class Account:
    """What is known of one account's line. `is_dead` until an action is done again."""

    id: str
    is_up: bool = False
    is_online: bool = True
    is_dead: bool = False
    failures: int = 0
    outage: Outage = field(default_factory=Outage)

    @property
    def reason(self) -> str:
        """What is wrong; empty while it is well."""
        if not self.is_up:
            return "线路断开"
        return "QQ 账号掉线" if not self.is_online else "动作没有应答" if self.is_dead else ""


class Watch:
    """One per relay. Its own failures are log lines: what it looks after goes on without it."""

    def __init__(
        self,
        settings: Settings,
        link: Link,
        onebot: OneBot,
        server: Server,
        outbox: Says,
        figures: Figures,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._link = link
        self._onebot = onebot
        self._server = server
        self._outbox = outbox
        self._figures = figures
        self._steady = steady
        self._alarm = Alarm(settings)
        self._accounts: dict[str, Account] = {settings.bot_qq: Account(settings.bot_qq)}
        self._server_outage = Outage()
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._work(self._run())

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._alarm.aclose()

    def heard(self, event: Event | None) -> None:
        """What an event tells of its account. Never blocks."""
        match event:
            case LineUp(self_id=self_id):
                self._account(self_id)
                self._news.set()
            case MessageEvent():
                self._account(event.chat.self_id)
            case Heartbeat(self_id=self_id, online=bool(online)):
                self._set_online(self_id, online)
            case AccountOffline(self_id=self_id):
                self._set_online(self_id, False)

    def _set_online(self, self_id: str, is_online: bool) -> None:
        account = self._account(self_id)
        if account.is_online != is_online:
            account.is_online = is_online
            self._news.set()

    def _account(self, self_id: str) -> Account:
        if self_id and self_id not in self._accounts:
            # Whoever nobody had a name for was this one.
            known = self._accounts.pop("") if "" in self._accounts else Account(self_id)
            known.id = self_id
            self._accounts[self_id] = known
        return self._accounts.get(self_id) or next(iter(self._accounts.values()))

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="watch")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        due = self._steady() + self._settings.watch_every_s
        while True:
            probing = self._steady() >= due
            if probing:
                due = self._steady() + self._settings.watch_every_s
            try:
                await self._look(probing)
            # The watch's edge: whatever one look met, the next is made.
            except Exception:
                LOG.exception("察看线路时出了没料到的错")
            with suppress(TimeoutError):
                async with asyncio.timeout(max(due - self._steady(), 0)):
                    await self._news.wait()
            self._news.clear()

    async def _look(self, probing: bool) -> None:
        accounts = list(self._accounts.values())
        for account in accounts:
            account.is_up = self._link.is_up(account.id)
            if account.id and account.is_up and account.is_online and (probing or account.is_dead):
                await self._probe(account)
        stands = [await self._server.stands(status_of(account.id, account.reason)) for account in accounts]
        for account in accounts:
            await self._judge_line(account)
        self._figures.server_up.set(all(stands))
        self._judge_server(all(stands))

    async def _probe(self, account: Account) -> None:
        """Have one action done; give a line up on which none is."""
        if await self._acts(account.id):
            account.failures, account.is_dead = 0, False
            return
        account.failures += 1
        if account.failures >= FAILURES:
            account.failures, account.is_dead = 0, True
            LOG.error("NapCat 收得到消息，但不做任何动作，断开重连；重连也不行就重启 NapCat")
            await self._link.renew(account.id)

    async def _acts(self, self_id: str) -> bool:
        try:
            await self._onebot.login(self_id)
        except (ActionRefusedError, LineDownError):
            # What is refused has been read, and a line that is down is another matter.
            return True
        except LineError as error:
            LOG.warning("NapCat 没有做一个简单的动作：%s", error)
            return False
        return True

    async def _judge_line(self, account: Account) -> None:
        now, outage = self._steady(), account.outage
        who = f"机器人 {account.id}" if account.id else "机器人"
        if not account.reason:
            if (lasted := outage.end(now)) is not None:
                text = f"{who} 的 QQ 线路断了{_long(lasted)}，现在好了。"
                await self._alarm.ring("qqvl：QQ 线路好了", text, "up", account.id)
                self._tell(text, account.id)
            return
        lasts = outage.goes_on(now)
        if lasts < self._settings.alert_after_s:
            return
        if not outage.told:
            outage.told = True
            LOG.error("QQ 线路断了 %d 秒：%s", int(lasts), account.reason)
        if not outage.rung:
            text = f"{who} 收发不了 QQ 消息：{account.reason}。请看 NapCat，要不要重启或重新登录。"
            outage.rung = await self._alarm.ring("qqvl：QQ 线路断了", text, "down", account.id)

    def _judge_server(self, stands: bool) -> None:
        now, outage = self._steady(), self._server_outage
        if stands:
            if (lasted := outage.end(now)) is not None:
                LOG.info("对话服务器好了")
                self._tell(f"对话服务器停了{_long(lasted)}，现在好了。")
        elif outage.goes_on(now) >= self._settings.alert_after_s and not outage.told:
            outage.told = True
            LOG.error("对话服务器很久没有接消息了，已告诉主人")
            where = self._settings.server_url
            self._tell(f"对话服务器 {where} 不接消息了，消息先记着。请看它的日志，或运行体检（doctor）。")

    def _tell(self, text: str, self_id: str = "") -> None:
        """One private message to each owner, by the account itself or any that is known."""
        known = [self_id] if self_id else [account for account in self._accounts if account]
        if not known:
            return
        for owner in self._settings.owners:
            self._work(self._outbox.say(Chat("private", owner, known[0]), text))


def _long(seconds: float) -> str:
    return f"约 {seconds / 60:.0f} 分钟" if seconds >= 90 else f" {seconds:.0f} 秒"
