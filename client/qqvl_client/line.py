"""The WebSocket to a OneBot v11 implementation: dialled again and again, for ever, whatever ends it."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from qqvl_client.settings import Settings

LOG = logging.getLogger("qqvl.line")


class Dialler:
    """Opens connections with back-off between failures; a connection that proved good resets it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._failures = 0

    @asynccontextmanager
    async def line(self) -> AsyncIterator[ClientConnection]:
        """The next working connection, however long it takes."""
        connection = await self._dial()
        try:
            yield connection
        finally:
            await connection.close()

    def proved_good(self) -> None:
        """Call for a frame that shows the other side accepts us."""
        self._failures = 0

    async def _dial(self) -> ClientConnection:
        while True:
            await self._back_off()
            self._failures += 1
            try:
                connection = await dial(self._settings)
            except (OSError, TimeoutError, InvalidHandshake, EOFError, ValueError) as error:
                LOG.warning("连不上 %s（%s），会一直重试", self._settings.napcat_ws_url, _reason(error))
                continue
            LOG.info("已连上 %s", self._settings.napcat_ws_url)
            return connection

    async def _back_off(self) -> None:
        if self._failures:
            longest = self._settings.reconnect_base_s * 2 ** min(self._failures - 1, 16)
            await asyncio.sleep(min(longest, self._settings.reconnect_max_s) * random.uniform(0.5, 1))


async def dial(settings: Settings) -> ClientConnection:
    """One attempt; raises whatever says why not."""
    token = settings.napcat_token.get_secret_value()
    return await connect(
        settings.napcat_ws_url,
        # In a header the token is in no log of addresses, ours or a proxy's.
        additional_headers={"Authorization": f"Bearer {token}"} if token else None,
        # websockets reads HTTP_PROXY for ws:// too: a proxy set for downloads would cut even loopback.
        proxy=None,
        open_timeout=settings.connect_timeout_s,
        close_timeout=1,
        ping_interval=settings.ping_interval_s,
        ping_timeout=settings.ping_timeout_s,
        max_size=int(settings.max_frame_mb * 1_000_000),
    )


async def objects(connection: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    """Every JSON object the connection brings until it closes; other frames are skipped."""
    while True:
        try:
            frame = await connection.recv()
        except ConnectionClosed as error:
            LOG.warning("与 NapCat 的连接断开（%s）", _reason(error))
            return
        if (found := parse(frame)) is not None:
            yield found


def parse(frame: str | bytes) -> dict[str, Any] | None:
    """A frame's JSON object, or nothing when it is anything else."""
    try:
        found = json.loads(frame)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        LOG.warning("收到一帧看不懂的数据（%d 字节），略过", len(frame))
        return None
    return found


def token_refused(frame: dict[str, Any]) -> bool:
    """NapCat answers a wrong token only after the handshake, with this frame."""
    return frame.get("retcode") == 1403 and frame.get("status") == "failed" and not frame.get("echo")


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]
