"""One chat floods the server: how long a quiet chat waits compared with calm, and how evenly busy chats share."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import checkpoints
from figures import percentile, report
from load import Target, Workload, ask, ask_qq, said
from servers import Qqvl
from wire import Refused, events

QUIET, FLOOD = "quiet-key", "flood-key"


async def waits(base: str, work: Workload, turns: int, door: str, chat: int) -> tuple[list[float], list[float]]:
    """Seconds to the first token and to the last of each turn of a quiet chat, one at a time."""
    first, total = [], []
    for number in range(1, turns + 1):
        target = Target(base, key=QUIET)
        if door == "qq":
            turn = await ask_qq(target, str(30_000_000 + work.seed * 10 + chat), work.text(chat, number))
        else:
            turn = await ask(target, [said(work.text(chat, number))], work.max_tokens)
        first.append(turn.first_s)
        total.append(turn.total_s)
        await asyncio.sleep(0.2)
    return first, total


@contextlib.asynccontextmanager
async def flood(base: str, work: Workload, streams: int, door: str) -> AsyncIterator[None]:
    """Keep ``streams`` requests of one chat (one group, or one key) going all the time.

    Raises:
        As ``load.ask``, on leaving: a flood that broke off was none. Refusals are part of a flood.
    """

    async def one(stream: int) -> None:
        target = Target(base, key=FLOOD)
        for number in range(10_000):
            text = work.text(5000 + stream, number)
            try:
                if door == "qq":
                    await ask_qq(target, str(40_000_000 + work.seed), text)
                else:
                    await ask(target, [said(text)], work.max_tokens)
            except Refused:
                await asyncio.sleep(0.5)

    tasks = [asyncio.create_task(one(stream)) for stream in range(streams)]
    await asyncio.sleep(3)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


async def shares(base: str, work: Workload, keys: list[str], seconds: float) -> list[int]:
    """Words each key was told in ``seconds``, the first key asking four times as much at once as the others.

    A word is a token. The clock starts after as long again, when all of them are waiting for their turn.
    """
    got = dict.fromkeys(keys, 0)
    starts = time.monotonic() + seconds
    ends = starts + seconds

    async def one(key: str, stream: int) -> None:
        number = 0
        while time.monotonic() < ends:
            number += 1
            body = {"model": "m", "messages": [said(work.text(stream, number))], "max_tokens": 16, "temperature": 0}
            async for event in events(base, "/v1/chat/completions", {**body, "stream": True}, key):
                if starts <= time.monotonic() < ends:
                    told = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                    got[key] += len(told.split())

    streams = [(key, n) for key in keys for n in range(32 if key == keys[0] else 8)]
    tasks = [asyncio.create_task(one(key, 7000 + n * 100 + keys.index(key))) for key, n in streams]
    await asyncio.sleep(ends - time.monotonic())
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    return list(got.values())


def jain(values: list[int]) -> float:
    """Jain's index: 1 when all got the same, 1/n when one got all."""
    return sum(values) ** 2 / (len(values) * sum(v * v for v in values)) if any(values) else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description="一个群刷屏时，安静的群要多等多久；几个忙的密钥分得平不平（Jain 指数）"
    )
    parser.add_argument("--size", choices=checkpoints.SIZES, default="small")
    parser.add_argument("--tokenizer", type=Path, default=checkpoints.DEMO)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--turns", type=int, default=10, help="安静的群问几次")
    parser.add_argument("--streams", type=int, default=32, help="刷屏的同时发几条")
    parser.add_argument("--seconds", type=float, default=15, help="分得平不平测多少秒")
    given = parser.parse_args()
    folder = checkpoints.folder(given.size, given.tokenizer)
    work = Workload(checkpoints.vocabulary(folder), max_tokens=32)
    keys = [QUIET, FLOOD, "busy-1", "busy-2", "busy-3", "busy-4"]
    rows: list[dict[str, Any]] = []
    with Qqvl(
        folder, "--engine", "paged", "--max-new-tokens", "32", "--api-keys", ",".join(keys), dtype=given.dtype
    ) as server:
        asyncio.run(waits(server.base, work, 2, "openai", 90))
        for door in ("qq", "openai"):
            calm = asyncio.run(waits(server.base, work, given.turns, door, 1))

            async def flooded(door: str = door) -> tuple[list[float], list[float]]:
                async with flood(server.base, work, given.streams, door):
                    return await waits(server.base, work, given.turns, door, 2)

            busy = asyncio.run(flooded())
            rows.append(_row(door, calm, busy))
            print(f"{door}: {rows[-1]['turn_calm_p95_s']:.2f} s → {rows[-1]['turn_flood_p95_s']:.2f} s", flush=True)
        told = asyncio.run(shares(server.base, work, keys[2:], given.seconds))
    report("fairness", rows, jain=jain(told), told=told, streams=given.streams, size=given.size)


def _row(door: str, calm: tuple[list[float], list[float]], busy: tuple[list[float], list[float]]) -> dict[str, Any]:
    # The QQ door answers in one piece: there only the whole turn can be seen.
    row: dict[str, Any] = {"door": door}
    for name, place in (("first", 0), ("turn", 1)):
        before, after = percentile(calm[place], 95), percentile(busy[place], 95)
        row |= {f"{name}_calm_p95_s": before, f"{name}_flood_p95_s": after, f"{name}_x": after / before}
    return row


if __name__ == "__main__":
    main()
