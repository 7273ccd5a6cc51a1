"""Tiny random checkpoints of many families of models that see, each with the files its publisher would ship.

The tokenizer is the demo's with the family's own special tokens; the configuration is the family's own, made small.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, PreTrainedTokenizerFast

from tests.checkpoints import demo_files

VOCABULARY: Final = 2208
_QWEN: Final = "<|vision_start|><|image_pad|><|vision_end|>"
_GLM: Final = "<|begin_of_image|><|image|><|end_of_image|>"
_GRID: Final = {
    "patch_size": 16, "merge_size": 2, "temporal_patch_size": 2, "size": {"shortest_edge": 4096, "longest_edge": 2**23},
}  # fmt: skip
_SMALL: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY, "hidden_size": 32, "intermediate_size": 48,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "global_head_dim": 16, "num_heads": 2,
    "out_hidden_size": 32, "num_hidden_layers": 2, "depth": 2, "moe_intermediate_size": 16, "num_experts": 4,
    "shared_expert_intermediate_size": 16, "num_experts_per_tok": 2, "linear_key_head_dim": 16, "embed_dim": 32,
    "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 2, "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 8, "projector_hidden_size": 32, "encoder_layers": 1, "d_model": 32, "output_dim": 32,
    "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "downsample_hidden_size": 8, "max_position_embeddings": 2048,
    "num_position_embeddings": 256, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
_DROPPED: Final = ("model_type", "transformers_version", "layer_types", "mlp_layer_types", "per_layer_config")


@dataclass(frozen=True)
class Family:
    """``image`` is what the template shows a picture as; ``names`` the tokens that the tokenizer knows by a name.

    ``sizes`` hold wherever in the config a field of the name stands, ``text`` and ``vision`` in its two halves only.
    """

    kind: str
    processor: str
    image_processor: str
    image: str = _QWEN
    preprocessor: Mapping[str, Any] = field(default_factory=lambda: dict(_GRID))
    processor_config: Mapping[str, Any] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    vision: Mapping[str, Any] = field(default_factory=dict)
    image_token: str = "<|image_pad|>"


def _rope(*sections: int, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(sections), **more}


_HYBRID_ROPE: Final = _rope(2, 1, 1, mrope_interleaved=True, partial_rotary_factor=0.25)
_HYBRID: Final = {"rope_parameters": _HYBRID_ROPE, "head_dim": 32, "num_hidden_layers": 4}
_INDEXER: Final = {
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 64,
    "indexer_compress_ratio": 16, "hc_lowrank": 8,
}  # fmt: skip
_GLM_TOKENS: Final = (
    "<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
)  # fmt: skip
_OMNI_NAMES: Final = {
    "image_token": "<|image_pad|>", "audio_token": "<|audio_pad|>", "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>",
}  # fmt: skip
_MINICPM_NAMES: Final = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "image_start_token": "<image>",
    "image_end_token": "</image>", "slice_start_token": "<slice>", "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>",
}  # fmt: skip


def _glm(kind: str, name: str) -> Family:
    return Family(
        kind, f"{name}Processor", f"{name}ImageProcessor", _GLM, {**_GRID, "patch_size": 14}, tokens=_GLM_TOKENS,
        sizes={"image_size": 336}, text={"rope_parameters": _rope(2, 1, 1, partial_rotary_factor=0.5)},
        image_token="<|image|>",
    )  # fmt: skip


_ONE: Final = (
    Family("qwen3_5", "Qwen3VLProcessor", "Qwen2VLImageProcessorFast", text=_HYBRID),
    Family("qwen3_5_moe", "Qwen3VLProcessor", "Qwen2VLImageProcessorFast", text=_HYBRID),
    Family("qwen4_exp", "Qwen3VLProcessor", "Qwen2VLImageProcessorFast", text=_HYBRID | _INDEXER),
    Family(
        "qwen3_omni_moe_thinker", "Qwen3OmniMoeProcessor", "Qwen2VLImageProcessor", names=_OMNI_NAMES,
        preprocessor={**_GRID, "feature_extractor_type": "WhisperFeatureExtractor"},
        text={"rope_parameters": _rope(4, 2, 2, mrope_interleaved=True)}, vision={"deepstack_visual_indexes": [0, 1]},
    ),
    _glm("glm4v", "Glm4v"),
    _glm("glm46v", "Glm46V"),
    Family(
        "internvl", "InternVLProcessor", "GotOcr2ImageProcessor", "<IMG_CONTEXT>",
        {"size": {"height": 56, "width": 56}, "crop_to_patches": False}, {"image_seq_length": 4},
        names={"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
               "video_token": "<video>"},
        sizes={"image_size": [56, 56], "patch_size": [14, 14]}, image_token="<IMG_CONTEXT>",
    ),
    Family(
        "gemma4", "Gemma4Processor", "Gemma4ImageProcessor", "<|image|>", {},
        {"image_seq_length": 280, "image_processor": {"image_processor_type": "Gemma4ImageProcessor"},
         "feature_extractor": {"feature_extractor_type": "Gemma4AudioFeatureExtractor"}},
        names={"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>", "audio_token": "<|audio|>",
               "boa_token": "<|audio>", "eoa_token": "<audio|>", "video_token": "<|video|>"},
        text={"layer_types": ["sliding_attention", "full_attention"], "pad_token_id": 0},
        vision={"num_key_value_heads": 2}, image_token="<|image|>",
    ),
    Family(
        "gemma3", "Gemma3Processor", "Gemma3ImageProcessor", "<start_of_image>",
        {"size": {"height": 56, "width": 56}, "image_seq_length": 4}, {"image_seq_length": 4},
        names={"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        sizes={"image_size": 56, "patch_size": 14, "mm_tokens_per_image": 4}, image_token="<image_soft_token>",
    ),
    Family(
        "minicpmv4_6", "MiniCPMV4_6Processor", "MiniCPMV4_6ImageProcessor", "<|image_pad|>", {}, names=_MINICPM_NAMES,
        sizes={"insert_layer_id": 1, "patch_size": 14, "image_size": 224, "num_hidden_layers": 4}, text=_HYBRID,
    ),
    Family(
        "llava_onevision", "LlavaOnevisionProcessor", "LlavaOnevisionImageProcessor", "<image>",
        {"size": {"height": 28, "width": 28}, "image_grid_pinpoints": [[28, 28], [28, 56], [56, 28]]},
        {"num_image_tokens": 4, "vision_feature_select_strategy": "full"}, tokens=("<image>", "<video>"),
        sizes={"image_size": 28, "patch_size": 14, "image_grid_pinpoints": [[28, 28], [28, 56], [56, 28]]},
        text={"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, image_token="<image>",
    ),
    Family("lfm3_vl", "Lfm3VlProcessor", "Qwen2VLImageProcessor", sizes={"num_hidden_layers": 3}),
    Family("lfm2_vl", "Lfm2VlProcessor", "Lfm2VlImageProcessor", "<image>", {}, tokens=("<image>",),
           image_token="<image>"),
    Family("smolvlm", "SmolVLMProcessor", "SmolVLMImageProcessor", "<image>", {}, {"image_seq_len": 4},
           ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
           sizes={"image_size": 64, "patch_size": 16, "scale_factor": 2}, image_token="<image>"),
)  # fmt: skip
FAMILIES: Final = {family.kind: family for family in _ONE}


def make(kind: str, folder: Path) -> Path:
    """Raises KeyError: no such family."""
    family = FAMILIES[kind]
    tokenizer = _files(family, folder)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(_config(family, tokenizer))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=end)
    model.save_pretrained(folder)
    return folder


def as_omni(folder: Path) -> Path:
    """A thinker's checkpoint as it is published: inside the whole model that hears, thinks and talks."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    whole = {"model_type": "qwen3_omni_moe", "thinker_config": config, "enable_audio_output": False}
    (folder / "config.json").write_text(json.dumps(whole), "utf-8")
    tensors = {f"thinker.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _files(family: Family, folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = demo_files(folder)
    more = [token for token in (*family.tokens, *family.names.values()) if token not in tokenizer.get_vocab()]
    tokenizer.add_special_tokens({"extra_special_tokens": more})
    tokenizer.save_pretrained(folder)
    named = {"processor_class": family.processor}
    described = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    described |= named | {"extra_special_tokens": dict(family.names) or more}
    _write(folder / "tokenizer_config.json", described)
    kind = {"image_processor_type": family.image_processor}
    _write(folder / "preprocessor_config.json", named | kind | dict(family.preprocessor))
    if family.processor_config:
        _write(folder / "processor_config.json", named | dict(family.processor_config))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace(_QWEN, family.image), "utf-8")
    return tokenizer


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), "utf-8")


def _config(family: Family, tokenizer: PreTrainedTokenizerFast) -> Any:
    whole = _shrunk(AutoConfig.for_model(family.kind).to_dict(), _SMALL | dict(family.sizes))
    if family.kind == "gemma4":
        whole["vision_config"] = _shrunk(AutoConfig.for_model("gemma4_vision").to_dict(), _SMALL)
    whole["text_config"] |= family.text
    whole["vision_config"] |= family.vision
    ids = {"image": family.image_token, "video": "<|video_pad|>", "vision_start": "<|vision_start|>"}
    for name, token in ids.items():
        for ending in ("token_id", "token_index"):
            if f"{name}_{ending}" in whole or family.kind == "qwen3_omni_moe_thinker":
                whole[f"{name}_{ending}"] = tokenizer.convert_tokens_to_ids(token)
    whole["image_token_id"] = tokenizer.convert_tokens_to_ids(family.image_token)
    return AutoConfig.for_model(family.kind, **whole)


def _shrunk(config: dict[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in _DROPPED}
    return {
        name: _shrunk(value, sizes)
        if isinstance(value, dict)
        else sizes.get(name, value)
        if value is not None
        else None
        for name, value in kept.items()
    }
