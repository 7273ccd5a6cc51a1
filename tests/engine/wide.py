"""A random model with the real vocabulary of 151,936, a prompt with a picture for it, and its logits both ways."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from qqvl_server.engine.cpu.backend import CpuBackend
from qqvl_server.engine.cpu.kernels import Kernels
from qqvl_server.engine.forward.backend import Backend
from qqvl_server.engine.forward.runner import ModelRunner
from qqvl_server.engine.forward.sdpa import SdpaBackend
from qqvl_server.engine.forward.vision import Patches
from qqvl_server.engine.steps.batch import ScheduledBatch, ScheduledChunk
from qqvl_server.engine.steps.request import ImageSpan, Request, SamplingParams

VOCABULARY = 151_936
IMAGE = 151_655
GRID = (1, 8, 12)
SHOWN = GRID[1] * GRID[2] // 4
_DICE = torch.Generator().manual_seed(9)
PIXELS = torch.randn(GRID[1] * GRID[2], 3 * 2 * 16 * 16, generator=_DICE)
WORDS: list[int] = torch.randint(0, 150_000, (30,), generator=_DICE).tolist()
IDS = [*WORDS[:10], *[IMAGE] * SHOWN, *WORDS[10:]]
ASKED = 20


def model() -> Any:
    torch.manual_seed(5)
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5]},
    }  # fmt: skip
    vision = {
        "depth": 3, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 64,
        "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64,
    }  # fmt: skip
    config = Qwen3VLConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, tie_word_embeddings=True)
    made = Qwen3VLForConditionalGeneration(config).eval()
    # A fresh model's logits all but vanish; these spread over several units.
    for parameter in made.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(8)
    return made


@torch.inference_mode()
def plain_logits(made: Any) -> torch.Tensor:
    """(ASKED, VOCABULARY), of the prompt's last tokens."""
    kinds = torch.tensor([[int(token == IMAGE) for token in IDS]])
    out = made(
        input_ids=torch.tensor([IDS]), pixel_values=PIXELS.to(made.dtype), image_grid_thw=torch.tensor([GRID]),
        mm_token_type_ids=kinds,
    )  # fmt: skip
    logits: torch.Tensor = out.logits[0, -ASKED:]
    return logits


def paged_logits(
    made: Any, kernels: Kernels | None = None, chunk: int = 1000, backend: Backend | None = None
) -> torch.Tensor:
    """As ``plain_logits``, through the engine's runner, ``chunk`` tokens at a time."""
    if backend is None:
        backend = SdpaBackend() if kernels is None else CpuBackend(kernels)
    runner = ModelRunner(made, backend, blocks=20, feature_bytes=10**7)
    span = ImageSpan(10, SHOWN, b"digest")
    request = Request("r", "c", IDS, SamplingParams(0), (span,), targets=tuple(WORDS[:ASKED]))
    request.blocks = list(range(len(IDS) // 16, -1, -1))
    runner.add(request, {b"digest": Patches(PIXELS.to(made.dtype), torch.tensor(GRID))})
    found = []
    for start in range(0, len(IDS), chunk):
        part = ScheduledChunk(request, start, min(chunk, len(IDS) - start))
        logits = runner.prepare(ScheduledBatch((part,))).compute()
        assert len(logits) == len(part.kept)
        found.append(logits)
    return torch.cat(found)
