"""A small HTTP/1.1 server on loopback whose handlers may also misbehave on the raw connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from onebot.watch import Watched


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Response:
    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class HangupError(Exception):
    """A handler raises this to drop the connection without another byte."""


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[Response | None]]


class WebServer(Watched):
    """Subclasses implement `handle`; answering None means the handler wrote to the connection itself."""

    def __init__(self) -> None:
        super().__init__()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, on the same port as before when there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=100_000_000)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
            for task, writer in self._open.items():
                writer.transport.abort()
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def handle(self, request: Request, writer: asyncio.StreamWriter) -> Response | None:
        raise NotImplementedError

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        try:
            while request := await _read(reader):
                response = await self.handle(request, writer)
                if response is None:
                    break
                writer.write(_head(response) + response.body)
                await writer.drain()
        # asyncio logs a connection handler that was cancelled, and stop() cancels those that hang.
        except (OSError, asyncio.IncompleteReadError, HangupError, asyncio.CancelledError):
            pass
        finally:
            del self._open[task]
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)


def _head(response: Response) -> bytes:
    headers = {"Content-Length": str(len(response.body)), **response.headers}
    lines = [f"HTTP/1.1 {response.status} x", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
