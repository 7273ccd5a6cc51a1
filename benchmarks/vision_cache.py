"""A picture sent many times, in many chats, is looked at once."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import checkpoints
from figures import median, report
from load import Target, Workload, ask, said
from servers import Qqvl


async def ask_all(target: Target, work: Workload, chats: list[int], picture: str) -> list[float]:
    waits = []
    for chat in chats:
        turn = await ask(target, [said(work.text(chat, 1), picture)], 4)
        waits.append(turn.first_s)
    return waits


def main() -> None:
    parser = argparse.ArgumentParser(description="同一张图在许多群里各发一次：视觉编码器跑了几次")
    parser.add_argument("--size", choices=checkpoints.SIZES, default="small")
    parser.add_argument("--tokenizer", type=Path, default=checkpoints.DEMO)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--chats", type=int, default=10)
    given = parser.parse_args()
    folder = checkpoints.folder(given.size, given.tokenizer)
    work = Workload(checkpoints.vocabulary(folder))
    rows: list[dict[str, Any]] = []
    with Qqvl(folder, "--engine", "paged", dtype=given.dtype) as server:
        target = Target(server.base)
        asyncio.run(ask_all(target, work, [900], work.picture(900, 1)))
        for name, pictures in (
            ("a picture of its own each", [work.picture(n, 1) for n in range(given.chats)]),
            ("one picture seen before", [work.picture(0, 1)] * given.chats),
        ):
            before = server.metrics()
            waits: list[float] = []
            for n, picture in enumerate(pictures):
                # Fresh words each time: only the picture can be remembered.
                waits += asyncio.run(ask_all(target, work, [len(rows) * 1000 + n + 1], picture))
            after = server.metrics()
            runs = after["qqvl_vision_cache_misses_total"] - before["qqvl_vision_cache_misses_total"]
            rows.append({
                "sent": name, "times": given.chats, "encoder_pictures": int(runs), "ttft_s": median(waits),
            })  # fmt: skip
    report("vision_cache", rows, size=given.size)


if __name__ == "__main__":
    main()
