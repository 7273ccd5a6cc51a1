"""Real classes from folders made on the spot: Qwen3-VL dense and MoE, Qwen2.5-VL; wrong devices and broken files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from qqvl_server.errors import ConfigError, WeightsError
from qqvl_server.generation.engines.reference import ReferenceEngine
from qqvl_server.generation.port import ChatMessage, GenerationRequest, ImagePart, Sampling, TextPart
from qqvl_server.generation.prompts.preprocess import Preprocessor
from qqvl_server.generation.replies.channel import LikelyToken
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from qqvl_server.settings import WeightsSettings
from qqvl_server.weights.load import load
from qqvl_server.weights.locate import Checkpoint, locate
from tests.pictures import encoded, picture

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.json", "preprocessor_config.json")
ROPE = {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 1e6}
TEXT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "intermediate_size": 48, "vocab_size": 151936, "max_position_embeddings": 2048, "rope_parameters": ROPE,
    "tie_word_embeddings": True, "eos_token_id": 151645, "bos_token_id": 151643,
}  # fmt: skip
VISION = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 16, "spatial_merge_size": 2,
    "out_hidden_size": 32, "num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1],
}  # fmt: skip


def make(kind: str, folder: Path, assets: Path) -> Path:
    folder.mkdir()
    for name in TOKENIZER:
        shutil.copy(assets / name, folder / name)
    torch.manual_seed(0)
    rope = {**TEXT, "rope_parameters": {**ROPE, "mrope_interleaved": True}}
    if kind == "dense":
        Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(text_config=rope, vision_config=VISION, tie_word_embeddings=True)
        ).save_pretrained(folder)
    elif kind == "moe":
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
        Qwen3VLMoeForConditionalGeneration(
            Qwen3VLMoeConfig(text_config={**rope, **experts}, vision_config=VISION, tie_word_embeddings=True)
        ).save_pretrained(folder)
    else:
        vision = {k: v for k, v in VISION.items() if k not in ("num_position_embeddings", "deepstack_visual_indexes")}
        vision |= {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
        Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=TEXT, vision_config=vision, tie_word_embeddings=True)
        ).save_pretrained(folder)
        settings = json.loads((folder / "preprocessor_config.json").read_text())
        settings |= {"patch_size": 14, "processor_class": "Qwen2_5_VLProcessor"}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("kind", ["dense", "moe", "qwen2.5"])
def test_each_family_loads_and_answers_about_a_picture(kind: str, tmp_path: Path, assets: Path) -> None:
    folder = make(kind, tmp_path / "m", assets)
    loaded = load(locate(str(folder), tmp_path), WeightsSettings(device="cpu"))
    assert (loaded.device, loaded.dtype, loaded.context_tokens) == ("cpu", "float32", 2048)
    library = ImageLibrary(tmp_path / "images", 10**9, ImageLimits(20_000_000, 50_000_000, 4, 64))
    preprocessor = Preprocessor(loaded.processor, library, 64)
    message = ChatMessage("user", (TextPart("看"), ImagePart(library.add(encoded(picture())))))
    prompt = preprocessor.prepare(GenerationRequest("r", (message,), Sampling(4), 0.0))
    assert prompt.tokens - preprocessor.count(message) in range(1, 9)
    made: list[int | LikelyToken] = []
    ReferenceEngine(loaded).run(prompt, Sampling(4, temperature=0), made.append, lambda: False)
    assert 1 <= len(made) <= 4


def test_bf16_is_used_when_asked_for(tmp_path: Path, assets: Path) -> None:
    folder = make("dense", tmp_path / "m", assets)
    assert load(locate(str(folder), tmp_path), WeightsSettings(device="cpu", dtype="bfloat16")).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"device": "cuda:0"}, "看不到显卡|没有 cuda"),
        ({"device": "cuda:99"}, "看不到显卡|没有 cuda:99"),
        ({"device": "cpu", "quantization": "bnb-4bit"}, "bitsandbytes"),
        ({"device": "cpu", "attn": "flash_attention_2"}, "flash-attn"),
    ],
)
def test_what_cannot_be_done_here_is_one_clear_line(demo: Path, settings: dict[str, str], said: str) -> None:
    if settings["device"] == "cuda:0" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=said) as refused:
        load(locate(str(demo), demo.parents[1]), WeightsSettings.model_validate(settings))
    assert "\n" not in refused.value.message


def test_too_little_memory_is_told_before_reading(demo: Path) -> None:
    whale = Checkpoint(str(demo), "whale", False, 10**14)
    with pytest.raises(WeightsError, match="GB"):
        load(whale, WeightsSettings(device="cpu"))


def test_files_that_are_no_vision_model_are_one_clear_line(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(demo, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no_such_model"}))
    with pytest.raises(WeightsError) as refused:
        load(locate(str(folder), tmp_path), WeightsSettings(device="cpu"))
    assert "\n" not in refused.value.message


def test_a_checkpoint_that_lacks_tensors_is_refused(demo: Path, tmp_path: Path) -> None:
    """Transformers fills missing tensors with random numbers and only warns; a bot would then talk nonsense."""
    folder = tmp_path / "m"
    shutil.copytree(demo, folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".layers.0." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="缺"):
        load(locate(str(folder), tmp_path), WeightsSettings(device="cpu"))
