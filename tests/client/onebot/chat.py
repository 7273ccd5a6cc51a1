"""The chat server's stand-in: answers by script, records every body."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from onebot.web import Request, Response, WebServer

Answer = dict[str, Any]
Script = Callable[[Answer], Any]


def answer_for(body: Answer) -> Answer:
    """The default script: repeat what was asked."""
    answer = {"status": "success", "reply": f"答：{body['content']}"}
    return answer | ({"should_reply": True} if body["type"] == "group" else {})


class ChatServer(WebServer):
    """`script(body)` returns an answer, a Response, a coroutine of either, or what to do to the raw connection."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[Answer] = []
        self.reports: list[tuple[str, Answer]] = []
        """Recalls and ids of sent messages, by the last word of their path."""
        self.report_script: Script = lambda _: {"status": "success"}
        self.statuses: list[Answer] = []
        """How the client finds its line."""
        self.is_ready = True
        self.requests: list[Request] = []
        self.report_requests: list[Request] = []
        self.script: Script = answer_for
        self.scripts: dict[str, Script] = {}
        self.refuses_at_the_door: tuple[int, str] | None = None
        self.running = 0
        self.most_running = 0

    async def handle(self, request: Request, writer: asyncio.StreamWriter) -> Response | None:
        if request.method == "GET" and self.refuses_at_the_door and request.path.startswith("/api"):
            status, message = self.refuses_at_the_door
            return error(status, str(status), message)
        if request.method == "GET":
            return Response(b'{"status": "healthy"}')
        body = json.loads(request.body)
        if request.path == "/api/client/status":
            self.statuses.append(body)
            self.changed()
            return Response(json.dumps({"status": "success", "ready": self.is_ready}).encode())
        if (kind := request.path.rpartition("/")[2]) in ("sent", "recall"):
            self.reports.append((kind, body))
            self.report_requests.append(request)
            self.changed()
            answer = self.report_script(body)
            return answer if isinstance(answer, Response) else Response(json.dumps(answer).encode())
        self.bodies.append(body)
        self.requests.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.changed()
        try:
            answer = self.scripts.get(body.get("group_id") or body["user_id"], self.script)(body)
            if asyncio.iscoroutine(answer):
                answer = await answer
        finally:
            self.running -= 1
            self.changed()
        if isinstance(answer, Response):
            return answer
        if callable(answer):
            await answer(writer)
            return None
        return Response(json.dumps(answer).encode(), headers={"Content-Type": "application/json"})

    def of(self, chat_id: str | int) -> list[Answer]:
        """The bodies of one chat, in the order they came."""
        return [body for body in self.bodies if str(chat_id) == (body.get("group_id") or body["user_id"])]

    def told(self, kind: str, chat_id: str | int) -> list[Answer]:
        """What was reported of one chat."""
        return [b for k, b in self.reports if k == kind and str(chat_id) == (b.get("group_id") or b.get("user_id"))]

    async def reported(self, kind: str, chat_id: str | int, times: int = 1) -> list[Answer]:
        """The chat's reports of a kind once there are `times` of them."""
        await self.until(lambda: len(self.told(kind, chat_id)) >= times, f"{times} {kind} reports for chat {chat_id}")
        return self.told(kind, chat_id)

    async def asked(self, chat_id: str | int, times: int = 1, within: float = 30) -> list[Answer]:
        """The chat's bodies once there are `times` of them."""
        await self.until(lambda: len(self.of(chat_id)) >= times, f"{times} requests for chat {chat_id}", within)
        return self.of(chat_id)


def error(status: int, code: str = "x", message: str = "坏了", retry_after: int | None = None) -> Response:
    body = {"status": "error", "error": {"code": code, "message": message, "request_id": "r"}}
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Response(json.dumps(body).encode(), status, headers)


def streamed(*events: tuple[str, Answer] | asyncio.Event) -> Callable[[asyncio.StreamWriter], Any]:
    """An answer told by and by; an `asyncio.Event` among the events is waited for."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n: ping\n\n")
        for event in events:
            if isinstance(event, asyncio.Event):
                await event.wait()
                continue
            name, data = event
            writer.write(f"event: {name}\r\ndata: {json.dumps(data, ensure_ascii=False)}\r\n\r\n".encode())
            await writer.drain()

    return write
