"""What replicas on Ray cost and bring: the same requests to this server alone and with its engine in replicas, in turn.

One caller who wants one token: the difference is Ray's hop. Many at once: two replicas of one thread each beside one
process with two threads share the same cores, so that what is lost to the second process is seen, not what is won by
a second machine.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import checkpoints
from door_overhead import through_the_door, tokens_of
from figures import median, report
from load import Workload
from servers import Qqvl

# Requests of one caller after one another, for the hop.
_ASKED = 40


def main() -> None:
    parser = argparse.ArgumentParser(description="Ray 副本：一跳多少毫秒；几个副本和一个进程比，每秒多少 token")
    parser.add_argument("--size", choices=(*checkpoints.SIZES, "demo"), default="demo", help="默认自带的演示模型")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--streams", type=int, default=8, help="同时问的有几路")
    parser.add_argument("--turns", type=int, default=4, help="每路连着问几次")
    parser.add_argument("--new", type=int, default=64, help="回答平均多少 token")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    folder = checkpoints.DEMO if given.size == "demo" else checkpoints.folder(given.size)
    words = checkpoints.vocabulary(folder)
    flags = ("--device", "cpu", "--context-tokens", "2048")
    with (
        Qqvl(folder, *flags, dtype="auto", kv_gb=0.2) as alone,
        Qqvl(folder, *flags, "--replicas", str(given.replicas), dtype="auto", kv_gb=0.2) as apart,
    ):
        for server in (alone, apart):
            # The system clears memory when it is first touched, Ray's handles learn how long the queues are.
            _seconds(server, words, given.streams, given.turns, given.new)
        rows = [
            _compared(alone, apart, words, given.repeats, streams, turns, new)
            for streams, turns, new in ((1, _ASKED, 1), (given.streams, given.turns, given.new))
        ]
    report("replicas", rows, size=given.size, replicas=given.replicas)


def _compared(
    alone: Qqvl, apart: Qqvl, words: list[str], repeats: int, streams: int, turns: int, new: int
) -> dict[str, Any]:
    one, many = [], []
    for _ in range(repeats):
        one.append(_seconds(alone, words, streams, turns, new))
        many.append(_seconds(apart, words, streams, turns, new))
    tokens = tokens_of(streams, turns, new)
    return {
        "streams": streams, "new_tokens": new,
        "alone_tokens_s": tokens / min(one), "replicas_tokens_s": tokens / min(many),
        "ratio": median([a / b for a, b in zip(one, many, strict=True)]),
        "hop_ms": median([b - a for a, b in zip(one, many, strict=True)]) / turns * 1000 if streams == 1 else None,
    }  # fmt: skip


def _seconds(server: Qqvl, words: list[str], streams: int, turns: int, new: int) -> float:
    return asyncio.run(through_the_door(server.base, server.model, Workload(words), streams, turns, new))


if __name__ == "__main__":
    main()
