"""The relay on ncatbot 4.4: the one file that imports it, and the one that knows its pitfalls.

ncatbot's BotClient, Adapter and BotAPI stay; its line, its start-up questions and its logging do not.
Importing ncatbot reads a file and takes over logging, so it happens inside `run`, after both are prepared.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from websockets.exceptions import ConnectionClosed

from qqvl_client import logs
from qqvl_client.errors import ActionUnsureError, LineDownError
from qqvl_client.events import parse_event
from qqvl_client.journal import Journal
from qqvl_client.line import Dialler, objects, token_refused
from qqvl_client.onebot import data_of
from qqvl_client.relay import Relay
from qqvl_client.segments import text_of
from qqvl_client.settings import Settings
from qqvl_client.signals import on_stop

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

LOG = logging.getLogger("qqvl.ncatbot")


def run(settings: Settings, folder: Path, journal: Journal) -> None:
    """Start the bot and stay until it is told to stop."""
    _prepare_import(settings, folder)
    from ncatbot.core import BotClient
    from ncatbot.core.adapter import Adapter
    from ncatbot.core.api import BotAPI

    # Tokens in the log: the import hangs three log files and a console on the root logger that show them; ours do not.
    logs.install(settings)

    class RelayAdapter(Adapter):  # type: ignore[misc]  # ncatbot ships no types
        """ncatbot's adapter with its receive loop and its `send` replaced by ones that survive."""

        def __init__(self, line: NapCatLine) -> None:
            super().__init__()
            self.line = line

        async def connect_websocket(self) -> bool:
            await self.line.serve(journal)
            return True

        async def send(
            self,
            path: str,
            params: Mapping[str, Any] | None = None,
            timeout: float = 30,  # noqa: ASYNC109  (ncatbot's own signature)
        ) -> Any:
            return await self.line.ask(path.strip("/"), params or {}, timeout)

    class RelayBot(BotClient):  # type: ignore[misc]  # ncatbot ships no types
        """ncatbot's client, started without the launcher.

        Five pitfalls live in `BotClient.start` alone: tokens are logged and config.yaml is rewritten with them; it
        gives up when NapCat is not there yet; it asks on stdin; it refuses good passwords; it loads plugins that print.
        """

        def __init__(self, line: NapCatLine) -> None:
            super().__init__()
            self.adapter = RelayAdapter(line)
            self.api = BotAPI(self.adapter.send)

        def start(self, **_: Any) -> None:
            self._running = True
            asyncio.run(self.adapter.connect_websocket())

    RelayBot(NapCatLine(settings)).run_frontend()


def _prepare_import(settings: Settings, folder: Path) -> None:
    """What ncatbot reads while it is being imported; without a file it logs an error."""
    config = folder / "ncatbot.yaml"
    # No token in it, since ncatbot logs what it reads: our own line authenticates, ncatbot never needs one.
    napcat = {"ws_uri": settings.napcat_ws_url, "ws_token": "", "remote_mode": True, "enable_webui": False}
    content = {"bt_uin": settings.bot_qq or "0", "root": "0", "napcat": napcat, "plugin": {"skip_plugin_load": True}}
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    os.environ["NCATBOT_CONFIG_PATH"] = str(config)
    os.environ["LOG_FILE_PATH"] = str(folder / "ncatbot-logs")


class NapCatLine:
    """The line ncatbot's adapter works over: one connection at a time, for ever, and the relay behind it.

    `Dialler` answers the pitfalls of the connection: ncatbot gives up after 15 s with the loop frozen, dies of one bad
    frame, obeys proxy variables. Raw frames in and raw actions out answer those of its typed events and message
    helpers, which never run: CQ codes in a reply are carried out (and read local files), one unknown segment loses the
    whole message, nothing is known twice, group_name is thrown away, pictures are fetched without bounds, `validate`
    raises KeyError, odd senders lose their event, and sync helpers block the loop.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._dialler = Dialler(settings)
        self._connection: ClientConnection | None = None
        self._self_id = settings.bot_qq
        self._up = asyncio.Condition()
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._echoes = itertools.count(1)

    async def serve(self, journal: Journal) -> None:
        """Relay until a stop signal; then finish what is in hand, where ncatbot would die in mid-reply."""
        relay = Relay(self._settings, self, journal)
        stopping = on_stop()
        receiving = asyncio.create_task(self._receive(relay), name="line")
        relay.resume()
        ends: list[asyncio.Future[Any]] = [receiving, stopping]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        LOG.info("正在停止……")
        await relay.aclose()
        receiving.cancel()
        with suppress(asyncio.CancelledError):
            await receiving

    async def _receive(self, relay: Relay) -> None:
        while True:
            async with self._dialler.line() as connection:
                try:
                    await self._set_up(connection)
                    await self._pump(connection, relay)
                finally:
                    await self._set_down()

    async def _pump(self, connection: ClientConnection, relay: Relay) -> None:
        async for frame in objects(connection):
            if token_refused(frame):
                LOG.error("NapCat 不认这个 token，请核对 napcat_token 与 NapCat 网络配置里的 Token")
            elif "post_type" not in frame:
                self._answered(frame)
            else:
                self._dialler.proved_good()
                await self._learn_self_id(text_of(frame.get("self_id")))
                relay.take(parse_event(frame))

    async def call(self, self_id: str, action: str, params: Mapping[str, Any], within_s: float) -> Any:
        return data_of(await self.ask(action, params, within_s))

    async def ask(self, action: str, params: Mapping[str, Any], within_s: float) -> dict[str, Any]:
        """Send one action and await its answer on a future; ncatbot keeps a thread for every unanswered one."""
        connection = self._connection
        if connection is None:
            raise LineDownError("线路断开")
        echo = f"qqvl-{next(self._echoes)}"
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[echo] = answer
        try:
            async with asyncio.timeout(within_s):
                try:
                    # ensure_ascii leaves lone surrogates, which some nicknames have, encodable.
                    await connection.send(json.dumps({"action": action, "params": params, "echo": echo}))
                except ConnectionClosed:
                    raise ActionUnsureError(f"发送 {action} 时线路断开") from None
                return await answer
        except TimeoutError:
            raise ActionUnsureError(f"{action} 在 {within_s:g} 秒内没有应答") from None
        finally:
            del self._waiting[echo]

    async def wait_up(self, self_id: str) -> None:
        async with self._up:
            await self._up.wait_for(lambda: self._connection is not None and self._self_id in ("", self_id))

    def is_up(self, self_id: str) -> bool:
        return self._connection is not None and (not self_id or self._self_id in ("", self_id))

    async def renew(self, self_id: str) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def _set_up(self, connection: ClientConnection) -> None:
        async with self._up:
            self._connection = connection
            self._up.notify_all()

    async def _set_down(self) -> None:
        self._connection = None
        for answer in self._waiting.values():
            if not answer.done():
                # Not an exception: one that nobody is left to await ends up in the log.
                answer.set_result({"status": "failed", "retcode": -1, "message": "等应答时线路断开"})

    async def _learn_self_id(self, self_id: str) -> None:
        if self_id and self_id != self._self_id:
            async with self._up:
                self._self_id = self_id
                self._up.notify_all()
            LOG.info("机器人的 QQ 号是 %s", self_id)

    def _answered(self, frame: Mapping[str, Any]) -> None:
        answer = self._waiting.get(text_of(frame.get("echo")))
        if answer is not None and not answer.done():
            answer.set_result(dict(frame))
