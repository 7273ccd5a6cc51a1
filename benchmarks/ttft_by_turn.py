"""Time to the first token, turn by turn: a chat's tenth turn should start as fast as its second."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import checkpoints
from figures import median, report
from load import Outcome, Workload, group_chat
from servers import Qqvl


def main() -> None:
    parser = argparse.ArgumentParser(description="一个群聊很多轮：每轮多久出第一个字、提示里多少 token 不用重算")
    parser.add_argument("--size", choices=checkpoints.SIZES, default="small")
    parser.add_argument("--tokenizer", type=Path, default=checkpoints.DEMO)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="几个群先后各聊一遍，取中位数")
    parser.add_argument("--engine", choices=("paged", "generate"), default="paged")
    given = parser.parse_args()
    folder = checkpoints.folder(given.size, given.tokenizer)
    words = checkpoints.vocabulary(folder)
    outcomes: list[Outcome] = []
    with Qqvl(folder, "--engine", given.engine, dtype=given.dtype) as server:
        for _ in range(given.repeats + 1):
            work = Workload(words, chats=1, turns=given.turns, max_tokens=given.max_tokens)
            outcomes.append(asyncio.run(group_chat(server.base, server.model, work)))
    measured = outcomes[1:]  # the first run warms the machine up
    rows = []
    for n in range(given.turns):
        turns = [outcome.turns[n] for outcome in measured]
        rows.append({
            "turn": n + 1, "picture": n + 1 in Workload(words).picture_turns, "prompt": turns[0].prompt,
            "cached": median([turn.cached for turn in turns]), "ttft_s": median([turn.first_s for turn in turns]),
        })  # fmt: skip
    ttft = {row["turn"]: row["ttft_s"] for row in rows}
    ratio = ttft[6] / ttft[2] if given.turns >= 6 else None
    cached = [outcome.row()["cached"] for outcome in measured]
    report("ttft_by_turn", rows, turn6_over_turn2=ratio, cached=median(cached), engine=given.engine, size=given.size)


if __name__ == "__main__":
    main()
