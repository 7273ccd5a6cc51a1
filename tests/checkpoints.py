"""Checkpoints made on the spot: a random one with the real vocabulary, and one that recites what a test tells it.

Both are real Qwen3-VL folders of a few megabytes, which the product loads as it loads any other. Tokenizer, template
and picture settings are the published ones, the tokenizer as much of it as there is (``tests/published.py``).
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tests import published
from tests.published import FIRST_SPECIAL
from tests.running import ASSETS, DEMO

VOCABULARY = 151_936
_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.json", "preprocessor_config.json")
_ROPE = {"rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True, "rope_theta": 5e6}
TEXT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    "intermediate_size": 48, "max_position_embeddings": 4096, "rope_parameters": _ROPE,
}  # fmt: skip
VISION: dict[str, Any] = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 16, "spatial_merge_size": 2,
    "out_hidden_size": 32, "num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1],
}  # fmt: skip


def real_files(folder: Path) -> PreTrainedTokenizerFast:
    """Tokenizer (151,669 tokens), template and picture settings of Qwen3-VL."""
    folder.mkdir(parents=True, exist_ok=True)
    if ASSETS.is_dir():
        for name in _FILES:
            shutil.copyfile(ASSETS / name, folder / name)
    else:
        published.grown(folder)
    return tokenizer_of(folder)


def demo_files(folder: Path) -> PreTrainedTokenizerFast:
    """The same of the demo (2,163 tokens)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"):
        shutil.copyfile(DEMO / name, folder / name)
    return tokenizer_of(folder)


def tokenizer_of(folder: Path) -> PreTrainedTokenizerFast:
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token=config["eos_token"], pad_token=config["pad_token"]
    )


def random_words(folder: Path) -> Path:
    """Speaks plain words without meaning, never ends by itself, and chooses anything only where words may not come.

    As long as nobody draws: every embedding row but those of words is zero, and the head is tied to it.
    """
    tokenizer = real_files(folder)
    plain = [i for piece, i in tokenizer.get_vocab().items() if re.fullmatch(r"Ġ?[a-z]{3,8}", piece)]
    words = torch.tensor([i for i in sorted(plain)[:4000] if tokenizer.encode(tokenizer.decode([i])) == [i]])
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(_config(tokenizer, VOCABULARY, tied=True))
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        kept = rows[words].clone()
        rows.zero_()
        rows[words] = kept
    return _saved(model, tokenizer, folder)


def reciting(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    said: Sequence[int],
    after: int,
    logits: int | None = None,
    *,
    endless: bool = False,
) -> Path:
    """Greedily says ``said``, tokens that all differ, and then its end, wherever the prompt ends in ``after``.

    ``logits``: how many the model has, where not as many as usual. ``endless``: it begins anew instead of ending.

    Its layers add nothing to the embeddings: token n has the n-th axis for its own, and the head of token n + 1 looks
    along that.
    """
    ids = [after, *said, int(tokenizer.eos_token_id)]
    assert len(set(ids)) == len(ids) <= TEXT["hidden_size"], ids
    width = VOCABULARY if len(tokenizer) > FIRST_SPECIAL else len(tokenizer)
    model = Qwen3VLForConditionalGeneration(_config(tokenizer, logits or width, tied=False))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        rows, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        rows.zero_()
        head.zero_()
        if endless:
            ids[-1] = ids[1]
        for axis, (token, following) in enumerate(itertools.pairwise(ids)):
            rows[token, axis] = 1
            head[following, axis] = 1
    return _saved(model, tokenizer, folder)


def open_thought(folder: Path) -> None:
    """The template as Thinking checkpoints have it: the assistant's turn begins inside a thought."""
    changed = 0
    for name in ("chat_template.json", "chat_template.jinja", "tokenizer_config.json"):
        file = folder / name
        text = file.read_text("utf-8") if file.is_file() else ""
        line_end = r"\\n" if name.endswith(".json") else r"\n"
        head, found, tail = text.rpartition(f"'<|im_start|>assistant{line_end}'")
        if found:
            file.write_text(f"{head}'<|im_start|>assistant{line_end}<think>{line_end}'{tail}", "utf-8")
            changed += 1
    assert changed


def _config(tokenizer: PreTrainedTokenizerFast, vocabulary: int, *, tied: bool) -> Qwen3VLConfig:
    def token(name: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(name))

    text = TEXT | {
        "vocab_size": vocabulary, "tie_word_embeddings": tied, "eos_token_id": token("<|im_end|>"),
        "bos_token_id": token("<|endoftext|>"),
    }  # fmt: skip
    return Qwen3VLConfig(
        text_config=text, vision_config=VISION, tie_word_embeddings=tied, image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"), vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )  # fmt: skip


def _saved(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    ends = [int(tokenizer.convert_tokens_to_ids(name)) for name in ("<|im_end|>", "<|endoftext|>")]
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=ends, pad_token_id=ends[1])
    model.save_pretrained(folder)
    return folder
