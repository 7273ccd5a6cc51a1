"""The composition root: builds every room once, starts the server, takes it down in order. It alone knows all."""

from __future__ import annotations

import asyncio
import functools
import gc
import socket
import sys
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from qqvl_server import front, hosts, invocation, keys, signin, welcome
from qqvl_server.api import server
from qqvl_server.api.admin import routes as admin
from qqvl_server.api.anthropic import routes as anthropic
from qqvl_server.api.client import routes as client
from qqvl_server.api.guard import Guard
from qqvl_server.api.model_access import ModelAccess
from qqvl_server.api.openai import routes as openai
from qqvl_server.api.pictures import Pictures
from qqvl_server.api.qq import routes as qq
from qqvl_server.api.responses import routes as responses
from qqvl_server.chat.gate.weights import Gate
from qqvl_server.chat.gate.weights import load as load_gate
from qqvl_server.chat.personas import Personas
from qqvl_server.chat.service import ChatService
from qqvl_server.chat.store import Store, sqlite_url
from qqvl_server.config import Resolved
from qqvl_server.connections import quieted, raise_limit, web_config
from qqvl_server.errors import ConfigError, WeightsError
from qqvl_server.front import Front, Rooms
from qqvl_server.generation.local import LocalVoice
from qqvl_server.generation.port import Voice
from qqvl_server.hosts import is_loopback
from qqvl_server.keeping.finishing import finish
from qqvl_server.lifecycle import Lifecycle
from qqvl_server.media.fetch import Fetcher
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.links import Links
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics
from qqvl_server.process import EXIT_CONFIG, EXIT_ENGINE_DEAD, EXIT_OK, EXIT_WEIGHTS, Server, bound, leave, locked
from qqvl_server.settings import Settings
from qqvl_server.signin import SignIn
from qqvl_server.weights.fingerprint import fingerprint
from qqvl_server.weights.locate import Checkpoint

_EXITS = {WeightsError: EXIT_WEIGHTS, ConfigError: EXIT_CONFIG}


def serve(resolved: Resolved, checkpoint: Checkpoint, data_dir: Path) -> int:
    """Run until stopped; returns the process's exit status.

    Raises:
        ConfigError: the port is taken or the data folder is in use.
        StorageFailed: the database cannot be opened.
    """
    place = resolved.settings.server
    with locked(data_dir) as is_ours, bound(place.host, place.port) as listener:
        finish(data_dir.absolute(), resolved.settings.storage.database_url or sqlite_url(data_dir), logger().warning)
        return asyncio.run(_serve(resolved, checkpoint, data_dir, is_ours, listener))


async def _serve(
    resolved: Resolved, checkpoint: Checkpoint, data_dir: Path, is_ours: Callable[[], bool], listener: socket.socket
) -> int:
    settings = resolved.settings
    raise_limit()
    quieted(asyncio.get_running_loop())
    metrics = Metrics()
    library = image_library(settings, data_dir)
    life = Lifecycle(settings.weights.device)
    sign_in = SignIn.at(data_dir)
    async with Store.open(settings.storage.database_url or sqlite_url(data_dir), is_ours) as store:
        service = ChatService(
            store, life.get, library, settings.chat, settings.generation, settings.media.max_images, metrics,
            Personas(data_dir / "personas"), (settings.server.served_model_name or (checkpoint.name,))[0],
            await asyncio.to_thread(_gate, checkpoint, data_dir),
        )  # fmt: skip
        access = _access(settings, checkpoint, library, lambda: life.unless_stopping(service))
        links = Links()
        rooms = Rooms(
            resolved, data_dir, checkpoint.is_demo, store, service, access, life.get,
            lambda: life.status(service, store.trouble), library, metrics, links, sign_in,
        )  # fmt: skip
        async with front.opened(rooms) as page:
            doors = (
                qq.build(service), client.build(links, lambda: admin.is_healthy(rooms.status)), openai.build(access),
                responses.build(access), anthropic.build(access), *admin.build(rooms.status, metrics, links),
                *page.doors,
            )  # fmt: skip
            guard = server.build(doors, settings.server, metrics, sign_in)
            http = Server(web_config(server.opened_to_pages(guard, settings.server), settings.server.body_timeout_s))
            url = hosts.url(settings.server.host, listener.getsockname()[1])
            load = functools.partial(load_voice, settings, checkpoint, library, metrics)
            _announce_address(settings, url)
            _announce_page(sign_in, data_dir, hosts.near_url(settings.server.host, listener.getsockname()[1]))
            # A decode may take longer than anybody waits for us to stop.
            ready = functools.partial(_announce_ready, settings, checkpoint, data_dir, url)
            idle = functools.partial(_idle, guard, page)
            stopping = life.stopping(http, service, idle, library.close, settings.server.shutdown_grace_s)
            async with life.supervised(http, load, ready), stopping:
                await http.serve(sockets=[listener])
            signin.withdraw(data_dir)
        if life.voice is not None:
            await life.voice.aclose()
    if life.failure is not None:
        print(f"错误：{life.failure.message}", file=sys.stderr)
        return _EXITS.get(type(life.failure), EXIT_ENGINE_DEAD)
    logger().info("已停止")
    if life.voice is None:
        # Stopped while a thread still loads.
        leave(EXIT_OK)
    return EXIT_OK


async def _idle(guard: Guard, page: Front) -> None:
    """Until nobody waits for an answer, in the browser or elsewhere."""
    await asyncio.gather(guard.idle(), page.idle())


def _gate(checkpoint: Checkpoint, data_dir: Path) -> Gate | None:
    """Blocking; None also where the weights cannot be read: loading them will say so."""
    try:
        folder = Path(checkpoint.source)
        return load_gate(data_dir, folder, fingerprint(folder))
    except (OSError, WeightsError):
        return None


def image_library(settings: Settings, data_dir: Path) -> ImageLibrary:
    return ImageLibrary(
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


def _access(
    settings: Settings, checkpoint: Checkpoint, library: ImageLibrary, voice: Callable[[], Voice]
) -> ModelAccess:
    return ModelAccess(
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


def load_voice(settings: Settings, checkpoint: Checkpoint, library: ImageLibrary, metrics: Metrics) -> Voice:
    """Blocking; torch and Transformers are imported only here, so that usage errors answer in a blink."""
    from qqvl_server.generation.constraints.grammar import GrammarCompiler
    from qqvl_server.generation.engines import choosing
    from qqvl_server.generation.prompts.preprocess import Preprocessor
    from qqvl_server.weights.load import load

    loaded = load(checkpoint, settings.weights)
    context = min(loaded.context_tokens, settings.generation.context_tokens)
    engine = choosing.build(loaded, settings.engine, context, metrics, max_pending=settings.generation.max_pending)
    context = choosing.longest(engine, context)
    logger().info("模型已加载", model=checkpoint.name, device=loaded.device, dtype=loaded.dtype, context_tokens=context)
    voice = LocalVoice(
        Preprocessor(loaded.processor, library, settings.media.max_image_tokens, context),
        engine,
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


def _announce_ready(settings: Settings, checkpoint: Checkpoint, data_dir: Path, url: str) -> None:
    logger().info("已就绪", url=url)
    if settings.observe.log_format == "console":
        told = welcome.lines(settings, url, checkpoint.name, data_dir, is_demo=checkpoint.is_demo)
        print(welcome.box(told), file=sys.stderr, flush=True)


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


def _announce_page(sign_in: SignIn, data_dir: Path, url: str) -> None:
    """A line for whoever started us. Not in the log, which more people may read and which keeps it for longer."""
    sign_in.announce(data_dir, url)
    if not is_loopback(urllib.parse.urlsplit(url).hostname or ""):
        print(f"网页：{url}/（用有 admin 权限的密钥登录）", file=sys.stderr, flush=True)
        return
    again = invocation.command("page")
    print(f"网页：{url}/?token={sign_in.link_token()}（只能用一次；再要一个：{again}）", file=sys.stderr, flush=True)
