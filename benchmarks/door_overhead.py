"""What the HTTP door costs: the same work through ``/v1/chat/completions`` and by the engine alone, in turn.

So many callers at once, each of which asks again as soon as its answer has ended: for one token, which counts
requests, and for replies of many lengths, which counts what a streamed token costs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import json
import multiprocessing
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import checkpoints
from figures import median, report
from load import Workload, said
from servers import Qqvl
from wire import Refused

# Sixty words in their ChatML frame come to no more tokens.
_LONGEST_PROMPT: Final = 80
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class Alone:
    """The engine in a process that does nothing else."""

    def __init__(self, folder: Path, dtype: str, tokens: int) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(1, _load, (folder, dtype, tokens))

    def bytes_per_token(self) -> int:
        return self._pool.apply(_bytes_per_token)

    def seconds(self, streams: int, turns: int, prompt: int, new: int) -> float:
        """Of ``streams`` requests at once, ``turns`` after one another, from the first's arrival to the last's end."""
        return self._pool.apply(_run, (streams, turns, prompt, new))

    def close(self) -> None:
        self._pool.terminate()


def _load(folder: Path, dtype: str, tokens: int) -> None:
    from inprocess import Engine

    globals()["engine"] = Engine(folder, device="cpu", dtype=dtype, tokens=tokens, step_tokens=1024)
    # As the server does.
    gc.freeze()


def _bytes_per_token() -> int:
    return int(globals()["engine"].kv_bytes)


def _run(streams: int, turns: int, prompt: int, new: int) -> float:
    from qqvl_server.engine.steps.request import Status

    engine = globals()["engine"]
    started = time.perf_counter()
    running = {stream: (0, engine.add(prompt, _length(new, stream, 0))) for stream in range(streams)}
    while running:
        engine.core.step()
        for stream, (turn, request) in list(running.items()):
            if request.status is not Status.FINISHED:
                continue
            del running[stream]
            if turn + 1 < turns:
                running[stream] = turn + 1, engine.add(prompt, _length(new, stream, turn + 1))
    return time.perf_counter() - started


def _length(new: int, stream: int, turn: int) -> int:
    """Tokens of a reply, ``new`` on average: replies of one length would all end, and all be asked for, at once."""
    return new if new == 1 else random.Random(f"{stream} {turn}").randint(new // 2, new * 3 // 2)


def tokens_of(streams: int, turns: int, new: int) -> int:
    """Of all replies together."""
    return sum(_length(new, stream, turn) for stream in range(streams) for turn in range(turns))


class Caller(asyncio.Protocol):
    """One connection that asks again and again, as the SDKs keep theirs. It only looks for an answer's end.

    The machine's cores are the server's: a client that parsed what it gets would be what is measured.
    """

    def __init__(self, requests: Iterable[bytes]) -> None:
        self._requests = iter(requests)
        self._end = b""
        self._refused = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        if b'"error"' in data or (not self._end and not data.startswith(b"HTTP/1.1 200")):
            self._refused = data
            self._transport.close()
            return
        self._end = (self._end + data)[-len(_LAST_CHUNK) :]
        if self._end == _LAST_CHUNK:
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(exc or Refused(self._refused.decode(errors="replace")[-300:] or "cut off"))

    def _ask(self) -> None:
        self._end = b""
        request = next(self._requests, None)
        if request is not None:
            self._transport.write(request)
            return
        self.over.set_result(None)
        self._transport.close()


async def through_the_door(base: str, model: str, work: Workload, streams: int, turns: int, new: int) -> float:
    """Seconds until all streams have ended.

    Raises:
        Refused, OSError: a stream did not end well.
    """
    where = urlsplit(base)
    host, port = str(where.hostname), int(where.port or 80)

    def request(stream: int, turn: int) -> bytes:
        body = json.dumps({
            "model": model, "messages": [said(work.text(stream, turn))], "temperature": 0,
            "stream": True, "ignore_eos": True, "max_tokens": _length(new, stream, turn),
        }).encode()  # fmt: skip
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    asked = [[request(stream, turn) for turn in range(turns)] for stream in range(streams)]
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    made = await asyncio.gather(*(loop.create_connection(functools.partial(Caller, one), host, port) for one in asked))
    await asyncio.gather(*(caller.over for _, caller in made))
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="HTTP 接口的开销：同样的活，经接口和只用引擎，各要多久")
    parser.add_argument("--size", choices=(*checkpoints.SIZES, "demo"), default="demo", help="默认自带的演示模型")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--turns", type=int, default=8, help="每路连着问几次")
    parser.add_argument("--new", type=int, default=64, help="回答平均多少 token")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    folder = checkpoints.DEMO if given.size == "demo" else checkpoints.folder(given.size)
    words = checkpoints.vocabulary(folder)
    flags = ("--engine", "paged", "--max-running", str(given.streams), "--context-tokens", "2048")
    tokens = given.streams * (_LONGEST_PROMPT + 2 * given.new + 64) * 2
    engine = Alone(folder, given.dtype, tokens)
    # The same number of blocks on both sides.
    kv_gb = tokens * engine.bytes_per_token() / 1e9
    with contextlib.closing(engine), Qqvl(folder, *flags, dtype=given.dtype, kv_gb=kv_gb) as server:
        # Until every block has been written once: the system clears memory when it is first touched.
        turns = 5
        asyncio.run(through_the_door(server.base, server.model, Workload(words), given.streams, turns, given.new))
        prompt = round(server.metrics()["qqvl_prompt_tokens_total"] / (given.streams * turns))
        engine.seconds(given.streams, turns, prompt, given.new)
        rows = [_compared(given, engine, server, words, prompt, new) for new in (1, given.new)]
    report("door_overhead", rows, size=given.size, streams=given.streams, turns=given.turns)


def _compared(
    given: argparse.Namespace, engine: Alone, server: Qqvl, words: list[str], prompt: int, new: int
) -> dict[str, Any]:
    bare: list[float] = []
    door: list[float] = []
    for _ in range(given.repeats):
        bare.append(engine.seconds(given.streams, given.turns, prompt, new))
        work = Workload(words)
        door.append(asyncio.run(through_the_door(server.base, server.model, work, given.streams, given.turns, new)))
    requests = given.streams * given.turns
    tokens = tokens_of(given.streams, given.turns, new)
    # The best of each: what else runs on the machine only ever adds, and more to what needs both cores.
    engine_s, door_s = min(bare), min(door)
    return {
        "prompt_tokens": prompt, "new_tokens": new, "engine_s": engine_s, "door_s": door_s,
        "engine_requests_s": requests / engine_s, "door_requests_s": requests / door_s,
        "overhead": door_s / engine_s - 1, "median_overhead": median(door) / median(bare) - 1,
        "us_per_token": (door_s - engine_s) / tokens * 1e6,
    }  # fmt: skip


if __name__ == "__main__":
    main()
