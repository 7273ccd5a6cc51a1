"""The composition root: builds every room once, starts the server, takes it down in order. It alone knows all."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from qqvl_server import keys
from qqvl_server.api import server
from qqvl_server.api.desk import Desk
from qqvl_server.api.guard import Guard
from qqvl_server.api.pictures import Pictures
from qqvl_server.chat.service import ChatService
from qqvl_server.chat.store import Store, sqlite_url
from qqvl_server.config import is_loopback
from qqvl_server.connections import quieted, raise_limit, web_config
from qqvl_server.errors import ConfigError, Draining, EngineDead, Loading, QqvlError, WeightsError
from qqvl_server.generation.local import LocalVoice
from qqvl_server.generation.port import Voice, VoiceStatus
from qqvl_server.media.fetch import Fetcher
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics
from qqvl_server.process import EXIT_CONFIG, EXIT_ENGINE_DEAD, EXIT_OK, EXIT_WEIGHTS, Server, bound, leave, locked
from qqvl_server.settings import Settings
from qqvl_server.weights.locate import Checkpoint

_EXITS = {WeightsError: EXIT_WEIGHTS, ConfigError: EXIT_CONFIG}


@dataclass
class _Engine:
    """The voice once its weights are in memory, and why there will never be one."""

    voice: Voice | None = None
    failure: QqvlError | None = None

    def get(self) -> Voice:
        if self.voice is None:
            raise Loading("模型还在加载，请稍后再试", retry_after=5)
        if not self.voice.status().alive:
            raise EngineDead("模型已停止工作，服务正在退出")
        return self.voice


def serve(settings: Settings, checkpoint: Checkpoint, data_dir: Path) -> int:
    """Run until stopped; returns the process's exit status.

    Raises:
        ConfigError: the port is taken or the data folder is in use.
        StorageFailed: the database cannot be opened.
    """
    with locked(data_dir) as is_ours, bound(settings.server.host, settings.server.port) as listener:
        return asyncio.run(_serve(settings, checkpoint, data_dir, is_ours, listener))


async def _serve(
    settings: Settings, checkpoint: Checkpoint, data_dir: Path, is_ours: Callable[[], bool], listener: socket.socket
) -> int:
    raise_limit()
    quieted(asyncio.get_running_loop())
    metrics = Metrics()
    library = ImageLibrary(
        data_dir / "images",
        int(settings.storage.image_store_gb * 1e9),
        ImageLimits(
            max_bytes=int(settings.media.max_image_mb * 1e6),
            max_pixels=int(settings.media.max_image_megapixels * 1e6),
            max_frames=settings.media.max_frames,
            max_tokens=settings.media.max_image_tokens,
            min_share=settings.media.min_image_share,
            cpu_s=settings.media.decode_timeout_s,
        ),
    )
    engine = _Engine()
    async with Store.open(settings.storage.database_url or sqlite_url(data_dir), is_ours) as store:
        service = ChatService(
            store, engine.get, library, settings.chat, settings.generation, settings.media.max_images, metrics
        )

        def status() -> tuple[str, VoiceStatus]:
            if engine.voice is None:
                return "loading", VoiceStatus(False, False, False, settings.weights.device)
            now = engine.voice.status()
            word = "dead" if not now.alive else "stopping" if service.is_draining else store.trouble or "healthy"
            return word, now

        def bare_voice() -> Voice:
            # Doors without a chat have no lane that a stop could drain: they are refused here.
            if service.is_draining:
                raise Draining("服务正在停止，请稍后再试", retry_after=5)
            return engine.get()

        desk = _desk(settings, checkpoint, library, bare_voice)
        guard = server.build(service, desk, settings.server, metrics, status)
        web = Server(web_config(server.opened_to_pages(guard, settings.server), settings.server.body_timeout_s))
        url = _url(settings.server.host, listener)
        load = functools.partial(_load, settings, checkpoint, library, metrics)
        _announce_address(settings, url)
        async with _supervised(web, engine, load, url), _stopping(web, service, guard, library, engine, settings):
            await web.serve(sockets=[listener])
        if engine.voice is not None:
            await engine.voice.aclose()
    if engine.failure is not None:
        print(f"错误：{engine.failure.message}", file=sys.stderr)
        return _EXITS.get(type(engine.failure), EXIT_ENGINE_DEAD)
    logger().info("已停止")
    if engine.voice is None:
        # Stopped while a thread still loads.
        leave(EXIT_OK)
    return EXIT_OK


def _desk(settings: Settings, checkpoint: Checkpoint, library: ImageLibrary, voice: Callable[[], Voice]) -> Desk:
    return Desk(
        voice,
        Pictures(
            library,
            Fetcher(
                settings.media.fetch_remote,
                settings.media.media_allow,
                library.limits.max_bytes,
                settings.media.fetch_timeout_s,
            ),
        ),
        settings.server.served_model_name or (checkpoint.name,),
        int(time.time()),
        settings.generation.request_timeout_s,
        settings.media.max_images,
        settings.server.any_model_name,
    )


def _load(settings: Settings, checkpoint: Checkpoint, library: ImageLibrary, metrics: Metrics) -> Voice:
    """Blocking; torch and Transformers are imported only here, so that usage errors answer in a blink."""
    from qqvl_server.generation.constraints.grammar import GrammarCompiler
    from qqvl_server.generation.engines import choosing
    from qqvl_server.generation.prompts.preprocess import Preprocessor
    from qqvl_server.weights.load import load

    loaded = load(checkpoint, settings.weights)
    context = min(loaded.context_tokens, settings.generation.context_tokens)
    logger().info("模型已加载", model=checkpoint.name, device=loaded.device, dtype=loaded.dtype, context_tokens=context)
    voice = LocalVoice(
        Preprocessor(loaded.processor, library, settings.media.max_image_tokens, context),
        choosing.build(loaded, settings.generation, context, metrics),
        device=loaded.device,
        context_tokens=context,
        metrics=metrics,
        max_pending=settings.generation.max_pending,
        grammars=GrammarCompiler(
            loaded.processor.tokenizer,
            loaded.end_tokens,
            loaded.vocabulary,
            is_loose=settings.generation.loose_schemas,
        ),
    )
    # Torch and Transformers leave hundreds of thousands of objects that live as long as the process. Each time the
    # collector looks through them again it holds the interpreter, and with it every reply, for a tenth of a second.
    gc.collect()
    gc.freeze()
    return voice


@asynccontextmanager
async def _supervised(web: Server, engine: _Engine, load: functools.partial[Voice], url: str) -> AsyncIterator[None]:
    """Load beside the open port (``/health`` says loading), then watch the engine; either failing stops all."""
    loop = asyncio.get_running_loop()

    async def watch() -> None:
        loaded: asyncio.Future[Voice] = loop.create_future()
        # A daemon thread, so that a stop during a long load does not wait for gigabytes.
        threading.Thread(target=_deliver, args=(load, loop, loaded), name="qqvl-load", daemon=True).start()
        try:
            engine.voice = await loaded
        except QqvlError as error:
            engine.failure = error
            web.ask_to_stop()
            return
        logger().info("已就绪", url=url)
        # A look a second is soon enough: callers and /health see a dead engine at once.
        while engine.voice.status().alive:  # noqa: ASYNC110
            await asyncio.sleep(1)
        engine.failure = EngineDead("模型引擎已停止工作，进程退出，请由守护程序重启")
        web.ask_to_stop()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


def _deliver(load: functools.partial[Voice], loop: asyncio.AbstractEventLoop, loaded: asyncio.Future[Voice]) -> None:
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


@asynccontextmanager
async def _stopping(
    web: Server, service: ChatService, guard: Guard, library: ImageLibrary, engine: _Engine, settings: Settings
) -> AsyncIterator[None]:
    """On a signal: refuse newcomers, let running turns finish within the grace, only then close the port."""

    async def stop() -> None:
        await web.stopping.wait()
        # Nobody can be answered any more once the engine is gone.
        grace = 0 if engine.failure else settings.server.shutdown_grace_s
        answering = asyncio.create_task(guard.idle())
        await asyncio.gather(service.drain(grace), asyncio.wait({answering}, timeout=grace))
        answering.cancel()
        # A decode may take longer than anybody waits for us to stop.
        library.close()
        web.should_exit = True

    stopper = asyncio.create_task(stop())
    try:
        yield
    finally:
        stopper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopper


def _url(host: str, listener: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"


def _announce_address(settings: Settings, url: str) -> None:
    host = settings.server.host
    logger().info("正在监听，模型加载中", url=url)
    if not is_loopback(host) and not settings.server.api_keys:
        logger().warning(
            f"正在监听 {host} 且没有密钥：能连到这台机器的任何人都能使用模型。"
            "请设置 QQVL_API_KEYS（客户端用 QQVL_API_KEY），或去掉 --host 只听本机"
        )
    file = settings.server.api_keys_file
    if file and keys.others_can_read(Path(file)):
        logger().warning("这台机器上的其他用户也能读密钥文件，请执行 chmod 600", file=file)
