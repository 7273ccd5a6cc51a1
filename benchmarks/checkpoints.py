"""Random-weight Qwen3-VL checkpoints of real sizes, made on the spot with the real classes.

Every embedding row except those of whole " word" tokens is zero, and the head is the same matrix: greedy output is
plain words, never ends by itself and reads back to the same ids. Token counts are then exact and prefix caches hit
alike for every server. No text such a model writes means anything.

    python benchmarks/checkpoints.py small      # prints the folder
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
DEMO: Final = ROOT / "models" / "qqvl-demo"
CACHE: Final = ROOT / "data" / "benchmarks"
VOCABULARY: Final = 151_936
_PICTURES: Final = {
    "size": {"longest_edge": 16_777_216, "shortest_edge": 65_536},
    "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessorFast",
}  # fmt: skip


def _text(width: int, layers: int, heads: int, kv_heads: int, head_dim: int, inner: int, tied: bool) -> dict[str, Any]:
    sections = [head_dim * 3 // 16, head_dim * 5 // 32, head_dim * 5 // 32]
    return {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": inner, "vocab_size": VOCABULARY,
        "max_position_embeddings": 262_144, "rms_norm_eps": 1e-6, "tie_word_embeddings": tied,
        "rope_parameters": {
            "rope_type": "default", "mrope_section": sections, "mrope_interleaved": True, "rope_theta": 5e6,
        },
    }  # fmt: skip


def _vision(depth: int, width: int, inner: int, heads: int, out: int, levels: list[int]) -> dict[str, Any]:
    return {
        "depth": depth, "hidden_size": width, "intermediate_size": inner, "num_heads": heads, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": out, "num_position_embeddings": 2304,
        "deepstack_visual_indexes": levels,
    }  # fmt: skip


# ``small`` is 219 M parameters; the others have the shapes of the published models.
SIZES: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "tiny": (_text(128, 2, 4, 2, 32, 256, True), _vision(2, 64, 128, 2, 128, [0, 1])),
    "small": (_text(768, 12, 12, 4, 64, 2048, True), _vision(6, 384, 1536, 6, 768, [1, 3, 5])),
    "2b": (_text(2048, 28, 16, 8, 128, 6144, True), _vision(24, 1024, 4096, 16, 2048, [5, 11, 17])),
    "8b": (_text(4096, 36, 32, 8, 128, 12288, False), _vision(27, 1152, 4304, 16, 4096, [8, 16, 24])),
}


def folder(size: str, tokenizer: Path = DEMO) -> Path:
    """The checkpoint of this size with this tokenizer; made and kept under ``data/`` when it is not there yet."""
    made = CACHE / f"{size}-{tokenizer.name}"
    if not (made / "config.json").is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            _make(size, tokenizer, Path(work) / "made")
            (Path(work) / "made").rename(made)
    return made


def vocabulary(made: Path) -> list[str]:
    """Words that are one token each, with the space before them, in the checkpoint's tokenizer."""
    kept = made / "words.json"
    if kept.is_file():
        words: list[str] = json.loads(kept.read_text(encoding="utf-8"))
        return words
    from transformers import AutoTokenizer

    return [word.strip() for word in _words(AutoTokenizer.from_pretrained(made))]


def _make(size: str, tokenizer: Path, out: Path) -> None:
    import torch
    from transformers import AutoTokenizer, GenerationConfig, Qwen3VLForConditionalGeneration

    reader = AutoTokenizer.from_pretrained(tokenizer)
    ids = {name: reader.convert_tokens_to_ids(f"<|{name}|>") for name in ("im_end", "endoftext")}
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = Qwen3VLForConditionalGeneration(_config(size, reader)).eval()
    finally:
        torch.set_default_dtype(before)
    words = _words(reader)
    silent = torch.ones(VOCABULARY, dtype=torch.bool)
    silent[list(words.values())] = False
    with torch.no_grad():
        for weight in (model.get_input_embeddings().weight, model.lm_head.weight):
            weight[silent] = 0
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=[ids["im_end"], ids["endoftext"]], pad_token_id=ids["endoftext"]
    )
    model.save_pretrained(out)
    for pattern in ("tokenizer*.json", "vocab.json", "merges.txt", "chat_template.*"):
        for path in tokenizer.glob(pattern):
            shutil.copy(path, out / path.name)
    (out / "preprocessor_config.json").write_text(json.dumps(_PICTURES, indent=1), encoding="utf-8")
    (out / "words.json").write_text(json.dumps([word.strip() for word in words]), encoding="utf-8")


def _config(size: str, reader: Any) -> Any:
    from transformers import Qwen3VLConfig

    text, vision = SIZES[size]
    named = {
        "image_token_id": "image_pad", "video_token_id": "video_pad",
        "vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end",
    }  # fmt: skip
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=text["tie_word_embeddings"],
        **{key: reader.convert_tokens_to_ids(f"<|{name}|>") for key, name in named.items()},
    )


def _words(reader: Any) -> dict[str, int]:
    found = {reader.decode([i]): i for token, i in reader.get_vocab().items() if re.fullmatch(r"Ġ[a-z]{2,12}", token)}
    return {word: i for word, i in found.items() if reader.encode(word) == [i]}


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="造一个随机权重的 Qwen3-VL，用来测速度；打印它的文件夹")
    arguments.add_argument("size", choices=SIZES)
    arguments.add_argument("--tokenizer", type=Path, default=DEMO, help="分词器和聊天模板取自哪里，默认自带的演示模型")
    given = arguments.parse_args()
    print(folder(given.size, given.tokenizer))
