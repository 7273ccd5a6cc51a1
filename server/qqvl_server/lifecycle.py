"""From loading to the end: the voice while there is one, why there will be none, and a stop that lets turns finish."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from qqvl_server.chat.service import ChatService
from qqvl_server.errors import Draining, EngineDead, Loading, QqvlError, WeightsError
from qqvl_server.generation.port import Voice, VoiceStatus
from qqvl_server.observe.logs import logger
from qqvl_server.process import Server

Load = Callable[[], Voice]


class Lifecycle:
    """``voice`` is there once its weights are in memory; ``failure`` says why the process must end."""

    def __init__(self, device: str) -> None:
        self.voice: Voice | None = None
        self.failure: QqvlError | None = None
        self._device = device

    def get(self) -> Voice:
        """Raises Loading or EngineDead while there is none; one that is away says so itself once it is asked."""
        if self.voice is None:
            raise Loading("模型还在加载，请稍后再试", retry_after=5)
        if not self.voice.status().alive:
            raise EngineDead("模型已停止工作，服务正在退出")
        return self.voice

    def unless_stopping(self, service: ChatService) -> Voice:
        """The same for doors without a chat, which have no lane that a stop could drain. Raises Draining as well."""
        if service.is_draining:
            raise Draining("服务正在停止，请稍后再试", retry_after=5)
        return self.get()

    def status(self, service: ChatService, trouble: str | None) -> tuple[str, VoiceStatus]:
        """The word ``/health`` says now, and the voice's state.

        Args:
            trouble: what is wrong with the storage, if anything is.
        """
        if self.voice is None:
            return "loading", VoiceStatus(False, False, False, self._device)
        now = self.voice.status()
        away = "away" if now.away else None
        word = "dead" if not now.alive else "stopping" if service.is_draining else trouble or away or "healthy"
        return word, now

    @asynccontextmanager
    async def supervised(self, web: Server, load: Load, ready: Callable[[], None]) -> AsyncIterator[None]:
        """Load beside the open port, say ``ready``, then watch the engine; either failing stops all."""
        watching = asyncio.create_task(self._watch(web, load, ready))
        try:
            yield
        finally:
            await _cancelled(watching)

    async def _watch(self, web: Server, load: Load, ready: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[Voice] = loop.create_future()
        # A daemon thread, so that a stop during a long load does not wait for gigabytes.
        threading.Thread(target=_deliver, args=(load, loop, loaded), name="qqvl-load", daemon=True).start()
        try:
            self.voice = await loaded
        except QqvlError as error:
            self.failure = error
            web.ask_to_stop()
            return
        ready()
        await self.voice.watch()
        self.failure = EngineDead("模型引擎已停止工作，进程退出，请由守护程序重启")
        web.ask_to_stop()

    @asynccontextmanager
    async def stopping(
        self,
        web: Server,
        service: ChatService,
        idle: Callable[[], Awaitable[None]],
        give_up: Callable[[], None],
        grace_s: float,
    ) -> AsyncIterator[None]:
        """On a signal: refuse newcomers, let what runs finish within ``grace_s``, only then close the port.

        Args:
            idle: returns once nobody waits for an answer.
            give_up: ends what may take longer than anybody waits for us to stop.
        """

        async def stop() -> None:
            await web.stopping.wait()
            # Nobody can be answered any more once the engine is gone.
            grace = 0 if self.failure else grace_s
            answering = asyncio.ensure_future(idle())
            await asyncio.gather(service.drain(grace), asyncio.wait({answering}, timeout=grace))
            answering.cancel()
            give_up()
            web.should_exit = True

        stopper = asyncio.create_task(stop())
        try:
            yield
        finally:
            await _cancelled(stopper)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _deliver(load: Load, loop: asyncio.AbstractEventLoop, loaded: asyncio.Future[Voice]) -> None:
    def settle(voice: Voice | None, error: QqvlError | None) -> None:
        if loaded.done():
            return
        if error is not None:
            loaded.set_exception(error)
        elif voice is not None:
            loaded.set_result(voice)

    voice, failure = None, None
    try:
        voice = load()
    except QqvlError as error:
        failure = error
    except Exception as error:
        # The edge of libraries that raise anything: the process must end with a line, not hang at "loading".
        logger().error("加载模型时出错", exc_info=error)
        failure = WeightsError("加载模型时出了意料之外的错误，详情见上面的日志")
    with contextlib.suppress(RuntimeError):  # the loop is gone: we were stopped while loading
        loop.call_soon_threadsafe(settle, voice, failure)
