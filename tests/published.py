"""What Qwen publishes beside Qwen3-VL's weights: whole where it is at hand, else cut down to what the tests say.

``python -m tests.published FOLDER`` writes ``tests/fixtures/qwen3-vl/`` again from a folder that holds it whole.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tests.running import ROOT

CUT = ROOT / "tests" / "fixtures" / "qwen3-vl"
# The id of the first special token; the vocabulary's words are those below.
FIRST_SPECIAL = 151_643
_BYTES = 256
_GOLDEN = "golden_tokens.json"
AS_THEY_ARE = ("tokenizer_config.json", "chat_template.json", "preprocessor_config.json")
# Whose texts are read as the whole tokenizer reads them.
_SPEAKERS = ("tests/generation", "tests/weights", "tests/chat")


def golden(folder: Path) -> list[tuple[str, list[int]]]:
    """Texts with their token ids."""
    pairs = json.loads((folder / _GOLDEN).read_text("utf-8"))
    return [(pair["text"], pair["ids"]) for pair in pairs]


def grown(folder: Path) -> Path:
    """``folder`` with the cut files, the tokenizer's gaps filled: as many words, each special token at its own id.

    What the cut knows has its published ids; what it does not know is read in smaller pieces than it would be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in AS_THEY_ARE:
        shutil.copyfile(CUT / name, folder / name)
    shutil.copyfile(CUT / _GOLDEN, folder / _GOLDEN)
    described = json.loads((CUT / "tokenizer.json").read_text("utf-8"))
    words: dict[str, int] = described["model"]["vocab"]
    taken = set(words.values())
    gaps = [number for number in range(FIRST_SPECIAL) if number not in taken]
    # Without a merge, so that no text is read as one of them.
    known = list(words)
    for first, second in itertools.product(known, known):
        if not gaps:
            break
        if first + second not in words:
            words[first + second] = gaps.pop()
    assert len(words) == FIRST_SPECIAL
    (folder / "tokenizer.json").write_text(json.dumps(described), "utf-8")
    return folder


def cut(whole: Path, texts: Iterable[str]) -> dict[str, Any]:
    """Its ``tokenizer.json`` with the bytes, the special tokens and the words that ``texts`` are read in.

    A word is merged from two shorter ones, and those again; pairs that no text has are never merged, so that leaving
    them out changes no reading of these texts.
    """
    described: dict[str, Any] = json.loads((whole / "tokenizer.json").read_text("utf-8"))
    tokenizer = Tokenizer.from_file(str(whole / "tokenizer.json"))
    words: dict[str, int] = described["model"]["vocab"]
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in described["model"]["merges"]]
    halves = {first + second: (first, second) for first, second in reversed(merges)}
    named = {number: word for word, number in words.items()}
    wanted = {number for text in texts for number in tokenizer.encode(text, add_special_tokens=False).ids}
    left = [named[number] for number in wanted if number in named]
    kept = {word for word, number in words.items() if number < _BYTES}
    while left:
        word = left.pop()
        if word not in kept:
            kept.add(word)
            left += halves[word]
    described["model"]["vocab"] = {word: number for word, number in words.items() if word in kept}
    described["model"]["merges"] = [list(pair) for pair in merges if "".join(pair) in kept]
    return described


def main(whole: Path) -> None:
    spoken = [path.read_text("utf-8") for place in _SPEAKERS for path in sorted((ROOT / place).rglob("*.py"))]
    template = json.loads((whole / "chat_template.json").read_text("utf-8"))["chat_template"]
    described = cut(whole, [*(text for text, _ in golden(whole)), template, *spoken])
    CUT.mkdir(parents=True, exist_ok=True)
    for name in AS_THEY_ARE:
        shutil.copyfile(whole / name, CUT / name)
    pairs = [json.dumps({"text": said, "ids": numbers}, ensure_ascii=False) for said, numbers in golden(whole)]
    (CUT / _GOLDEN).write_text("[\n" + ",\n".join(pairs) + "\n]\n", "utf-8")
    text = json.dumps(described, ensure_ascii=False, separators=(",", ":"))
    (CUT / "tokenizer.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
