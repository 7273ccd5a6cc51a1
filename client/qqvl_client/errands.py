"""What must be told or done once besides answering: recalls and our messages' ids to the server, withdrawals in QQ."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Sequence

from qqvl_client.bodies import report_of, withdraw_of
from qqvl_client.entries import Errand
from qqvl_client.errors import LineDownError, LineError, ServerError, ServerRefusedError
from qqvl_client.journal import Journal
from qqvl_client.message import Recall
from qqvl_client.onebot import OneBot
from qqvl_client.server_api import ServerApi
from qqvl_client.settings import Settings

LOG = logging.getLogger("qqvl.errands")
PARALLEL = 8
WITHDRAW_WITHIN_S = 120
"""How long QQ lets a member take back what he said."""
WITHOUT_REPORTS = frozenset({404, 405})
"""A chat server that knows only the two doors messages go to."""


class Errands:
    """A chat's errands are run one after another, as they arose; each is in the journal until it is done."""

    def __init__(self, settings: Settings, onebot: OneBot, server: ServerApi, journal: Journal) -> None:
        self._settings = settings
        self._onebot = onebot
        self._server = server
        self._journal = journal
        self._waiting: dict[str, deque[Errand]] = {}
        self._runners: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(PARALLEL)
        self._closed = False

    def put(self, errand: Errand) -> None:
        key = errand.chat.key
        if self._closed:
            return
        if key in self._waiting:
            self._waiting[key].append(errand)
            return
        self._waiting[key] = deque([errand])
        runner = asyncio.create_task(self._serve(key), name=f"errands of {key}")
        self._runners.add(runner)
        runner.add_done_callback(self._runners.discard)

    async def recalled(self, recall: Recall) -> None:
        self.put(await self._journal.recall(recall))
        LOG.info("%s 的消息 %s 撤回了", recall.chat.key, recall.message_id)

    async def aclose(self, grace_s: float) -> None:
        """Give what can be done at once its moment; the rest is done after the next start."""
        self._closed = True
        if self._runners:
            await asyncio.wait(self._runners, timeout=grace_s)
        runners = list(self._runners)
        for runner in runners:
            runner.cancel()
        await asyncio.gather(*runners, return_exceptions=True)

    async def _serve(self, key: str) -> None:
        waiting = self._waiting[key]
        try:
            while waiting:
                follows = await self._run(waiting[0])
                waiting.popleft()
                if follows:
                    waiting.appendleft(follows)
        finally:
            del self._waiting[key]

    async def _run(self, errand: Errand) -> Errand | None:
        """Do it, or give it up; returns what follows from it."""
        try:
            withdraw = await (self._withdraw(errand) if errand.kind == "withdraw" else self._tell(errand))
        # The errands' edge: one that nobody foresaw must not stop the chat's next ones.
        except Exception:
            LOG.exception("处理 %s 的一件小事时出了没料到的错", errand.chat.key)
            withdraw = ()
        return await self._journal.settle(errand, withdraw)

    async def _tell(self, errand: Errand) -> Sequence[str]:
        """Post it until the server has it; returns the ids of our messages that it wants withdrawn."""
        path, body = report_of(errand)
        pause = self._settings.retry_base_s
        while True:
            try:
                async with self._slots:
                    request_id = errand.told.get("request_id", "")
                    return withdraw_of(await self._server.tell(errand.chat, path, body, request_id))
            except ServerRefusedError as error:
                level = logging.DEBUG if error.status in WITHOUT_REPORTS else logging.WARNING
                LOG.log(level, "服务器不收 %s：%s", path, error)
                return ()
            except ServerError as error:
                if time.time() - errand.made_at > self._settings.journal_keep_h * 3600:
                    LOG.warning("服务器一直不在，%s 的一次撤回或发送没能告诉它", errand.chat.key)
                    return ()
                LOG.debug("%s 没有送到：%s", path, error)
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, self._settings.retry_max_s)

    async def _withdraw(self, errand: Errand) -> Sequence[str]:
        for message_id in errand.told["ids"]:
            await self._withdraw_one(errand, message_id)
        return ()

    async def _withdraw_one(self, errand: Errand, message_id: str) -> None:
        where, self_id = errand.chat.key, errand.chat.self_id
        left = errand.made_at + WITHDRAW_WITHIN_S - time.time()
        try:
            async with asyncio.timeout(max(left, 0)):
                while True:
                    await self._onebot.wait_up(self_id)
                    try:
                        await self._onebot.withdraw(self_id, message_id)
                    except LineDownError:
                        await asyncio.sleep(self._settings.reconnect_base_s)
                        continue
                    LOG.info("撤回了给 %s 的回复 %s", where, message_id)
                    return
        except TimeoutError:
            LOG.warning("给 %s 的回复 %s 没能撤回：已超过两分钟", where, message_id)
        except LineError as error:
            LOG.warning("给 %s 的回复 %s 没能撤回：%s", where, message_id, error)
