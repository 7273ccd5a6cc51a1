"""Bodies: large ones keep no small one out, give their room back once they are read, and may not crawl."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import httpx
import pytest

from qqvl_server.api.intake import Pool
from qqvl_server.errors import Busy
from tests.api.wire import check_error, connect, head, padded
from tests.running import RunningServer, private_body

JSON = "Content-Type: application/json"
LARGE = 1_900_000


@pytest.mark.parametrize("framing", ["length", pytest.param("chunks", marks=pytest.mark.long)])
def test_large_bodies_that_never_end_keep_no_other_out(tight: RunningServer, framing: str) -> None:
    """Small ones pass at once, middle ones have room of their own, a large one comes in once they are gone."""
    length = f"Content-Length: {LARGE + 1}" if framing == "length" else "Transfer-Encoding: chunked"
    blanks = b" " * LARGE if framing == "length" else f"{LARGE:x}\r\n".encode() + b" " * LARGE
    with ExitStack() as held:
        for _ in range(4):
            wire = held.enter_context(connect(tight, timeout=0.3))
            # What the server has no room for it does not read.
            with suppress(TimeoutError):
                wire.sendall(head(JSON, length) + blanks)
        for size in (0, 60_000, 300_000):
            body = padded(private_body("你好", user=f"small-{framing}", context_only=True), size)
            assert post(tight, body).status_code == 200, size
        body = padded(private_body("你好", user=f"large-{framing}", context_only=True), LARGE)
        deadline = time.monotonic() + 30
        while (answer := post(tight, body)).status_code != 200:
            assert check_error(answer, 503)["code"] == "busy"
            assert time.monotonic() < deadline


def post(server: RunningServer, body: bytes, path: str = "/api/chat/private") -> httpx.Response:
    return server.http.post(path, content=body, headers={"Content-Type": "application/json"})


def test_what_was_read_gives_its_room_back_while_it_is_answered(tight: RunningServer) -> None:
    asked = {"messages": [{"role": "user", "content": "你好"}], "stream": True, "ignore_eos": True, "max_tokens": 3000}
    body = padded(asked, LARGE)
    headers = {"Content-Type": "application/json"}
    with ExitStack() as held:
        # Let go, one would end its stream.
        streams = []
        for _ in range(3):
            answer = held.enter_context(
                tight.http.stream("POST", "/v1/chat/completions", content=body, headers=headers)
            )
            assert answer.status_code == 200
            streams.append(answer.iter_lines())
            assert next(streams[-1]).startswith("data: ")


def test_a_body_may_take_its_time_but_not_crawl(tight: RunningServer) -> None:
    """Two seconds are the window of this server: the first takes longer in all, the second never sends enough."""
    body = padded(private_body("你好", user="steady", context_only=True), 600_000)
    with connect(tight) as wire:
        wire.sendall(head(JSON, f"Content-Length: {len(body)}", "Connection: close"))
        for start in range(0, len(body), 40_000):
            time.sleep(0.2)
            wire.sendall(body[start : start + 40_000])
        assert wire.recv(65536).startswith(b"HTTP/1.1 200")
    with connect(tight) as wire:
        wire.sendall(head(JSON, f"Content-Length: {len(body)}"))
        with suppress(ConnectionError):
            while True:
                wire.sendall(b" ")
                wire.settimeout(0.1)
                with suppress(TimeoutError):
                    assert wire.recv(65536).startswith(b"HTTP/1.1 408")
                    break


def test_many_large_bodies_at_once_are_all_answered_or_told_to_come_back(tight: RunningServer) -> None:
    def ask(number: int) -> httpx.Response:
        body = padded(private_body("你好", user=f"heavy{number}", context_only=True), LARGE)
        with httpx.Client(base_url=tight.base, timeout=60, trust_env=False) as http:
            return http.post("/api/chat/private", content=body, headers={"Content-Type": "application/json"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert 200 in {answer.status_code for answer in answers}
    for answer in answers:
        if answer.status_code != 200:
            assert check_error(answer, 503)["code"] == "busy"


@pytest.mark.anyio
async def test_nobody_has_more_than_his_share_of_the_room() -> None:
    pool = Pool(100)
    await pool.take("greedy", 70)
    more = asyncio.create_task(pool.take("greedy", 20))
    await asyncio.sleep(0)
    await pool.take("other", 20)
    assert not more.done()
    pool.give("greedy", 70)
    await more


@pytest.mark.anyio
async def test_one_that_goes_away_while_it_waits_takes_no_room() -> None:
    pool = Pool(100)
    await pool.take("first", 1000)
    for given in (False, True):
        waiting = asyncio.create_task(pool.take("second", 60))
        await asyncio.sleep(0)
        if given:
            pool.give("first", 1000)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await pool.take("third", 75)


@pytest.mark.anyio
async def test_one_that_waits_too_long_is_told_to_come_back() -> None:
    pool = Pool(100, patience_s=0.01)
    await pool.take("first", 1000)
    with pytest.raises(Busy):
        await pool.take("second", 1)
    pool.give("first", 1000)
    await pool.take("third", 75)
