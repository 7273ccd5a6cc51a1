"""The demo's own byte-level BPE tokenizer, with the special tokens, splitting and chat template of Qwen3-VL.

Two rules make names easy to copy. Merges join bytes to characters but not characters to longer runs, except for a
list of fixed words; so a name is cut alike wherever it stands. And a space in front is only merged to listed words.
There is no Unicode normaliser: every string decodes to itself.
"""

# ruff: noqa: E501 - lists of tokens

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .names import common_hanzi

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>",
    "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
ADDED = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
    "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
# Parts of the default prompt and of fixed answers; none of them occurs inside names.
FIXED_WORDS = (
    "友好的", "聊天助手", "简短自然的", "用英文", "回答", "对方", "提问", "群聊里", "每条消息", "开头的", "方括号", "发言人的", "名片", "重复它",
    "什么", "颜色", "形状", "图片", "名字", "请问", "圆形", "正方形", "三角形", "五角星", "自带的", "小演示模型", "数量", "以及", "调用", "简单的", "工具",
    "换上", "真正的", "就能", "聊别的", "只会", "记住", "没有看到", "告诉我", "很高兴", "见到你", "不客气", "下次", "查到了", "引用", "无法打开",
    "没有人", "叫你", "现在", "插话", "只答", "一个字", "或者",
)  # fmt: skip
PUNCTUATION = (
    '":', ' "', '{"', ' {"', '"}', '"}}', '"}},', '",', '"}},"', '"],', ' ["', '"]}}}', '}}', '"}}}', '<tools', '":{', '.\n', ':\n', '\n\n', '</', '>\n', '}\n',
)  # fmt: skip
LEAST_COUNT = 12
CAPITALS = (
    "It",
    "There",
    "The",
    "This",
    "I",
    "You",
    "Hello",
    "Please",
    "Qwen",
    "QQ",
    "XML",
    "VL",
    "Yes",
    "No",
    "OK",
    "Your",
    "Here",
)


def _spell(text: str) -> list[str]:
    """A text as the byte alphabet of byte-level BPE."""
    return [char for char, _ in pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
            for char in char]  # fmt: skip


class _Vocabulary:
    """Tokens and merges in the order they are learnt."""

    def __init__(self) -> None:
        self.tokens: dict[str, int] = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        self.merges: list[tuple[str, str]] = []

    def merge(self, left: str, right: str) -> str:
        """Add a merge unless it exists; gives the joined token."""
        joined = left + right
        if joined not in self.tokens:
            self.tokens[joined] = len(self.tokens)
            self.merges.append((left, right))
        return joined

    def join(self, parts: list[str]) -> str:
        """Merge parts from left to right."""
        joined = parts[0]
        for part in parts[1:]:
            joined = self.merge(joined, part)
        return joined


def _add_hanzi(vocabulary: _Vocabulary, frequent: Iterable[str]) -> None:
    """Whole tokens for frequent characters, first two bytes of all everyday ones (a rarer character is two tokens)."""
    for char in (*common_hanzi(), *"，。？！：；、“”（）《》～…℃°"):
        spelled = _spell(char)
        vocabulary.join(spelled[:2])
    for char in frequent:
        vocabulary.join(_spell(char))


def _add_words(vocabulary: _Vocabulary) -> None:
    for word in FIXED_WORDS:
        vocabulary.join([vocabulary.join(_spell(char)) for char in word])


def _add_english(vocabulary: _Vocabulary, counts: Counter[str]) -> None:
    """BPE over bare English words, then the space in front of listed lower-case words."""
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 620, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    repeated = (" ".join([word] * min(count, 400)) for word, count in sorted(counts.items()) if count >= LEAST_COUNT)
    learner.train_from_iterator(repeated, trainer)
    for left, right in json.loads(learner.to_str())["model"]["merges"]:
        vocabulary.merge(left, right)
    for word, count in sorted(counts.items()):
        if (
            count >= LEAST_COUNT
            and word in vocabulary.tokens
            and len(word) > 1
            and (word.islower() or word in CAPITALS)
        ):
            vocabulary.merge("Ġ", word)


def build(texts: Iterable[str], template: str, frequent_least: int = 25) -> Tokenizer:
    """Learn a tokenizer from dialogue texts and the words of the chat template."""
    characters: Counter[str] = Counter()
    frame = [*re.findall(r"[A-Za-z]+", template[: template.index("set image_count")]), "user", "assistant", "tool"]
    english: Counter[str] = Counter(frame * 200)
    for text in texts:
        characters.update(char for char in text if "\u4e00" <= char <= "\u9fff" or char in "，。？！：；、")
        english.update(re.findall(r"[A-Za-z]+", text))
    vocabulary = _Vocabulary()
    frequent = [
        char
        for char, count in sorted(characters.items(), key=lambda item: (-item[1], item[0]))
        if count >= frequent_least
    ]
    _add_hanzi(vocabulary, frequent)
    _add_words(vocabulary)
    _add_english(vocabulary, english)
    for mark in PUNCTUATION:
        vocabulary.join(_spell(mark))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary.tokens, merges=vocabulary.merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    for text in SPECIAL:
        tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False)])
    for text in ADDED:
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False)])
    return tokenizer


def save(tokenizer: Tokenizer, template: str, folder: Path, context: int) -> None:
    """Write the folder's tokenizer files in the layout of the published model."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    decoder = {
        str(tokenizer.token_to_id(text)): {
            "content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": text in SPECIAL,
        }
        for text in (*SPECIAL, *ADDED)
    }  # fmt: skip
    config = {
        "add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": decoder, "additional_special_tokens": list(SPECIAL[1:]),
        "bos_token": None, "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace",
        "model_max_length": context, "pad_token": "<|endoftext|>", "split_special_tokens": False,
        # The library's Qwen2Tokenizer class would put Unicode normalisation back in.
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": None,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def load(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as everybody else loads it."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer
