"""Server-sent events: first the errors, then the 200; proxies kept awake; a reader that hangs up ends the work.

Knows HTTP streaming only: what an event looks like is its door's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from qqvl_server.api.facts import facts_of
from qqvl_server.errors import Draining, QqvlError
from qqvl_server.observe.logs import logger

# Proxies close lines that were silent for 30 to 60 seconds.
PING_S: Final = 10.0
_PING: Final = ": ping\n\n"
# Chunks for a reader who does not read; the rest waits at the voice.
_MOST_GATHERED: Final = 500
# A prompt waits this long for its first token before the 200 goes out, so that most errors are real ones.
_FIRST_EVENT_S: Final = 20.0


async def until_hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Awaitable[Response]) -> Response:
    """``work``, cancelled when the caller hangs up: nobody else would end it."""
    working = asyncio.ensure_future(work)
    watching = asyncio.create_task(until_hung_up(request.receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        # Nobody reads this status but our own log; proxies write the same for a client that left.
        return working.result() if working.done() else Response(status_code=499)
    finally:
        await _ended(working, watching)


@dataclass(frozen=True, slots=True)
class Begun:
    """A generator whose first chunk is there, or was waited for long enough; whoever holds it closes ``chunks``."""

    first: asyncio.Future[str]
    chunks: AsyncGenerator[str, None]


async def begun(chunks: AsyncGenerator[str, None]) -> Begun:
    """Wait for the first chunk, so that an error in its place is still an HTTP error.

    Raises:
        Whatever ``chunks`` raises in place of its first.
    """
    first = asyncio.ensure_future(anext(chunks))
    try:
        await asyncio.wait({first}, timeout=_FIRST_EVENT_S)
        if first.done():
            first.result()
    except BaseException:
        # Raised again, cancelled or failed: nobody else holds the generator yet, so nobody else would close it.
        await _ended(first)
        await chunks.aclose()
        raise
    return Begun(first, chunks)


class EventStream(StreamingResponse):
    """Sends chunks, each one or more whole events; closes their generator whatever happens.

    Args:
        failure: an error as the door's last event, for when the 200 is out already.
        ping_s: a comment is sent after so much silence, twice as much at most.
        headers: the door's own, beside those of every stream.
    """

    def __init__(
        self,
        begun: Begun,
        failure: Callable[[QqvlError], str],
        ping_s: float = PING_S,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        all_headers = {"X-Accel-Buffering": "no", **(headers or {})}
        super().__init__(begun.chunks, media_type="text/event-stream", headers=all_headers)
        self._begun = begun
        self._failure = failure
        self._ping_s = ping_s
        self._request_id = ""
        self._facts: dict[str, Any] = {}
        self._gathered: list[str] = []
        self._silent = False
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._over = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._request_id = str(scope.get("qqvl.request_id", ""))
        self._facts = facts_of(scope)
        async with aclosing(self._begun.chunks):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            sending = asyncio.create_task(self._send(send))
            aside = [asyncio.create_task(work) for work in (until_hung_up(receive), self._gather())]
            self._break_silence()
            try:
                await asyncio.wait({sending, aside[0]}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    sending.result()
            except asyncio.CancelledError:
                # The server is stopping: a stream that just broke off would look like a fault of the line.
                await _ended(sending, *aside)
                self._fail(Draining("服务正在停止，回答没有说完，请稍后再试", retry_after=5))
                await send({"type": "http.response.body", "body": self._taken(), "more_body": False})
                raise
            finally:
                self._ping.cancel()
                await _ended(sending, *aside, self._begun.first)

    async def _gather(self) -> None:
        try:
            self._put(await self._begun.first)
            async for chunk in self._begun.chunks:
                self._put(chunk)
                if len(self._gathered) > _MOST_GATHERED:
                    self._room.clear()
                    await self._room.wait()
        except QqvlError as error:
            logger().warning("流式回答中断", code=error.code, reason=error.message, request_id=self._request_id)
            self._fail(error)
        except Exception as error:
            # The edge of a request whose status is out: the reader must hear of it, the log must say why.
            logger().error("内部错误", request_id=self._request_id, exc_info=error)
            self._fail(QqvlError("服务器内部出错，请把 X-Request-ID 和日志一起反馈"))
        self._over.set()
        self._filled.set()

    def _fail(self, error: QqvlError) -> None:
        self._facts["code"] = error.code
        self._put(self._failure(error))

    async def _send(self, send: Send) -> None:
        over = False
        while not over:
            # What the source has ready at once goes out in one piece: each write costs a system call.
            await self._filled.wait()
            over = self._over.is_set()
            await send({"type": "http.response.body", "body": self._taken(), "more_body": not over})
            self._room.set()

    def _break_silence(self) -> None:
        # One timer for all pings: a timeout around every wait would cost as much as the event.
        if self._silent:
            self._put(_PING)
        self._silent = True
        self._ping = asyncio.get_running_loop().call_later(self._ping_s, self._break_silence)

    def _put(self, chunk: str) -> None:
        self._gathered.append(chunk)
        self._silent = False
        self._filled.set()

    def _taken(self) -> bytes:
        data = "".join(self._gathered).encode()
        self._gathered.clear()
        self._filled.clear()
        return data


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs and wait until it is over; what it was about to raise is nobody's any more."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
