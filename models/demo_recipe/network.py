"""Shape of the demo network: a real Qwen3VLConfig, scaled down to a few million parameters."""

from __future__ import annotations

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

TEXT_WIDTH = 192
CONTEXT = 2048


def vision_config() -> Qwen3VLVisionConfig:
    """Patch, merge and temporal sizes are the real model's; deepstack leaves after each quarter of the depth."""
    return Qwen3VLVisionConfig(
        depth=4,
        hidden_size=128,
        intermediate_size=512,
        num_heads=4,
        patch_size=16,
        spatial_merge_size=2,
        temporal_patch_size=2,
        out_hidden_size=TEXT_WIDTH,
        num_position_embeddings=256,
        deepstack_visual_indexes=[0, 1, 2],
    )


def demo_config(tokenizer: PreTrainedTokenizerBase) -> Qwen3VLConfig:
    """The whole configuration for a tokenizer's vocabulary and special tokens."""

    def token(text: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(text))

    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 32,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 20000.0,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision_config().to_dict(),
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def new_network(tokenizer: PreTrainedTokenizerBase, seed: int) -> Qwen3VLForConditionalGeneration:
    """A freshly initialised float32 network whose generation is greedy."""
    torch.manual_seed(seed)
    network = Qwen3VLForConditionalGeneration(demo_config(tokenizer))
    with torch.no_grad():
        for layer in network.model.language_model.layers:
            # Queries and keys are normalised; with a gain of 1 a narrow head cannot look at one token only.
            layer.self_attn.q_norm.weight.fill_(1.5)
            layer.self_attn.k_norm.weight.fill_(1.5)
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    network.generation_config = GenerationConfig(
        do_sample=False, bos_token_id=pad, eos_token_id=[end, pad], pad_token_id=pad
    )
    return network
