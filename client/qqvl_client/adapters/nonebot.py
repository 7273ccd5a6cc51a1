"""The relay on NoneBot2 and nonebot-adapter-onebot: the one file that imports them.

`run` is a NoneBot of our own (forward or reverse WebSocket); `install` joins a NoneBot somebody already has.
Either way events are tapped before NoneBot parses them: its message model drops what it does not know, its quote
lookup lets a later message overtake an earlier one, and it removes the @ that tells whether the bot was meant.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nonebot
from nonebot.adapters.onebot.v11 import ActionFailed, Adapter, ApiNotAvailable, Bot
from nonebot.adapters.onebot.v11 import adapter as onebot_v11
from nonebot.drivers import WebSocket
from nonebot.drivers.websockets import WebSocket as ClientWebSocket
from nonebot.exception import WebSocketClosed
from nonebot.log import LoguruHandler, logger

from qqvl_client import logs
from qqvl_client.errors import ActionUnsureError, LineDownError, SettingsError
from qqvl_client.events import parse_event
from qqvl_client.journal import Journal, open_journal
from qqvl_client.line import Dialler, parse, token_refused
from qqvl_client.onebot import refusal
from qqvl_client.relay import Relay
from qqvl_client.segments import text_of
from qqvl_client.settings import Settings, load, private_data_dir
from qqvl_client.signals import on_stop

LOG = logging.getLogger("qqvl.nonebot")


class BotLink:
    """The relay's line over whatever bots NoneBot has connected."""

    def __init__(self) -> None:
        self._gone: dict[str, asyncio.Event] = {}
        self._up = asyncio.Condition()

    async def call(self, self_id: str, action: str, params: Mapping[str, Any], within_s: float) -> Any:
        bot = nonebot.get_bots().get(self_id)
        if bot is None:
            raise LineDownError("线路断开")
        answer = asyncio.ensure_future(bot.call_api(action, **params))
        gone = asyncio.ensure_future(self._gone.setdefault(self_id, asyncio.Event()).wait())
        try:
            # NoneBot lets a call wait its full time after the line it went out on has dropped.
            await asyncio.wait({answer, gone}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ActionUnsureError(f"{action} 没有应答")
            return answer.result()
        except ActionFailed as error:
            words = text_of(error.info.get("wording") or error.info.get("message"))[:200]
            raise refusal(error.info.get("retcode"), words) from None
        except ApiNotAvailable:
            raise LineDownError("线路断开") from None
        except ActionUnsureError:
            raise
        # NoneBot passes on whatever its driver raised while writing; none of it says whether the frame got out.
        except Exception as error:
            raise ActionUnsureError(f"{action}：{error!r}"[:200]) from None
        finally:
            # Cancelled ourselves we never look at the answer; one that had failed already would end up in the log.
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())
            answer.cancel()
            gone.cancel()

    async def wait_up(self, self_id: str) -> None:
        async with self._up:
            await self._up.wait_for(lambda: self_id in nonebot.get_bots())

    def is_up(self, self_id: str) -> bool:
        return self_id in nonebot.get_bots() if self_id else bool(nonebot.get_bots())

    async def renew(self, self_id: str) -> None:
        """Whoever dials, the one side or the other, dials again."""
        line = nonebot.get_adapter(Adapter).connections.get(self_id)
        if line is not None:
            await line.close()

    async def connected(self, bot: Bot) -> None:
        LOG.info("机器人 %s 已连上", bot.self_id)
        async with self._up:
            self._gone[bot.self_id] = asyncio.Event()
            self._up.notify_all()

    async def disconnected(self, bot: Bot) -> None:
        LOG.warning("机器人 %s 的连接断开", bot.self_id)
        if gone := self._gone.pop(bot.self_id, None):
            gone.set()


class GuardedSocket:
    """A WebSocket that hands on JSON objects only: NoneBot drops the connection over anything else."""

    def __init__(self, inner: WebSocket, accepted: Callable[[], None] = lambda: None) -> None:
        self._inner = inner
        self._accepted = accepted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def receive(self) -> str | bytes:
        while True:
            frame: str | bytes = await self._inner.receive()
            found = parse(frame)
            if found is None:
                continue
            if token_refused(found):
                LOG.error("NapCat 不认这个 token，请核对 napcat_token 与 NapCat 网络配置里的 Token")
            elif "post_type" in found:
                self._accepted()
            return frame


def _adapter_for(settings: Settings) -> type[Adapter]:
    dialler = Dialler(settings)

    class RelayAdapter(Adapter):  # type: ignore[misc, unused-ignore]
        """NoneBot's OneBot adapter on our line: no proxies, large frames, back-off, half-open lines noticed."""

        @asynccontextmanager
        async def websocket(self, setup: Any) -> AsyncIterator[WebSocket]:
            async with dialler.line() as connection:
                inner = ClientWebSocket(request=setup, websocket=connection)
                yield GuardedSocket(inner, dialler.proved_good)  # type: ignore[misc, unused-ignore]

        async def _handle_ws(self, websocket: WebSocket) -> None:
            await super()._handle_ws(GuardedSocket(websocket))  # type: ignore[arg-type, unused-ignore]

    return RelayAdapter


def run(settings: Settings, folder: Path, journal: Journal) -> None:
    """A NoneBot that does nothing but relay; stays until it is told to stop."""
    _log_through_ours(settings)
    token = settings.napcat_token.get_secret_value() or None
    reverse = settings.nonebot_mode == "reverse"
    # The adapter also takes events by plain HTTP, without the token: a secret nobody knows shuts that door.
    nonebot.init(
        _env_file=None,
        driver="~fastapi" if reverse else "~websockets",
        host=settings.listen_host,
        port=settings.listen_port,
        log_level=settings.log_level,
        onebot_v11_access_token=token,
        onebot_v11_ws_urls=set() if reverse else {settings.napcat_ws_url},
        onebot_v11_secret=secrets.token_hex(16),
    )
    onebot_v11.RECONNECT_INTERVAL = settings.reconnect_base_s
    driver = nonebot.get_driver()
    driver.register_adapter(_adapter_for(settings))
    link = BotLink()
    driver.on_bot_connect(link.connected)
    driver.on_bot_disconnect(link.disconnected)

    async def start() -> None:
        relay = Relay(settings, link, journal)
        _tap(relay, swallow=True)
        relay.resume()
        leave = signal.getsignal(signal.SIGTERM)
        on_stop(heard).add_done_callback(lambda _: watch.append(asyncio.ensure_future(_stop(relay, leave))))

    watch: list[asyncio.Future[None]] = []
    driver.on_startup(start)
    # One may come before the relay listens. uvicorn raises the one it stopped for once more at the end, when it has
    # been obeyed.
    heard: list[int] = []
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda number, _: heard.append(number))
    limits = {"ws_ping_interval": settings.ping_interval_s, "ws_ping_timeout": settings.ping_timeout_s}
    size = {"ws_max_size": int(settings.max_frame_mb * 1_000_000), "timeout_graceful_shutdown": 1}
    nonebot.run(**(limits | size if reverse else {}))


async def _stop(relay: Relay, leave: Any) -> None:
    """Let the relay finish while the line still stands, then let the driver go."""
    LOG.info("正在停止……")
    await relay.aclose()
    driver = nonebot.get_driver()
    if hasattr(driver, "exit"):
        driver.exit()
    elif callable(leave):
        leave(signal.SIGTERM, None)


def install() -> None:
    """Join the running NoneBot: relay its OneBot v11 messages, leave its other plugins, signals and logs alone."""
    driver = nonebot.get_driver()
    link = BotLink()
    driver.on_bot_connect(link.connected)
    driver.on_bot_disconnect(link.disconnected)
    relays: list[Relay] = []

    async def start() -> None:
        qqvl = logging.getLogger("qqvl")
        qqvl.addHandler(LoguruHandler())
        try:
            settings = load(os.environ, {"adapter": "nonebot"})
            qqvl.setLevel(settings.log_level)
            relay = Relay(settings, link, open_journal(settings, private_data_dir(settings)))
            _tap(relay, swallow=False)
        except (SettingsError, ValueError) as error:
            LOG.error("qqvl 中继没有启动：%s", error)
            return
        relays.append(relay)
        relay.resume()

    async def stop() -> None:
        for relay in relays:
            await relay.aclose()

    driver.on_startup(start)
    driver.on_shutdown(stop)


def _tap(relay: Relay, swallow: bool) -> None:
    """Give the relay every raw event. An instance attribute: the class, and other adapters, stay as they are."""
    adapter = nonebot.get_adapter(Adapter)
    to_event = adapter.json_to_event

    def tapped(data: Any) -> Any:
        if isinstance(data, dict) and "post_type" in data:
            relay.take(parse_event(data))
            # A lifecycle event is what NoneBot learns of the bot from; the rest it need not see.
            if swallow and data.get("meta_event_type") != "lifecycle":
                return None
        return to_event(data)

    adapter.json_to_event = tapped  # type: ignore[method-assign, unused-ignore]


def _log_through_ours(settings: Settings) -> None:
    """One log, ours: NoneBot's own goes to stdout in colours and knows no secrets."""
    logs.install(settings)

    def forward(message: Any) -> None:
        record = message.record
        failure = record["exception"]
        closed = failure is not None and isinstance(failure.value, WebSocketClosed)
        trace = (failure.type, failure.value, failure.traceback) if failure and not closed else None
        level = logging.WARNING if closed else min(record["level"].no, logging.CRITICAL)
        logging.getLogger("nonebot").log(level, "%s", record["message"], exc_info=trace)

    logger.remove()
    logger.add(forward, level=settings.log_level, format="{message}")
