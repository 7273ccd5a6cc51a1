"""A first request before anybody asks: what is set up at first use is set up then, and what cannot work is found out.

Libraries choose and load kernels when they first see a shape, which takes a card seconds; quantised layers may lack a
package, or fetch one, only when they are first run.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

import torch

from qqvl_server.engine.forward.vision import Patches
from qqvl_server.engine.steps.core import EngineCore, StepFailed
from qqvl_server.engine.steps.request import ImageSpan, Request, SamplingParams, Status
from qqvl_server.errors import EngineDead, WeightsError

# As Qwen3-VL's own generation_config wishes.
_SAMPLING: Final = SamplingParams(4, temperature=0.7, top_k=20, top_p=0.8)
# Patches on each side of the picture: 256 tokens of Qwen3-VL's.
_SIDE: Final = 32


def warm_up(core: EngineCore, model: Any, step_tokens: int) -> None:
    """A picture and words as long as a step, then a few tokens; nothing of it stays.

    Raises:
        WeightsError: the model cannot be run.
    """
    request, patches = _request(core, model.config, step_tokens)
    try:
        core.add(request, patches)
        while request.status is not Status.FINISHED:
            core.step()
        while core.has_work:
            core.step()
    except (StepFailed, EngineDead) as failed:
        core.abort(request)
        cause = failed.__cause__ or failed
        detail = " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
        raise WeightsError(f"模型装上了，但一算就出错：{detail}") from failed
    core.runner.release_memory()


def _request(core: EngineCore, config: Any, step_tokens: int) -> tuple[Request, dict[bytes, Patches]]:
    vision = config.vision_config
    room = min(step_tokens, core.scheduler.capacity_tokens - _SAMPLING.max_new_tokens)
    merge = vision.spatial_merge_size
    side = _SIDE
    while side > merge and (side // merge) ** 2 > room // 2:
        side //= 2
    side = max(side // merge, 1) * merge
    shown, width = (side // merge) ** 2, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    digest = secrets.token_bytes(16)
    patches = {digest: Patches(torch.zeros(side * side, width), torch.tensor([1, side, side]))}
    ids = [0, *[config.image_token_id] * shown, *[0] * max(room - shown - 1, 1)]
    # Nobody's prompt begins with its salt.
    salt = secrets.token_bytes(16)
    return Request("warm-up", "warm-up", ids, _SAMPLING, (ImageSpan(1, shown, digest),), salt), patches
