"""One question to one upstream: its answer as events, closed the moment that nobody reads it any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from qqvl_server.errors import QqvlError
from qqvl_server.generation.choices import one_choice
from qqvl_server.generation.deadlines import too_late
from qqvl_server.generation.engines.upstream import body, setbacks
from qqvl_server.generation.engines.upstream.fleet import Profile, Upstream
from qqvl_server.generation.engines.upstream.hearing import Hearing
from qqvl_server.generation.engines.upstream.setbacks import Setback
from qqvl_server.generation.engines.upstream.showing import Shown
from qqvl_server.generation.engines.upstream.tokens import Marks
from qqvl_server.generation.engines.upstream.wire import UpstreamHttp
from qqvl_server.generation.port import Finished, GenerationRequest, TextEvent
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics

_Queue = asyncio.Queue["TextEvent | BaseException | None"]


@dataclass(frozen=True, slots=True)
class Asked:
    """``most`` tokens may be generated."""

    request: GenerationRequest
    shown: Shown
    most: int


class Asking:
    """``session_header`` names the header that tells balancers whose talk it is; nothing where none is sent."""

    def __init__(self, http: UpstreamHttp, marks: Marks, session_header: str, metrics: Metrics) -> None:
        self._http = http
        self._marks = marks
        self._session_header = session_header
        self._metrics = metrics

    async def events(self, asked: Asked, upstream: Upstream) -> AsyncGenerator[TextEvent, None]:
        """Raises Setback, QqvlError. Closing it closes the connection, by which the upstream knows."""
        queue: _Queue = asyncio.Queue()
        # Apart, so that one timeout spans the whole answer, whoever reads it and how slowly.
        running = asyncio.create_task(self._run(asked, upstream, queue))
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def _run(self, asked: Asked, upstream: Upstream, queue: _Queue) -> None:
        """Whatever happens, the queue gets an end or an error, and the metrics a word."""
        began = time.monotonic()
        outcome = "aborted"
        told: Exception | None = None
        try:
            await self._in_time(asked, upstream, queue)
            outcome = "ok"
            upstream.succeeded()
        except Setback as error:
            outcome, told = error.outcome, error
            if error.is_fault:
                upstream.failed(asked.request.request_id)
            logger().warning(
                "上游没有答成", upstream=upstream.name, outcome=outcome, reason=error.error.message,
                request_id=asked.request.request_id, seconds=round(time.monotonic() - began, 2),
            )  # fmt: skip
        except QqvlError as error:
            outcome, told = setbacks.outcome_of(error), error
        except Exception as error:
            # Carried to whoever reads the queue, which raises it.
            outcome, told = "error", error
        finally:
            self._metrics.upstream_requests.labels(upstream.name, outcome).inc()
            queue.put_nowait(told)

    async def _in_time(self, asked: Asked, upstream: Upstream, queue: _Queue) -> None:
        try:
            async with asyncio.timeout(max(asked.request.deadline - time.monotonic(), 0)):
                await self._while_there(asked, upstream, queue)
        except TimeoutError:
            raise too_late() from None

    async def _while_there(self, asked: Asked, upstream: Upstream, queue: _Queue) -> None:
        try:
            async with asyncio.timeout(None) as patience:
                upstream.waits(patience)
                try:
                    await self._asked(asked, upstream, queue)
                finally:
                    upstream.waits_no_more(patience)
        except TimeoutError:
            raise setbacks.unreachable("没有应答") from None

    async def _asked(self, asked: Asked, upstream: Upstream, queue: _Queue) -> None:
        """Servers that make one reply at a time are asked as often as replies are wanted."""
        profile = upstream.profile
        assert profile is not None
        request = asked.request
        if request.choices == 1 or profile.kind.several:
            await self._exchange(asked, upstream, profile, queue.put_nowait)
            return
        for choice in range(request.choices):
            one = replace(asked, request=one_choice(request, choice))
            await self._exchange(one, upstream, profile, lambda e, c=choice: queue.put_nowait(replace(e, choice=c)))  # type: ignore[misc]

    async def _exchange(
        self, asked: Asked, upstream: Upstream, profile: Profile, tell: Callable[[TextEvent], None]
    ) -> None:
        request, kind = asked.request, profile.kind
        salt = self._marks.cache_salt(request)
        if request.raw is not None:
            written, path = body.completion(request, kind, profile.model, asked.most, salt), "completions"
        else:
            path, given = "chat/completions", (request, kind, profile.model, asked.shown.show, asked.most, salt)
            # Pictures make megabytes of it.
            written = await asyncio.to_thread(body.chat, *given) if asked.shown.addresses else body.chat(*given)
        headers = {}
        if self._session_header and kind.sessions:
            headers[self._session_header] = self._marks.session(request)
        hearing = Hearing(request)
        async with self._http.events(f"{upstream.url}/{path}", written, headers) as chunks, aclosing(chunks):
            async for chunk in chunks:
                upstream.heard()
                for event in hearing.take(chunk):
                    tell(event)
                if hearing.enough:
                    break
        for last in hearing.finish():
            if isinstance(last, Finished) and asked.shown.unseen:
                last = replace(last, unseen=asked.shown.unseen)
            tell(last)
