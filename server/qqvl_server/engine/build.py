"""The engine, put together: how this device computes, how large the cache may be, who hands on to whom.

The one place that knows every room. Server, benchmarks and tests are all built here, so that what is measured and
tested is what is served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import psutil
import torch

from qqvl_server.engine.cache.kv_cache import KVShape, kv_dtype, kv_shape
from qqvl_server.engine.cpu import checking, packing
from qqvl_server.engine.cpu.backend import CpuBackend
from qqvl_server.engine.cpu.kernels import TextShape, text_shape
from qqvl_server.engine.cuda.backend import CudaBackend, Recording
from qqvl_server.engine.cuda.checking import refused
from qqvl_server.engine.cuda.graphs import CudaCapture
from qqvl_server.engine.cuda.layers import fuse
from qqvl_server.engine.cuda.own import BLOCK_SIZE, OwnKernels
from qqvl_server.engine.cuda.products import use_own
from qqvl_server.engine.cuda.trial import Trial, Trusted
from qqvl_server.engine.cuda.varlen import LIBRARIES, NamedKernel
from qqvl_server.engine.forward.backend import Backend
from qqvl_server.engine.forward.compiled import compile_layers
from qqvl_server.engine.forward.patches import by_products
from qqvl_server.engine.forward.runner import ModelRunner
from qqvl_server.engine.forward.sampler import Sampler
from qqvl_server.engine.forward.sdpa import SdpaBackend
from qqvl_server.engine.forward.split import layer_devices
from qqvl_server.engine.forward.warm_up import warm_up
from qqvl_server.engine.steps.block_pool import BlockPool
from qqvl_server.engine.steps.core import EngineCore
from qqvl_server.engine.steps.planted import plant
from qqvl_server.engine.steps.scheduler import Scheduler
from qqvl_server.errors import WeightsError
from qqvl_server.observe.logs import logger
from qqvl_server.settings import EngineSettings

FEATURE_BYTES: Final = 512_000_000
# Enough for this many chats of full length; more would only sit idle.
_MOST_CHATS: Final = 64
# Shorter than this, nobody would call it a conversation.
_LEAST_CONTEXT: Final = 2048
# Bytes of a card's memory, a little below what it is sold as, and how many replies it computes at once.
_RUNNING: Final = ((38e9, 64), (20e9, 32), (10e9, 16))
# A step takes a card a tenth of a second; a compiler may take a minute for a shape it has not seen.
_STALL_S: Final = {"cuda": 60.0}
_SLOW_STALL_S: Final = 600.0


def build(
    model: Any,
    settings: EngineSettings,
    context_tokens: int,
    *,
    never: Sequence[int] = (),
    fault: str = "",
    on_picture: Callable[[bool], None] = lambda _found: None,
) -> EngineCore:
    """As the settings say, on the device ``model`` is on; ``context_tokens`` is the longest prompt and reply together.

    The other arguments are ``assemble``'s.

    Raises:
        WeightsError: no memory is left for a cache of one chat, or the model cannot be run.
        ConfigError: the fault cannot be read.
    """
    backend = backend_for(model, settings, context_tokens)
    is_card, dtype, devices = model.device.type == "cuda", kv_dtype(model), layer_devices(model) or [model.device]
    free = free_for_cache(devices, _free_bytes)
    per_block = kv_shape(model.config).bytes_per_token(dtype) * backend.block_size
    blocks = blocks_for(free, per_block, settings, context_tokens, backend.block_size, is_card=is_card)
    ahead = is_card and settings.step_ahead == "auto"
    core = assemble(
        model,
        backend,
        blocks=blocks,
        step_tokens=settings.step_tokens,
        requests=most_running(settings, model.device),
        ahead=ahead,
        feature_bytes=feature_bytes_for(free, is_card=is_card),
        never=never,
        fault=fault,
        on_picture=on_picture,
    )
    if model.device.type != "cpu" or getattr(model.config, "quantization_config", None) is not None:
        warm_up(core, model, settings.step_tokens)
    tokens = blocks * backend.block_size
    core.facts = {
        "device": "、".join(map(str, dict.fromkeys([model.device, *devices]))),
        "dtype": str(dtype).removeprefix("torch."), **backend.facts, "block_size": backend.block_size, "ahead": ahead,
    }  # fmt: skip
    logger().info(
        "引擎已备好", **core.facts, kv_tokens=tokens, kv_gb=round(blocks * per_block / 1e9, 2),
        chats_of_8k=round(tokens / 8192, 1), free_gb=round(_free_bytes(model.device) / 1e9, 1),
    )  # fmt: skip
    return core


def stall_s(settings: EngineSettings, device: str) -> float:
    """After how many seconds a step on ``device`` counts as stuck."""
    if settings.step_timeout_s:
        return settings.step_timeout_s
    return _SLOW_STALL_S if settings.torch_compile == "on" else _STALL_S.get(device.partition(":")[0], _SLOW_STALL_S)


def cut_between_layers(model: Any) -> bool:
    """Whether a ``model`` on several devices can be paged."""
    return layer_devices(model) is not None


def free_for_cache(devices: Sequence[torch.device], free: Callable[[torch.device], float]) -> float:
    """Bytes for a cache of layers on ``devices``, of which each has the same share: as the fullest device allows."""
    return min(free(device) * len(devices) / devices.count(device) for device in set(devices))


def backend_for(model: Any, settings: EngineSettings, context_tokens: int) -> Backend:
    """The fastest way this machine has that gives what torch gives."""
    device, dtype, kv = model.device, kv_dtype(model), kv_shape(model.config)
    shape = text_shape(model.config, kv)
    if device.type == "cpu" and settings.cpu_kernels == "auto":
        found_for_cpu = checking.find(device, dtype, shape)
        if found_for_cpu is not None:
            return CpuBackend(found_for_cpu)
        logger().warning(
            "自带的 CPU 算子用不了，改用 PyTorch 的，会慢一些：没有编译器就装上 g++ 再启动；--cpu-kernels off 不再提示"
        )
    if device.type != "cuda":
        return SdpaBackend(adapt=packing.pack)
    own, why_not = own_kernels(device, dtype, shape, kv)
    adapt = partial(_adapted, compiled=settings.torch_compile == "on", own=own)
    running = most_running(settings, device)
    others = set(layer_devices(model) or ()) - {device}
    trial, *elsewhere = (
        Trial(one, dtype, kv, shape.heads, running, context_tokens) for one in (device, *sorted(others, key=str))
    )
    kernels = LIBRARIES if own is None else (NamedKernel("own Triton", own.attend, (BLOCK_SIZE,)), *LIBRARIES)
    found = attention_kernel(trial, kernels, why_not)
    if found is None or any(one.refuses(found.attend, found.block_size) for one in elsewhere):
        return SdpaBackend(adapt=adapt)
    recording = None
    # A graph is of one device.
    if settings.cuda_graphs == "auto" and not others:
        recording = Recording(CudaCapture(device), running, context_tokens)
    return CudaBackend(found.attend, found.block_size, name=found.name, recording=recording, adapt=adapt)


def own_kernels(
    device: torch.device, dtype: torch.dtype, shape: TextShape, kv: KVShape
) -> tuple[OwnKernels | None, Mapping[str, str]]:
    """Our own for this card and model, or why there are none."""
    try:
        own = OwnKernels(device)
    except ImportError as missing:
        return None, {"own Triton": f"{type(missing).__name__}: {missing}"}
    reason = None if own.takes(kv.head_dim) else f"heads of {kv.head_dim} numbers"
    reason = reason or refused(own, device, dtype, hidden=shape.hidden, inner=shape.inner, heads=shape.heads, kv=kv)
    return (own, {}) if reason is None else (None, {"own Triton": reason})


def _adapted(model: Any, *, compiled: bool, own: OwnKernels | None) -> None:
    by_products(model)
    if compiled:
        compile_layers(model)
    elif own is not None:
        fuse(model, own)
    # Of joined layers, so after those are.
    use_own(model)


def attention_kernel(
    trial: Trial, kernels: Sequence[NamedKernel], why_not: Mapping[str, str] | None = None
) -> Trusted | None:
    """The first kernel that is right on this card; a warning where it is not the first choice, or none is.

    ``why_not`` says it of those that cannot even be tried.
    """
    found = trial.find(kernels)
    if isinstance(found, Trusted):
        found = replace(found, refused={**(why_not or {}), **found.refused})
    else:
        found = {**(why_not or {}), **found}
    if not isinstance(found, Trusted):
        logger().warning(
            "这块显卡上没有可用的分页注意力算子：每一步都要先拷贝缓存，也不能录制，会慢几倍；回答不变",
            reasons=dict(found),
        )
        return None
    if found.refused:
        logger().warning("首选的注意力算子用不了，改用下一个", chosen=found.name, reasons=dict(found.refused))
    return found


def assemble(
    model: Any,
    backend: Backend,
    *,
    blocks: int,
    step_tokens: int,
    requests: int,
    ahead: bool = False,
    feature_bytes: int = FEATURE_BYTES,
    never: Sequence[int] = (),
    fault: str = "",
    on_picture: Callable[[bool], None] = lambda _found: None,
) -> EngineCore:
    """Who decides, who runs and who samples, around a cache of ``blocks`` blocks.

    Up to ``requests`` run at once, ``step_tokens`` a step, begun ``ahead`` or in turn. ``never`` are ids no reply may
    hold, ``fault`` is what ``planted.plant`` reads, ``on_picture`` hears of each look-up in the feature cache.

    Raises ConfigError: the fault cannot be read.
    """
    runner = ModelRunner(model, backend, blocks=blocks, feature_bytes=feature_bytes, on_picture=on_picture)
    scheduler = Scheduler(BlockPool(blocks, backend.block_size), max_tokens=step_tokens, max_requests=requests)
    return EngineCore(scheduler, plant(runner, fault), Sampler(model.device, never), ahead=ahead)


def blocks_for(
    free: float, per_block: int, settings: EngineSettings, context_tokens: int, block_size: int, *, is_card: bool
) -> int:
    """How many blocks of ``per_block`` bytes the cache gets of ``free`` bytes.

    Where a card holds less than one conversation of ``context_tokens``, conversations are made shorter, and it is said.

    Raises:
        WeightsError: no memory is left for a conversation that is worth having, or for what was asked for.
    """
    wanted = -(-context_tokens // block_size) * _MOST_CHATS * per_block
    granted = settings.kv_cache_gb * 1e9 or min(wanted, free * 0.7)
    blocks = int(granted // per_block)
    tokens = blocks * block_size
    if tokens >= context_tokens:
        return blocks
    if not is_card or settings.kv_cache_gb or tokens < _LEAST_CONTEXT:
        raise WeightsError(
            f"KV 缓存只够 {tokens} token，装不下一个 {context_tokens} token 的会话："
            "请调小 --context-tokens、换小一点的模型，或加大 --kv-cache-gb"
        )
    logger().warning(
        f"显存只够 {tokens} token 的会话，上限从 {context_tokens} 降到这么多：关掉占显存的程序、"
        "换小一点的模型或加 --quantization bnb-4bit 可以更长",
        context_tokens=tokens,
    )
    return blocks


def feature_bytes_for(free: float, *, is_card: bool) -> int:
    """What pictures' features may take: on a small card they must leave the cache its share."""
    return int(min(FEATURE_BYTES, free * 0.1)) if is_card else FEATURE_BYTES


def running_for(card_bytes: float | None) -> int:
    """How many replies are computed at once: what a card's memory has room for; None on a CPU."""
    if card_bytes is None:
        return 16
    return next((most for least, most in _RUNNING if card_bytes >= least), 8)


def most_running(settings: EngineSettings, device: torch.device) -> int:
    """As the settings say, or as this device allows."""
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    return settings.max_running or running_for(total)


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        # What torch keeps from loading is free, too.
        torch.cuda.empty_cache()
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)
