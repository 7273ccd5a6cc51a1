"""Builds the engine that the settings name, sized to the memory that is free after the weights."""

from __future__ import annotations

import os

import psutil
import torch

from qqvl_server.engine import faults, native, native_check, varlen
from qqvl_server.engine.block_pool import BlockPool
from qqvl_server.engine.core import EngineCore
from qqvl_server.engine.graphs import CudaCapture
from qqvl_server.engine.runner import ModelRunner, kv_shape
from qqvl_server.engine.sampler import Sampler
from qqvl_server.engine.scheduler import Scheduler
from qqvl_server.errors import WeightsError
from qqvl_server.generation.backend import Engine
from qqvl_server.generation.paged import PagedEngine, placeholders
from qqvl_server.generation.preprocess import Prompt
from qqvl_server.generation.reference import ReferenceEngine
from qqvl_server.generation.serial import SerialEngine
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import GenerationSettings
from qqvl_server.weights.load import LoadedModel

BLOCK_SIZE = 16
FEATURE_BYTES = 512_000_000
# Enough for this many chats of full length; more would only sit idle.
_MOST_CHATS = 64


def build(loaded: LoadedModel, settings: GenerationSettings, context_tokens: int, metrics: Metrics) -> Engine[Prompt]:
    """Models that the paged engine cannot run are run one request at a time.

    Raises WeightsError: no memory is left for the paged engine's cache.
    """
    if settings.engine == "generate":
        return SerialEngine(ReferenceEngine(loaded), metrics)
    if not _can_be_paged(loaded):
        logger().warning("paged 引擎只支持放在一个设备上的 Qwen3-VL，这个模型改用 generate：一次回答一条")
        return SerialEngine(ReferenceEngine(loaded), metrics)
    device, dtype, kv = loaded.model.device, loaded.model.dtype, kv_shape(loaded.model.config)
    shape = native.text_shape(loaded.model.config, kv)
    kernel, block_size = varlen.find(device, dtype, kv, shape.heads) or (None, BLOCK_SIZE)
    own = native_check.find(device, dtype, shape) if settings.cpu_kernels == "auto" else None
    if device.type == "cpu" and own is None and settings.cpu_kernels == "auto":
        logger().warning(
            "自带的 CPU 算子用不了，改用 PyTorch 的，会慢一些：没有编译器就装上 g++ 再启动；--cpu-kernels off 不再提示"
        )
    blocks = _blocks(loaded, settings, context_tokens, block_size)
    runner = ModelRunner(
        loaded.model,
        blocks=blocks,
        block_size=block_size,
        feature_bytes=FEATURE_BYTES,
        kernel=kernel,
        kernels=own,
        compiled="inductor" if device.type == "cuda" and settings.torch_compile == "on" else None,
        on_picture=lambda found: (metrics.vision_cache_hits if found else metrics.vision_cache_misses).inc(),
    )
    if kernel is not None and settings.cuda_graphs == "auto":
        runner.record(CudaCapture(loaded.model.device), requests=settings.max_running, longest=context_tokens)
    scheduler = Scheduler(
        BlockPool(blocks, block_size), max_tokens=settings.step_tokens, max_requests=settings.max_running
    )
    config = loaded.model.config
    never = sorted(token for token in placeholders(config) if token < loaded.vocabulary)
    sampler = Sampler(loaded.model.device, never=never)
    planted = faults.plant(runner, os.environ.get(faults.VARIABLE, ""))
    ahead = loaded.model.device.type == "cuda" and settings.step_ahead == "auto"
    core = EngineCore(scheduler, planted, sampler, ahead=ahead)
    return PagedEngine(
        core,
        config,
        loaded.model.generation_config,
        metrics,
        max_waiting=settings.max_pending,
        stall_s=settings.step_timeout_s,
    )


def _can_be_paged(loaded: LoadedModel) -> bool:
    spread = set((getattr(loaded.model, "hf_device_map", None) or {}).values())
    return loaded.model.config.model_type in ("qwen3_vl", "qwen3_vl_moe") and len(spread) <= 1


def _blocks(loaded: LoadedModel, settings: GenerationSettings, context_tokens: int, block_size: int) -> int:
    per_block = kv_shape(loaded.model.config).bytes_per_token(loaded.model.dtype) * block_size
    wanted = -(-context_tokens // block_size) * _MOST_CHATS * per_block
    granted = settings.kv_cache_gb * 1e9 or min(wanted, _free_bytes(loaded) * 0.7)
    blocks = int(granted // per_block)
    if blocks * block_size < context_tokens:
        raise WeightsError(
            f"KV 缓存只够 {blocks * block_size} token，装不下一个 {context_tokens} token 的会话："
            "请调小 --context-tokens、换小一点的模型，或加大 --kv-cache-gb"
        )
    logger().info(
        "KV 缓存", blocks=blocks, tokens=blocks * block_size, gb=round(blocks * per_block / 1e9, 2),
        chats_of_8k=round(blocks * block_size / 8192, 1),
    )  # fmt: skip
    return blocks


def _free_bytes(loaded: LoadedModel) -> float:
    if loaded.model.device.type == "cuda":
        return float(torch.cuda.mem_get_info(loaded.model.device)[0])
    return float(psutil.virtual_memory().available)
