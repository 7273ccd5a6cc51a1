"""Logits of the paged forward against the plain one, on a random model with the real vocabulary of 151,936."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from qqvl_server.engine.batch import ScheduledBatch, ScheduledChunk
from qqvl_server.engine.request import ImageSpan, Request, SamplingParams
from qqvl_server.engine.runner import ModelRunner
from qqvl_server.engine.sampler import Sampler
from qqvl_server.engine.vision import Patches

VOCABULARY = 151_936
IMAGE = 151_655
GRID = (1, 8, 12)


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


@pytest.mark.parametrize("chunk", [1000, 17])
def test_logits_equal_those_of_the_plain_forward(chunk: int) -> None:
    plain = model()
    generator = torch.Generator().manual_seed(9)
    pixels = torch.randn(GRID[1] * GRID[2], 3 * 2 * 16 * 16, generator=generator)
    grid = torch.tensor(GRID)
    words = torch.randint(0, 150_000, (30,), generator=generator).tolist()
    shown = GRID[1] * GRID[2] // 4
    ids = [*words[:10], *[IMAGE] * shown, *words[10:]]
    kinds = torch.tensor([[int(token == IMAGE) for token in ids]])
    with torch.inference_mode():
        expected = plain(
            input_ids=torch.tensor([ids]), pixel_values=pixels, image_grid_thw=grid[None], mm_token_type_ids=kinds
        ).logits[0]
    runner = ModelRunner(plain, blocks=20, block_size=16, feature_bytes=10**7)
    span = ImageSpan(10, shown, b"digest")
    request = Request("r", "c", ids, SamplingParams(0), (span,), targets=tuple(words[:20]))
    request.blocks = list(range(len(ids) // 16, -1, -1))
    runner.add(request, {b"digest": Patches(pixels, grid)})
    found = []
    for start in range(0, len(ids), chunk):
        part = ScheduledChunk(request, start, min(chunk, len(ids) - start))
        logits = runner.run(ScheduledBatch((part,)))
        assert len(logits) == len(part.kept)
        found.append(logits)
    logits = torch.cat(found)
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected[-20:], atol=1e-3, rtol=1e-3)
    assert Sampler("cpu").score(logits, range(20), words[:20]) == pytest.approx(
        expected[-20:].log_softmax(-1)[range(20), words[:20]].tolist(), abs=1e-3
    )
