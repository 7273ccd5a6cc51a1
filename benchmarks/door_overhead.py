"""What the HTTP door costs: the same work through ``/v1/chat/completions`` and by the engine alone, in turn."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import checkpoints
from figures import median, report
from load import Workload, said
from servers import Qqvl
from wire import post


def alone(folder: Path, dtype: str, streams: int, prompt: int, new: int, runs: int) -> list[float]:
    """Seconds of each run of ``streams`` requests at once, in a process that does nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_alone, (folder, dtype, streams, prompt, new, runs))


def _alone(folder: Path, dtype: str, streams: int, prompt: int, new: int, runs: int) -> list[float]:
    from inprocess import Engine

    engine = Engine(folder, device="cpu", dtype=dtype, tokens=streams * (prompt + new + 64) * 2, step_tokens=1024)
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        for _ in range(streams):
            engine.add(prompt, new)
        while engine.core.has_work:
            engine.core.step()
        times.append(time.perf_counter() - started)
    return times[1:]


async def through_the_door(base: str, model: str, work: Workload, streams: int, new: int) -> tuple[float, int]:
    """Seconds until all streams have ended, and the events they had."""

    async def one(stream: int) -> int:
        body = {
            "model": model, "messages": [said(work.text(stream, 1))], "max_tokens": new, "temperature": 0,
            "stream": True, "ignore_eos": True,
        }  # fmt: skip
        count = 0
        # Counted, not parsed: the client must not be what is measured.
        async with aclosing(post(base, "/v1/chat/completions", body)) as pieces:
            async for piece in pieces:
                count += piece.count(b"data:")
        return count

    started = time.perf_counter()
    events = sum(await asyncio.gather(*(one(stream) for stream in range(streams))))
    return time.perf_counter() - started, events


def main() -> None:
    parser = argparse.ArgumentParser(description="HTTP 接口的开销：同样的活，经接口和只用引擎，各要多久")
    parser.add_argument("--size", choices=(*checkpoints.SIZES, "demo"), default="demo", help="默认自带的演示模型")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--new", type=int, default=64, help="每条回答多少 token")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    folder = checkpoints.DEMO if given.size == "demo" else checkpoints.folder(given.size)
    words = checkpoints.vocabulary(checkpoints.folder("tiny"))
    flags = ("--engine", "paged", "--max-running", str(given.streams), "--context-tokens", "2048")
    with Qqvl(folder, *flags, dtype=given.dtype, kv_gb=0.3) as server:
        asyncio.run(through_the_door(server.base, server.model, Workload(words), given.streams, 2))
        rows = [_compared(given, folder, server, words, new) for new in (1, given.new)]
    report("door_overhead", rows, size=given.size, streams=given.streams)


def _compared(given: argparse.Namespace, folder: Path, server: Qqvl, words: list[str], new: int) -> dict[str, Any]:
    # Sixty words in their ChatML frame come to about this many tokens.
    prompt = 70
    engine: list[float] = []
    door: list[float] = []
    for _ in range(given.repeats):
        engine += alone(folder, given.dtype, given.streams, prompt, new, 1)
        seconds, _ = asyncio.run(through_the_door(server.base, server.model, Workload(words), given.streams, new))
        door.append(seconds)
    tokens = given.streams * new
    return {
        "new_tokens": new, "engine_s": median(engine), "door_s": median(door),
        "door_requests_s": given.streams / median(door), "overhead": median(door) / median(engine) - 1,
        "us_per_token": (median(door) - median(engine)) / tokens * 1e6,
    }  # fmt: skip


if __name__ == "__main__":
    main()
