"""Chooses the engine that the settings name and the model allows."""

from __future__ import annotations

import os

from qqvl_server.engine import build as paged_core
from qqvl_server.engine.steps.planted import VARIABLE
from qqvl_server.generation.backend import Engine
from qqvl_server.generation.engines.paged import PagedEngine, placeholders
from qqvl_server.generation.engines.reference import ReferenceEngine
from qqvl_server.generation.engines.serial import SerialEngine
from qqvl_server.generation.prompts.preprocess import Prompt
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import EngineSettings
from qqvl_server.weights.load import LoadedModel


def build(
    loaded: LoadedModel, settings: EngineSettings, context_tokens: int, metrics: Metrics, *, max_pending: int = 128
) -> Engine[Prompt]:
    """``max_pending``: how many replies the voice lets wait.

    Models that the paged engine cannot run are run one request at a time.

    Raises WeightsError: no memory is left for the paged engine's cache.
    """
    if settings.engine == "generate":
        return SerialEngine(ReferenceEngine(loaded), metrics)
    if not _can_be_paged(loaded):
        logger().warning("paged 引擎只支持 Qwen3-VL，分到几块显卡上时每层要整个在一块上；改用 generate：一次回答一条")
        return SerialEngine(ReferenceEngine(loaded), metrics)
    config = loaded.model.config
    core = paged_core.build(
        loaded.model,
        settings,
        context_tokens,
        never=sorted(token for token in placeholders(config) if token < loaded.vocabulary),
        fault=os.environ.get(VARIABLE, ""),
        on_picture=lambda found: (metrics.vision_cache_hits if found else metrics.vision_cache_misses).inc(),
    )
    return PagedEngine(
        core,
        config,
        loaded.model.generation_config,
        metrics,
        # The voice refuses before that, and fairly; what was begun and put back waits here as well.
        max_waiting=2 * max_pending + paged_core.most_running(settings, loaded.model.device) + 16,
        stall_s=paged_core.stall_s(settings, loaded.device),
    )


def longest(engine: Engine[Prompt], context_tokens: int) -> int:
    """The longest prompt and reply together: ``context_tokens``, or less where a card's cache holds less."""
    return min(context_tokens, engine.most_tokens) if isinstance(engine, PagedEngine) else context_tokens


def _can_be_paged(loaded: LoadedModel) -> bool:
    if loaded.model.config.model_type not in ("qwen3_vl", "qwen3_vl_moe"):
        return False
    spread = set((getattr(loaded.model, "hf_device_map", None) or {}).values())
    return len(spread) <= 1 or paged_core.cut_between_layers(loaded.model)
