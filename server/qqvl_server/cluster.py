"""The same house on Ray Serve: the engine as a deployment of many replicas, the doors here or as its ingress.

``qqvl serve --replicas 2`` keeps the doors in this process, with its port, its signals and its exit statuses, and has
only the engine in replicas. ``serve run qqvl_server.cluster:app replicas=2`` has the doors in the cluster as well,
behind Ray's own proxy: settings are its arguments, by their names, beside the variables and the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from qqvl_server import app as house
from qqvl_server import config, derived, invocation, voices
from qqvl_server.config import Resolved
from qqvl_server.errors import ConfigError, QqvlError, WeightsError
from qqvl_server.generation.engines.ray_replicas import RayReplicas
from qqvl_server.generation.engines.remote import RemoteVoice
from qqvl_server.generation.engines.served import Described, Served
from qqvl_server.generation.port import Voice
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe import logs
from qqvl_server.observe.metrics import Metrics
from qqvl_server.openmp import bound_spinning
from qqvl_server.process import EXIT_ENGINE_DEAD, is_held, leave, locked
from qqvl_server.settings import Settings
from qqvl_server.weights.locate import Checkpoint, locate

if TYPE_CHECKING:
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle

NAME: Final = "qqvl"
_ROUTER: Final = "qqvl_server.generation.engines.chat_router.ChatRouter"
_BESIDE: Final = 64  # answers beside those that wait or run: counts, scores, questions whether anybody is there
_RUNNING: Final = 16  # what a replica computes at once where the settings leave it open; a large card has room for more
_OBJECT_STORE_BYTES: Final = 128 * 1024**2
_INLINE_BYTES: Final = "67108864"
_OTHER_CPUS: Final = 2  # of a cluster of our own, for Ray's own actors
_STARTS: Final = 5
_DESCRIBE_S: Final = 60.0
_CLOSING_S: Final = 10.0  # to close the database and the rest after the last answer


@dataclass(frozen=True, slots=True)
class Plan:
    """What crosses to other machines of the cluster: paths are absolute, and the same on all of them."""

    resolved: Resolved
    checkpoint: Checkpoint
    data_dir: Path


def serve(resolved: Resolved, checkpoint: Checkpoint, data_dir: Path) -> int:
    """As ``app.serve``, with the engine in replicas. Raises ConfigError as well: settings that do not go together."""
    check(resolved.settings)
    plan = _plan(resolved, checkpoint, data_dir)
    return house.serve(resolved, checkpoint, data_dir, functools.partial(_load, plan))


def app(arguments: Mapping[str, Any]) -> Application:
    """What ``serve run qqvl_server.cluster:app`` deploys: settings by their names, as ``replicas=2 device=cpu``.

    Raises ConfigError, WeightsError.
    """
    file = config.settings_file(None, os.environ)
    if unknown := set(arguments) - {knob.name for knob in config.knobs()}:
        raise ConfigError(f"没有 {'、'.join(sorted(unknown))} 这个设置；参数是设置的名字，如 replicas=2")
    resolved = config.resolve(dict(arguments), os.environ, file)
    if not resolved.settings.cluster.replicas:
        resolved = config.resolve({**arguments, "replicas": "1"}, os.environ, file)
    check(resolved.settings)
    checkpoint = locate(resolved.settings.weights.model_path, config.project_root())
    plan = _plan(resolved, checkpoint, config.data_dir(resolved))
    from ray import serve as ray_serve

    doors = ray_serve.deployment(
        name="doors",
        # They own the data folder, and with it the order of every chat's lines.
        num_replicas=1,
        ray_actor_options={"num_cpus": 0.5},
        max_ongoing_requests=4096,
        graceful_shutdown_timeout_s=resolved.settings.server.shutdown_grace_s + _CLOSING_S,
    )(ray_serve.ingress()(Doors))
    return doors.bind(plan, _engine(plan))


def check(settings: Settings) -> None:
    """Raises ConfigError: Ray is not installed, or settings that do not go together."""
    wanted = settings.cluster
    if settings.engine.engine == "upstream":
        raise ConfigError("--replicas 和 --engine upstream 不能一起用：上游自己就是集群，去掉其中一个")
    if 0 < wanted.max_replicas < wanted.replicas:
        raise ConfigError(f"--max-replicas {wanted.max_replicas} 比 --replicas {wanted.replicas} 小：改大它，或去掉它")
    if wanted.replica_gpus is not None and 0 < wanted.replica_gpus < 1 and not settings.engine.kv_cache_gb:
        raise ConfigError(
            "几个副本共用一块显卡（--replica-gpus 小于 1）时要写 --kv-cache-gb：各自按空闲显存定，后起的就没有了"
        )
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(f"没有装 ray：运行 {invocation.install('ray[serve]')}，或去掉 --replicas")


class Replica(Served):
    """One engine, in a process of its own that Ray starts, watches and replaces."""

    def __init__(self, plan: Plan) -> None:
        settings = plan.resolved.settings
        bound_spinning()
        derived.keep_in(plan.data_dir)
        logs.configure(settings.observe)
        self._open = contextlib.ExitStack()
        library = house.image_library(settings, self._open.enter_context(_scratch()))
        super().__init__(voices.load_voice(settings, plan.checkpoint, library, Metrics()), library)

    def check_health(self) -> None:
        if not self.is_alive():
            # At once: Ray would ask twice more, and whoever is sent here meanwhile is sent in vain.
            leave(EXIT_ENGINE_DEAD)


class Doors:
    """The ingress: the same house as on one machine, entered through Ray's proxy."""

    def __init__(self, plan: Plan, engine: DeploymentHandle) -> None:
        self._plan = plan
        self._engine = engine

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return _Entrance(self._plan, self._engine)


class _Entrance:
    """ASGI: the house is open from the lifespan's beginning to its end."""

    def __init__(self, plan: Plan, engine: DeploymentHandle) -> None:
        self._plan = plan
        self._engine = engine
        self._web: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            assert self._web is not None
            await self._web(scope, receive, send)
            return
        plan, settings, metrics = self._plan, self._plan.resolved.settings, Metrics()
        logs.configure(settings.observe)
        await receive()
        try:
            async with contextlib.AsyncExitStack() as leaving:
                is_ours = leaving.enter_context(house.held(settings, plan.data_dir))
                opened = house.opened(plan.resolved, plan.checkpoint, plan.data_dir, is_ours, metrics)
                here = await leaving.enter_async_context(opened)
                described = await self._engine.describe.remote()
                voice = RemoteVoice(RayReplicas(self._engine), described, here.library, metrics)
                here.life.voice, self._web = voice, here.web
                watching = asyncio.create_task(voice.watch())
                leaving.callback(watching.cancel)
                await send({"type": "lifespan.startup.complete"})
                await receive()
                # Ray has let requests finish before; turns go on without a request.
                await here.service.drain(settings.server.shutdown_grace_s)
                here.library.close()
        except QqvlError as error:
            logs.logger().error("接口起不来", reason=error.message)
            await send({"type": "lifespan.startup.failed", "message": error.message})
            return
        await send({"type": "lifespan.shutdown.complete"})


def _plan(resolved: Resolved, checkpoint: Checkpoint, data_dir: Path) -> Plan:
    return Plan(resolved, replace(checkpoint, source=str(Path(checkpoint.source).resolve())), data_dir.resolve())


def _load(plan: Plan, library: ImageLibrary, metrics: Metrics) -> Voice:
    """Blocking: start or join a cluster, and wait for its first replicas. Raises WeightsError."""
    # Whom a server tells of itself is its owner's choice.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray makes its workers step back behind everybody by 15; what computes here is what the machine is for.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Pictures too go with the call itself: the object store's connection to this process broke at its first use (2.60).
    for name in ("RAY_max_direct_call_object_size", "RAY_task_rpc_inlined_bytes_limit"):
        os.environ.setdefault(name, _INLINE_BYTES)
    import ray
    from ray import serve as ray_serve

    wanted = plan.resolved.settings.cluster
    cpus = max(wanted.replicas, wanted.max_replicas) * wanted.replica_cpus + _OTHER_CPUS
    own: dict[str, Any] = {
        "num_cpus": math.ceil(cpus), "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
    }  # fmt: skip
    try:
        where = {"address": wanted.ray_address} if wanted.ray_address else {"address": "local", **own}
        _begin({**where, "namespace": NAME, "logging_level": "warning"})
        ray_serve.start(proxy_location="Disabled")
        handle = ray_serve.run(_engine(plan), name=NAME, route_prefix=None)
        described: Described = handle.describe.remote().result(timeout_s=_DESCRIBE_S)
    except Exception as error:
        # The edge of a library that raises anything, from no such cluster to what a replica's start ended with.
        logs.logger().error("副本没有起来", exc_info=error)
        raise WeightsError(
            "Ray 的副本没有起来，原因见上面的日志；先不加 --replicas 试一次，能单独看出模型的问题"
        ) from error
    logs.logger().info("副本已就绪", replicas=wanted.replicas, device=described.device)

    def close() -> None:
        if wanted.ray_address:
            ray_serve.delete(NAME, _blocking=False)
        ray.shutdown()

    return RemoteVoice(RayReplicas(handle, close), described, library, metrics)


def _begin(options: dict[str, Any]) -> None:
    """``ray.init``; it gives a node of its own half a minute, which is too little on a machine that is busy."""
    import ray

    for left in reversed(range(_STARTS)):
        try:
            ray.init(**options)
            return
        except Exception as error:
            # Ray raises Exception itself here, and tells by the text alone what it was.
            ray.shutdown()
            if not left or "timed out during startup" not in str(error):
                raise
            logs.logger().warning("机器太忙，Ray 没有及时起来，再试一次")


def _engine(plan: Plan) -> Application:
    from ray import serve as ray_serve
    from ray.serve.config import RequestRouterConfig

    settings = plan.resolved.settings
    wanted = settings.cluster
    running = settings.engine.max_running or _RUNNING
    options: dict[str, Any] = {"num_replicas": wanted.replicas}
    if wanted.max_replicas > wanted.replicas:
        # More than a replica computes at once, on the average of all: somebody waits.
        bounds = {"min_replicas": wanted.replicas, "max_replicas": wanted.max_replicas}
        options = {"autoscaling_config": {**bounds, "target_ongoing_requests": running}}
    return ray_serve.deployment(
        name="engine",
        # By the first of these Ray bounds OpenMP's threads as well, where the operator has not.
        ray_actor_options={"num_cpus": wanted.replica_cpus, "num_gpus": _gpus(settings)},
        # The engine knows whose turn it is and refuses what is too much: a queue before it would not.
        max_ongoing_requests=settings.generation.max_pending + 2 * running + _BESIDE,
        graceful_shutdown_timeout_s=settings.server.shutdown_grace_s,
        health_check_period_s=2,
        health_check_timeout_s=30,
        max_constructor_retry_count=3,
        request_router_config=RequestRouterConfig(request_router_class=_ROUTER),
        **options,
    )(Replica).bind(plan)


def _gpus(settings: Settings) -> float:
    import ray

    if settings.cluster.replica_gpus is not None:
        return settings.cluster.replica_gpus
    if settings.weights.device == "cpu":
        return 0
    return 1 if ray.cluster_resources().get("GPU") else 0


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for the pictures that this process is sent. What processes that were killed have left is deleted."""
    shelf = Path(tempfile.gettempdir()) / f"qqvl-replicas-{os.getuid()}"
    for left in filter(lambda folder: not is_held(folder), shelf.glob("*")):
        shutil.rmtree(left, ignore_errors=True)
    own = shelf / str(os.getpid())
    try:
        with locked(own):
            yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
