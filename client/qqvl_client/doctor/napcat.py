"""The line to NapCat: dialled once, its token, its account, its clock, and a message to the bot itself."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from qqvl_client.doctor.finding import Finding
from qqvl_client.errors import LineError
from qqvl_client.line import dial, parse, token_refused
from qqvl_client.onebot import data_of
from qqvl_client.segments import text_of
from qqvl_client.settings import Settings

AHEAD_S = 60
TOKEN_PLACE = "NapCat WebUI → 网络配置 → 这个 WebSocket 服务器 → Token 里的那一串"
ADDRESS_PLACE = "NapCat WebUI → 网络配置 → WebSocket 服务器 的 Host 和 Port，默认 ws://127.0.0.1:3001"
GREETING = "qqvl 体检：机器人发给自己的一条消息，收到就说明能发。"


class TokenError(Exception):
    """NapCat does not take our token."""


@dataclass
class Conversation:
    """One connection, spoken over by one task: an action, then whatever comes until its answer."""

    connection: ClientConnection
    patience_s: float
    behind_s: float | None = None
    """How far the other side's clock is behind ours, from the last event that carried a time."""
    echoes: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def ask(self, action: str, params: Mapping[str, Any], within_s: float | None = None) -> Any:
        """The action's data. Raises LineError, TokenError, TimeoutError or ConnectionClosed."""
        echo = f"qqvl-doctor-{next(self.echoes)}"
        async with asyncio.timeout(within_s or self.patience_s):
            await self.connection.send(json.dumps({"action": action, "params": params, "echo": echo}))
            while True:
                frame = parse(await self.connection.recv()) or {}
                if token_refused(frame):
                    raise TokenError
                if frame.get("echo") == echo:
                    return data_of(frame)
                if isinstance(stamp := frame.get("time"), int | float) and "post_type" in frame:
                    self.behind_s = time.time() - stamp


@asynccontextmanager
async def conversation(settings: Settings) -> AsyncIterator[Conversation]:
    connection = await dial(settings)
    try:
        yield Conversation(connection, settings.lookup_timeout_s)
    finally:
        await connection.close()


async def examine(settings: Settings, send: bool) -> tuple[list[Finding], str]:
    """Everything that can be learned over the line, and the bot's own QQ id where it was told."""
    if settings.adapter == "nonebot" and settings.nonebot_mode == "reverse":
        return [_reverse(settings)], settings.bot_qq
    try:
        async with conversation(settings) as talk:
            return await _told(talk, settings, send)
    except InvalidStatus as error:
        return [_refused(settings, error.response.status_code)], settings.bot_qq
    except (TokenError, ConnectionClosed) as error:
        return [_token(settings) if isinstance(error, TokenError) else _cut(settings)], settings.bot_qq
    except (InvalidHandshake, EOFError):
        message = f"{settings.napcat_ws_url} 有东西在听，但不是 WebSocket（多半是 NapCat 的 HTTP 服务器或 WebUI）"
        return [Finding("napcat", "failed", message, "client.napcat_ws_url", ADDRESS_PLACE)], settings.bot_qq
    except (OSError, TimeoutError, ValueError) as error:
        message = f"连不上 {settings.napcat_ws_url}（{type(error).__name__}）：NapCat 没在运行，或地址、端口不对"
        return [Finding("napcat", "failed", message, "client.napcat_ws_url", ADDRESS_PLACE)], settings.bot_qq


async def _told(talk: Conversation, settings: Settings, send: bool) -> tuple[list[Finding], str]:
    try:
        login = await talk.ask("get_login_info", {})
    except (TimeoutError, LineError):
        message = f"连得上 {settings.napcat_ws_url}，但它不做任何动作：收得到消息、发不出去"
        return [Finding("napcat", "failed", message, "NapCat", "重启 NapCat；还不行就在它的 WebUI 里重新登录")], ""
    self_id = text_of(login.get("user_id") if isinstance(login, Mapping) else "")
    found = [_line(settings), await _account(talk, settings, self_id), _clock(talk)]
    if send:
        found.append(await _send(talk, settings, self_id))
    return found, self_id


def _line(settings: Settings) -> Finding:
    if not settings.napcat_token.get_secret_value():
        message = f"连得上 {settings.napcat_ws_url}，但没有 token：这台机器上的任何程序和网页都能指挥你的 QQ"
        return Finding("napcat", "warning", message, "client.napcat_token", "自己生成一串长的，两边写成一样")
    return Finding("napcat", "ok", f"连得上 {settings.napcat_ws_url}，token 对")


def _token(settings: Settings) -> Finding:
    given = settings.napcat_token.get_secret_value()
    message = "NapCat 不认这个 token" if given else "NapCat 要 token，而这里没有写"
    return Finding("napcat", "failed", message, "client.napcat_token", TOKEN_PLACE)


def _refused(settings: Settings, status: int) -> Finding:
    if status in (401, 403):
        return _token(settings)
    message = f"{settings.napcat_ws_url} 不接 WebSocket（HTTP {status}）：端口是别的程序的，或后面多写了路径"
    return Finding("napcat", "failed", message, "client.napcat_ws_url", ADDRESS_PLACE)


def _cut(settings: Settings) -> Finding:
    message = f"{settings.napcat_ws_url} 一连上就断开"
    return Finding("napcat", "failed", message, "client.napcat_token", f"{TOKEN_PLACE}；一样的话看 NapCat 的日志")


async def _account(talk: Conversation, settings: Settings, self_id: str) -> Finding:
    try:
        status = await talk.ask("get_status", {})
    except (LineError, TimeoutError):
        status = {}
    if isinstance(status, Mapping) and status.get("online") is False:
        return Finding("account", "failed", f"QQ 号 {self_id} 掉线了", "NapCat", "在 NapCat 的 WebUI 里重新登录")
    if settings.bot_qq not in ("", self_id):
        message = f"NapCat 登录的是 {self_id}，而设置里写的是 {settings.bot_qq}"
        return Finding("account", "failed", message, "client.bot_qq", self_id)
    return Finding("account", "ok", f"登录的是 {self_id}")


def _clock(talk: Conversation) -> Finding:
    behind = talk.behind_s
    if behind is None:
        return Finding("qq_clock", "skipped", "NapCat 没有报时间")
    if abs(behind) > AHEAD_S:
        message = (
            f"NapCat 那边的时钟比这里{'慢' if behind > 0 else '快'} {abs(behind) / 60:.0f} 分钟：消息会被当成旧的不答"
        )
        return Finding("qq_clock", "failed", message, "系统时间", "两台机器上都 timedatectl set-ntp true")
    return Finding("qq_clock", "ok", "和这里一致")


async def _send(talk: Conversation, settings: Settings, self_id: str) -> Finding:
    """To the bot itself: the one message that reaches nobody else."""
    if not self_id.isdecimal():
        return Finding("send", "skipped", "不知道机器人的 QQ 号")
    params = {"user_id": int(self_id), "message": [{"type": "text", "data": {"text": GREETING}}]}
    try:
        await talk.ask("send_private_msg", params, settings.action_timeout_s)
    except (LineError, TimeoutError) as error:
        message = f"消息发不出去（{str(error) or '没有应答'}）：账号多半被限制发言或要重新验证"
        return Finding("send", "failed", message, "QQ 账号", "用手机登录这个号，照提示验证，再在 NapCat 里重新登录")
    return Finding("send", "ok", "发出去了")


def _reverse(settings: Settings) -> Finding:
    """NapCat dials us: all there is to try is whether we could listen."""
    place = f"{settings.listen_host}:{settings.listen_port}"
    try:
        with socket.create_server((settings.listen_host, settings.listen_port)):
            message = f"反向连接：{place} 空着；要 NapCat 来连 ws://{place}/onebot/v11/ws"
            return Finding("napcat", "ok", message)
    except OSError as error:
        message = f"反向连接：{place} 听不了（{error.strerror}）；如果客户端正在运行，占着它的就是客户端"
        return Finding("napcat", "warning", message, "client.listen_port", "客户端没在运行的话，换一个空着的端口")
