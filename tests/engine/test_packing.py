"""Packed weights give what the plain ones give, and take their place in memory."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from qqvl_server.engine.cpu import packing
from qqvl_server.settings import WeightsSettings
from qqvl_server.weights.load import load
from qqvl_server.weights.locate import locate
from tests.resident import resident


def _model(demo: Path, dtype: Any) -> Any:
    return load(locate(str(demo), demo.parents[1]), WeightsSettings(device="cpu", dtype=dtype)).model


@pytest.fixture(scope="module")
def plain(demo: Path) -> Any:
    return _model(demo, "bfloat16")


@pytest.fixture(scope="module")
def packed(demo: Path) -> Any:
    model = _model(demo, "bfloat16")
    if packing.pack(model) == 0:
        pytest.skip("this processor has no packed bf16 kernels")
    return model


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 40])
def test_logits_differ_by_rounding_only(plain: Any, packed: Any, rows: int) -> None:
    ids = torch.arange(100, 100 + rows).unsqueeze(0)
    with torch.inference_mode():
        expected, logits = (model(ids, use_cache=False).logits.float() for model in (plain, packed))
    # bf16 keeps eight bits; a few layers of it may move a logit by some of the last.
    torch.testing.assert_close(logits, expected, atol=0.05 * float(expected.abs().max()), rtol=0)
    clear = expected.topk(2).values.diff().abs().squeeze(-1) > 0.5
    assert torch.equal(logits.argmax(-1)[clear], expected.argmax(-1)[clear])


def test_pictures_are_seen_alike(plain: Any, packed: Any) -> None:
    torch.manual_seed(0)
    pixels, grid = torch.randn(64, 3 * 2 * 16 * 16, dtype=torch.bfloat16), torch.tensor([[1, 8, 8]])
    with torch.inference_mode():
        expected, seen = (m.model.get_image_features(pixels, grid).pooler_output[0].float() for m in (plain, packed))
    torch.testing.assert_close(seen, expected, atol=0.05 * float(expected.abs().max()), rtol=0)


def test_the_plain_weights_are_given_back_but_for_the_embedding(demo: Path) -> None:
    model = _model(demo, "bfloat16")
    language = model.model.language_model
    gone = [weakref.ref(language.layers[0].mlp.up_proj.weight), weakref.ref(language.layers[0].self_attn.o_proj.weight)]
    if packing.pack(model) == 0:
        pytest.skip("this processor has no packed bf16 kernels")
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    assert language.embed_tokens.weight.numel() > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_the_files_pages_are_given_back_and_the_embedding_reads_on(demo: Path) -> None:
    file = demo / "model.safetensors"
    before = resident(file)
    model = _model(demo, "bfloat16")
    embedding = model.model.language_model.embed_tokens.weight
    expected = embedding.sum(dtype=torch.float64)
    if packing.pack(model) == 0:
        pytest.skip("this processor has no packed bf16 kernels")
    assert resident(file) - before < file.stat().st_size / 4
    assert torch.equal(embedding.sum(dtype=torch.float64), expected)


def test_float32_is_left_alone(demo: Path) -> None:
    model = _model(demo, "float32")
    assert packing.pack(model) == 0
    assert type(model.lm_head) is torch.nn.Linear
