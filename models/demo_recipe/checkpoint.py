"""Writes and reads the finished model folder, in the layout of the published models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from .pictures import LEAST_PIXELS, MOST_PIXELS


class StillProcessor(Qwen3VLProcessor):  # type: ignore[misc]
    """The real processor without its video half, which would need torchvision."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **extra: Any
    ) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template, **extra)


def save_model(network: Qwen3VLForConditionalGeneration, folder: Path) -> None:
    """Weights in bfloat16 and the JSON files beside them; the tokenizer must be there already."""
    rounded = Qwen3VLForConditionalGeneration(network.config)
    rounded.load_state_dict(network.state_dict())
    rounded = rounded.to(torch.bfloat16)
    rounded.generation_config = network.generation_config
    rounded.save_pretrained(folder)
    preprocessor = {
        "size": {"longest_edge": MOST_PIXELS, "shortest_edge": LEAST_PIXELS},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=4) + "\n", encoding="utf-8")


@torch.no_grad()
def inherit(network: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Start the language side from another demo's: its weights, and each token's row from the tokens it was there."""
    old = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    rows = old.model.language_model.embed_tokens.weight
    spelling = AutoTokenizer.from_pretrained(folder)
    weights = old.model.language_model.state_dict()
    table = network.model.language_model.embed_tokens.weight.clone()
    for token in range(len(tokenizer)):
        text = tokenizer.decode([token])
        name = tokenizer.convert_ids_to_tokens(token)
        known = spelling.convert_tokens_to_ids(name)
        pieces = [known] if known is not None else [] if "\ufffd" in text else spelling.encode(text)
        if pieces:
            table[token] = rows[pieces].mean(0)
    network.model.language_model.load_state_dict(weights | {"embed_tokens.weight": table})


def load_model(
    folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[Qwen3VLForConditionalGeneration, StillProcessor]:
    """Network and processor as a server on a machine without GPU loads them."""
    network = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
    processor: StillProcessor = StillProcessor.from_pretrained(folder, backend="pil")
    return network, processor
