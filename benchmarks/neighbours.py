"""Beside other programs: tokens a second of one chat while none, one or two other processes keep a core busy each.

Servers that differ only in how long OpenMP's threads spin run side by side and are asked in turn, so that what else the
machine does falls on all of them alike. With k busy neighbours on n cores a program that is scheduled fairly keeps
n / (n + k) of what it does alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import checkpoints
from figures import median, report
from load import Target, Workload, ask, said
from servers import Qqvl

# What an operator would write to have it so; "shipped" sets nothing. The runtime's own default is "endless".
SPINS: Final[dict[str, dict[str, str]]] = {
    "shipped": {},
    "endless": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="旁边有别的程序占着 CPU 时，一个聊天每秒还有多少 token")
    parser.add_argument("--size", choices=checkpoints.SIZES, default="small")
    parser.add_argument("--tokenizer", type=Path, default=checkpoints.DEMO)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--spins", default=",".join(SPINS), help="shipped、endless、passive，或 GOMP_SPINCOUNT 的数")
    parser.add_argument("--busy", default="0,1,2", help="旁边几个占满一个核的程序，逗号隔开")
    parser.add_argument("--chats", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5, help="每种情形轮流量几遍")
    parser.add_argument("--tokens", type=int, default=48)
    given = parser.parse_args()
    folder = checkpoints.folder(given.size, given.tokenizer)
    work = Workload(checkpoints.vocabulary(folder), max_tokens=given.tokens)
    names = given.spins.split(",")
    with contextlib.ExitStack() as stack:
        servers = {}
        for name in names:
            env = SPINS.get(name, {"GOMP_SPINCOUNT": name})
            servers[name] = stack.enter_context(Qqvl(folder, "--engine", "paged", dtype=given.dtype, env=env))
            asyncio.run(_rate(servers[name].base, work, given.chats, 0))
        rows = _measured(servers, work, [int(n) for n in given.busy.split(",")], given)
    report("neighbours", rows, size=given.size, dtype=given.dtype, chats=given.chats, pairs=given.pairs)


def _measured(
    servers: dict[str, Qqvl], work: Workload, busy: list[int], given: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each number of neighbours and each spin; ratios are medians over the rounds of each round's own."""
    cores = len(os.sched_getaffinity(0))
    first = next(iter(servers))
    alone: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    for count in busy:
        rates: dict[str, list[float]] = {name: [] for name in servers}
        for turn in range(given.pairs):
            # Every other round backwards: whoever comes second must not always come second.
            order = list(servers) if turn % 2 == 0 else list(servers)[::-1]
            with _neighbours(count):
                for name in order:
                    number = 1 + count * 1000 + turn
                    rates[name].append(asyncio.run(_rate(servers[name].base, work, given.chats, number)))
        for name, seen in rates.items():
            if count == 0:
                alone[name] = median(seen)
            row: dict[str, Any] = {"busy": count, "spin": name, "tok_s": median(seen), "least": min(seen)}
            row["of_" + first] = median([a / b for a, b in zip(seen, rates[first], strict=True)])
            if count and alone:
                row["of_fair"] = median(seen) / (max(alone.values()) * cores / (cores + count))
            rows.append(row)
            print(row, flush=True)
    return rows


async def _rate(base: str, work: Workload, chats: int, number: int) -> float:
    """Tokens a second of replies to prompts nobody has seen, from the first token of the first to the last of all."""
    target = Target(base)
    more = {"ignore_eos": True, "min_tokens": work.max_tokens}
    started = time.perf_counter()
    turns = await asyncio.gather(
        *(ask(target, [said(work.text(chat, number))], work.max_tokens, **more) for chat in range(chats))
    )
    first: float = min(turn.first_s for turn in turns)
    return sum(turn.out - 1 for turn in turns) / (time.perf_counter() - started - first)


@contextlib.contextmanager
def _neighbours(count: int) -> Iterator[None]:
    """Programs that never wait for anything."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        if running:
            time.sleep(0.3)
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


if __name__ == "__main__":
    main()
