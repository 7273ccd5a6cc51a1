"""Tokens a second with and without banned words: the same engine, in turns, each pair's own ratio."""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import checkpoints
import inprocess
from figures import median, report

from qqvl_server.generation.constraints.bad_words import BadWords
from qqvl_server.generation.replies.detokenize import Vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description="屏蔽词在生成时避开，慢多少：同一个引擎轮流量，比每一对自己的")
    parser.add_argument("--size", choices=checkpoints.SIZES, default="small")
    parser.add_argument("--tokenizer", type=Path, default=checkpoints.DEMO)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--words", type=int, default=200, help="几个屏蔽词")
    parser.add_argument("--batches", default="1,4,8", help="同时回答几条")
    parser.add_argument("--pairs", type=int, default=20, help="轮流量几对")
    parser.add_argument("--steps", type=int, default=16, help="每次量几步")
    given = parser.parse_args()
    folder = checkpoints.folder(given.size, given.tokenizer)
    batches = [int(batch) for batch in given.batches.split(",")]
    tokens = max(batches) * (128 + given.steps + 256) + 1024
    engine = inprocess.Engine(folder, device=given.device, dtype=given.dtype, tokens=tokens, step_tokens=512)
    spellings = Vocabulary(engine.reader.backend_tokenizer).spellings()
    began = time.perf_counter()
    banned = BadWords(lambda: spellings).banned(_words(spellings, given.words))
    took = time.perf_counter() - began
    rows: list[dict[str, Any]] = []
    for batch in batches:
        seconds: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
        for turn in range(given.pairs + 1):
            order = [("without", None), ("with", banned)]
            # Every other pair backwards: whoever comes second must not always come second.
            for name, texts in order if turn % 2 else order[::-1]:
                computed = time.process_time()
                passed = sum(engine.decode_steps(batch, 128, given.steps, banned=texts))
                seconds[name].append((passed, time.process_time() - computed))
        # The first pair warms up.
        pairs = list(zip(seconds["without"][1:], seconds["with"][1:], strict=True))
        row = {"batch": batch, "tok_s": given.steps * batch / median([without[0] for without, _ in pairs])}
        row["of_without"] = median([without[0] / bans[0] for without, bans in pairs])
        # What was computed, prompts too: other programs on the machine take nothing from it.
        row["cpu_of_without"] = median([without[1] / bans[1] for without, bans in pairs])
        rows.append(row)
        print(row, flush=True)
    report("banned_words", rows, size=given.size, words=given.words, made_s=took)


def _words(spellings: list[bytes], count: int) -> tuple[str, ...]:
    """Of two to five letters that the vocabulary has, so that replies are often in the middle of one."""
    dice = random.Random(1)
    letters = [text for text in (s.decode(errors="ignore") for s in spellings) if len(text) == 1 and text >= "\u4e00"]
    return tuple("".join(dice.choices(letters, k=dice.randint(2, 5))) for _ in range(count))


if __name__ == "__main__":
    main()
