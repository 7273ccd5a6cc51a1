"""What answers: the checkpoint's own voice in this process, or that of a server elsewhere."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from pathlib import Path

from qqvl_server.chat.cluster_secret import ClusterSecret
from qqvl_server.chat.store import Store
from qqvl_server.generation.local import LocalVoice
from qqvl_server.generation.port import Voice
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import Settings
from qqvl_server.weights.locate import Checkpoint

Loading = Callable[[ImageLibrary, Metrics], Voice]
"""Gives the voice, blocking."""


async def loading(settings: Settings, checkpoint: Checkpoint, store: Store) -> Loading:
    """What gives the voice, in a thread."""
    if not checkpoint.is_elsewhere:
        return functools.partial(load_voice, settings, checkpoint)
    secret = settings.upstream.cluster_secret or await ClusterSecret(store.database).kept()
    return functools.partial(upstream_voice, settings, checkpoint, secret=secret)


def upstream_voice(
    settings: Settings, checkpoint: Checkpoint, library: ImageLibrary, metrics: Metrics, secret: str
) -> Voice:
    """Blocking; the libraries that only this voice needs are imported here."""
    from qqvl_server.generation.engines.upstream import building

    tokenizer = Path(checkpoint.source) if checkpoint.source else None
    return building.build(settings, library, metrics, secret, tokenizer)


def load_voice(settings: Settings, checkpoint: Checkpoint, library: ImageLibrary, metrics: Metrics) -> Voice:
    """Blocking; torch and Transformers are imported only here, so that usage errors answer in a blink."""
    from qqvl_server.generation.constraints.grammar import GrammarCompiler
    from qqvl_server.generation.engines import choosing
    from qqvl_server.generation.prompts.preprocess import Preprocessor
    from qqvl_server.weights.load import load

    logger().info("正在加载模型", model=checkpoint.name, gb=round(checkpoint.weight_bytes / 1e9, 2))
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
