"""A forwarded chat record, nested ones included, as lines of text with their speakers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from qqvl_client.errors import LineError
from qqvl_client.message import Chat
from qqvl_client.onebot import OneBot
from qqvl_client.segments import FORWARDS, describe, segments_of, sender_of, text_of

LOG = logging.getLogger("qqvl.forwards")
DEPTH = 4
LINES = 100
CHARS = 8000


class ForwardReader:
    """Opens forwards within limits of depth, lines and characters; says so where it cut."""

    def __init__(self, onebot: OneBot) -> None:
        self._onebot = onebot

    async def read(self, chat: Chat, data: Mapping[str, Any]) -> str:
        lines: list[str] = []
        await self._record(chat, data, 1, lines)
        if not lines:
            return "[聊天记录：内容取不到]"
        text = "\n".join(lines[:LINES])
        if len(lines) > LINES or len(text) > CHARS:
            text = text[:CHARS] + "\n（后面的内容略）"
        return f"[聊天记录]\n{text}\n[聊天记录结束]\n"

    async def _record(self, chat: Chat, data: Mapping[str, Any], depth: int, lines: list[str]) -> None:
        for node in await self._nodes(chat, data):
            if len(lines) > LINES:
                return
            if isinstance(node, Mapping):
                await self._node(chat, node, depth, lines)

    async def _nodes(self, chat: Chat, data: Mapping[str, Any]) -> list[Any]:
        nodes = data.get("content")
        if isinstance(nodes, list):
            return nodes
        try:
            return await self._onebot.forward(chat.self_id, text_of(data.get("id")))
        except LineError as error:
            LOG.info("合并转发取不到：%s", error)
            return []

    async def _node(self, chat: Chat, node: Mapping[str, Any], depth: int, lines: list[str]) -> None:
        data = node.get("data")
        inner = data if node.get("type") == "node" and isinstance(data, Mapping) else node
        sender = sender_of(inner)
        names = (sender.get("card"), sender.get("nickname"), inner.get("nickname"), inner.get("name"))
        name = next((text for each in names if (text := text_of(each))), "?")
        body = inner.get("message", inner.get("content"))
        found = segments_of({"message": body, "raw_message": inner.get("raw_message")})
        deeper = [s for s in found if s.type in FORWARDS and depth < DEPTH]
        said = "".join(describe(s) for s in found if s not in deeper)
        indent = "　" * (depth - 1)
        if said or not deeper:
            lines.append(f"{indent}{name}：{said}")
        for segment in deeper:
            lines.append(f"{indent}{name}：[聊天记录]")
            await self._record(chat, segment.data, depth + 1, lines)
