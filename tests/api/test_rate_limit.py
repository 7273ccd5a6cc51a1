"""Callers who ask too often wait; others do not wait with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qqvl_server.api.guard import bucket
from qqvl_server.api.model_access import Caller
from qqvl_server.api.rate import RateLimit, RateStore
from qqvl_server.errors import ConfigError, RateLimited
from tests.databases import Redis
from tests.databases import redis as running_redis
from tests.running import RunningServer, private_body

ASK = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 1}


def test_each_key_has_its_own_allowance(tmp_path: Path) -> None:
    keys = {"QQVL_API_KEYS": "sk-one,sk-two"}
    with RunningServer(tmp_path / "data", "--rate-limit", "3/hour", env=keys) as server:

        def ask(key: str) -> int:
            return server.http.post("/v1/chat/completions", json=ASK, headers={"x-api-key": key}).status_code

        assert [ask("sk-one") for _ in range(4)] == [200, 200, 200, 429]
        assert ask("sk-two") == 200
        refused = server.http.post("/v1/chat/completions", json=ASK, headers={"x-api-key": "sk-one"})
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 0 < int(refused.headers["Retry-After"]) <= 3600
        # One relay brings all chats, and each has its own.
        for user in ("1", "2"):
            body = private_body("/reset", user=user)
            told = [server.http.post("/api/chat/private", json=body, headers={"x-api-key": "sk-one"}) for _ in range(4)]
            assert [answer.status_code for answer in told] == [200, 200, 200, 429]
            assert told[-1].json()["error"]["code"] == "rate_limit_exceeded"
            assert 0 < int(told[-1].headers["Retry-After"]) <= 3600
        recall = {"user_id": "1", "message_id": "5"}
        assert server.http.post("/api/chat/private/recall", json=recall, headers={"x-api-key": "sk-one"}).is_success
        wrong = [server.http.post("/api/chat/group", json={}, headers={"x-api-key": "sk-one"}) for _ in range(4)]
        assert [answer.status_code for answer in wrong] == [400, 400, 400, 429]
        # Nor has a caller as much as he can invent chats.
        recalls = [{"user_id": f"invented-{number}", "message_id": "5"} for number in range(150)]
        told = [server.http.post("/api/chat/private/recall", json=r, headers={"x-api-key": "sk-two"}) for r in recalls]
        assert all(answer.is_success for answer in told)
        recalls[0]["user_id"] = "invented-150"
        one_more = server.http.post("/api/chat/private/recall", json=recalls[0], headers={"x-api-key": "sk-two"})
        assert (one_more.status_code, "所有会话合起来最多 150 次" in one_more.text) == (429, True)
        assert ask("sk-two") == 200
        # Looking after the server is never limited.
        assert server.http.get("/health").status_code == 200
        assert server.http.get("/v1/models", headers={"x-api-key": "sk-one"}).status_code == 200


@pytest.mark.anyio
async def test_a_clock_set_back_refuses_nobody_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = RateLimit("1/minute")
    await limit.count("somebody")
    with pytest.raises(RateLimited):
        await limit.count("somebody")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 30 * 86400)
    await limit.count("somebody")
    with pytest.raises(RateLimited) as refused:
        await limit.count("somebody")
    assert refused.value.retry_after <= 120


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with running_redis() as started:
        yield started


RULES = ("3/hour", "3/hour", "3/hour", "1/hour")


async def asked(limit: RateLimit, times: int) -> list[bool]:
    """Whether each of so many requests was let in."""
    told = []
    for _ in range(times):
        try:
            await limit.count("张三")
            told.append(True)
        except RateLimited as refused:
            # Let in, or told to come back in a time that is none of the rule's: both are wrong.
            told.append(not 0 < refused.retry_after <= 7200)
    return told


@pytest.mark.anyio
async def test_servers_count_together_and_each_for_itself_while_the_store_is_away(
    redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = [RateStore(redis.url) for _ in range(4)]
    one, other, back, frozen = (RateLimit(rule, shared=store) for rule, store in zip(RULES, stores, strict=True))
    assert await asked(one, 2) == [True, True]
    assert await asked(other, 2) == [True, False]
    assert await asked(one, 1) == [False]
    assert not capsys.readouterr().out
    redis.stop()
    try:
        assert await asked(one, 4) == [True, True, True, False]
        assert capsys.readouterr().out.count("Redis 连不上") == 1
    finally:
        redis.start()
    # One that knows of no absence asks it at once.
    assert await asked(back, 4) == [True, True, True, False]
    with redis.frozen():
        async with asyncio.timeout(30):
            assert await asked(frozen, 2) == [True, False]
    for store in stores:
        await store.aclose()


@pytest.mark.parametrize("url", ["http://127.0.0.1", "redis", "redis://[", "memcached://127.0.0.1"])
def test_an_address_that_is_no_redis_is_one_line(url: str) -> None:
    with pytest.raises(ConfigError, match="redis://"):
        RateStore(url)


def test_one_who_has_many_addresses_is_still_one() -> None:
    """Of IPv6 everybody has a /64 at the least; the same IPv4 address may come in two spellings."""

    def of(address: str, name: str = "open") -> str:
        return bucket({"qqvl.caller": Caller(name), "client": (address, 1)})

    assert of("2001:db8::1") == of("2001:db8::ffff:1") != of("2001:db8:0:1::1")
    assert of("::ffff:192.0.2.1") == of("192.0.2.1") != of("192.0.2.2")
    assert of("fe80::1%eth0") == of("fe80::2%eth0")
    assert of("192.0.2.1", "key") == of("192.0.2.2", "key") == "key"
