"""The composition root: builds every room once, starts the server, takes it down in order. It alone knows all."""

from __future__ import annotations

import asyncio
import functools
import socket
import sys
import time
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

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
from qqvl_server.chat import retention
from qqvl_server.chat.gate.weights import Gate
from qqvl_server.chat.gate.weights import load as load_gate
from qqvl_server.chat.personas import Personas
from qqvl_server.chat.postgres import is_address as is_shared
from qqvl_server.chat.retention import Retention
from qqvl_server.chat.service import ChatService
from qqvl_server.chat.store import Store, sqlite_url
from qqvl_server.config import Resolved
from qqvl_server.connections import quieted, raise_limit, web_config
from qqvl_server.errors import ConfigError, WeightsError
from qqvl_server.front import Front, Rooms
from qqvl_server.generation.port import Voice
from qqvl_server.hosts import is_loopback
from qqvl_server.keeping.finishing import finish
from qqvl_server.language import told
from qqvl_server.lifecycle import Lifecycle
from qqvl_server.media.fetch import Fetcher
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from qqvl_server.media.shared import SharedPictures
from qqvl_server.observe import logs
from qqvl_server.observe.links import Links
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics
from qqvl_server.process import EXIT_CONFIG, EXIT_ENGINE_DEAD, EXIT_OK, EXIT_WEIGHTS, Server, bound, leave, locked
from qqvl_server.settings import Settings
from qqvl_server.signin import SignIn
from qqvl_server.voices import Loading, loading
from qqvl_server.weights.fingerprint import fingerprint_of
from qqvl_server.weights.locate import Checkpoint

_EXITS = {WeightsError: EXIT_WEIGHTS, ConfigError: EXIT_CONFIG}


def serve(resolved: Resolved, checkpoint: Checkpoint, data_dir: Path, load: Loading | None = None) -> int:
    """Run until stopped; returns the process's exit status.

    Args:
        load: gives the voice, blocking; by default the checkpoint's, in this process.

    Raises:
        ConfigError: the port is taken or the data folder is in use.
        StorageFailed: the database cannot be opened.
    """
    place = resolved.settings.server
    with held(resolved.settings, data_dir) as is_ours, bound(place.host, place.port) as listener:
        return asyncio.run(_serve(resolved, checkpoint, data_dir, is_ours, listener, load))


@contextmanager
def held(settings: Settings, data_dir: Path) -> Iterator[Callable[[], bool]]:
    """As ``locked``, with the log kept there; what a restore was doing when it was killed is brought to its end."""
    url = settings.storage.database_url or sqlite_url(data_dir)
    with locked(data_dir, with_others=is_shared(url)) as is_ours, logs.kept_in(data_dir / "logs", settings.observe):
        finish(data_dir.absolute(), url, logger().warning)
        yield is_ours


@dataclass(frozen=True, slots=True)
class House:
    """All that stands behind the port. ``idle`` returns once nobody waits for an answer; ``load`` gives the
    checkpoint's own voice."""

    web: ASGIApp
    life: Lifecycle
    service: ChatService
    library: ImageLibrary
    sign_in: SignIn
    idle: Callable[[], Awaitable[None]]
    load: Loading


@asynccontextmanager
async def opened(
    resolved: Resolved, checkpoint: Checkpoint, data_dir: Path, is_ours: Callable[[], bool], metrics: Metrics
) -> AsyncIterator[House]:
    """Everything but the voice, which ``House.life`` is given later, and the port.

    Raises StorageFailed.
    """
    settings = resolved.settings
    quieted(asyncio.get_running_loop())
    library = image_library(settings, data_dir)
    life = Lifecycle("upstream" if checkpoint.is_elsewhere else settings.weights.device)
    sign_in = SignIn.at(data_dir)
    async with Store.open(settings.storage.database_url or sqlite_url(data_dir), is_ours) as store:
        service = ChatService(
            store, life.get, library, settings.chat, settings.generation, settings.media.max_images, metrics,
            Personas(data_dir / "personas"), (settings.server.served_model_name or (checkpoint.name,))[0],
            await asyncio.to_thread(_gate, checkpoint, data_dir), data_dir / "words",
        )  # fmt: skip
        access = _access(settings, checkpoint, library, lambda: life.unless_stopping(service))
        links = Links()
        metrics.show_link(links)
        rooms = Rooms(
            resolved, data_dir, checkpoint.is_demo, store, service, access, life.get,
            lambda: life.status(service, store.trouble), library, metrics, links, sign_in,
        )  # fmt: skip
        retained = Retention(store, library, settings.storage, lambda: bool(service.running_turns()))
        async with front.opened(rooms) as page, retention.running(retained):
            doors = (
                qq.build(service), client.build(links, lambda: admin.is_healthy(rooms.status)), openai.build(access),
                responses.build(access), anthropic.build(access), *admin.build(rooms.status, metrics, links),
                *page.doors,
            )  # fmt: skip
            guard = server.build(doors, settings.server, metrics, sign_in)
            idle = functools.partial(_idle, guard, page)
            web = server.opened_to_pages(guard, settings.server)
            yield House(web, life, service, library, sign_in, idle, await loading(settings, checkpoint, store))
        if life.voice is not None:
            await life.voice.aclose()


async def _serve(
    resolved: Resolved,
    checkpoint: Checkpoint,
    data_dir: Path,
    is_ours: Callable[[], bool],
    listener: socket.socket,
    load: Loading | None,
) -> int:
    settings, place = resolved.settings, resolved.settings.server
    raise_limit()
    metrics = Metrics()
    async with opened(resolved, checkpoint, data_dir, is_ours, metrics) as house:
        life, library = house.life, house.library
        http = Server(web_config(house.web, place.body_timeout_s))
        url = hosts.url(place.host, listener.getsockname()[1])
        _announce_address(settings, url)
        _announce_page(house.sign_in, data_dir, hosts.near_url(place.host, listener.getsockname()[1]))
        # A decode may take longer than anybody waits for us to stop.
        ready = functools.partial(_announce_ready, settings, checkpoint, data_dir, url)
        stopping = life.stopping(http, house.service, house.idle, library.close, place.shutdown_grace_s)
        voice = functools.partial(load or house.load, library, metrics)
        async with life.supervised(http, voice, ready), stopping:
            await http.serve(sockets=[listener])
        signin.withdraw(data_dir, house.sign_in)
    if life.failure is not None:
        print(told(f"错误：{life.failure.message}"), file=sys.stderr)
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
        return load_gate(data_dir, Path(checkpoint.source), fingerprint_of(checkpoint))
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
        SharedPictures(settings.storage.image_store_url) if settings.storage.image_store_url else None,
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


def _announce_ready(settings: Settings, checkpoint: Checkpoint, data_dir: Path, url: str) -> None:
    logger().info("已就绪", url=url)
    if settings.observe.log_format == "console":
        lines = welcome.lines(settings, url, checkpoint.name, data_dir, is_demo=checkpoint.is_demo)
        print(welcome.box(lines), file=sys.stderr, flush=True)


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
        print(told(f"网页：{url}/（用有 admin 权限的密钥登录）"), file=sys.stderr, flush=True)
        return
    again = invocation.command("page")
    line = f"网页：{url}/?token={sign_in.link_token()}（只能用一次；再要一个：{again}）"
    print(told(line), file=sys.stderr, flush=True)
