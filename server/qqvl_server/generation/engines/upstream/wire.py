"""Upstreams over HTTP: no redirect, no cookie, no proxy of the environment's, and every answer has a bound."""

from __future__ import annotations

import asyncio
import http.cookiejar
import json
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import certifi
import httpx

from qqvl_server.generation.engines.upstream import setbacks
from qqvl_server.version import VERSION

LONGEST_LINE: Final = 1_000_000
"""Bytes of one event: sixteen choices of one token with twenty logprobs each take a tenth of it."""
_LONGEST_ERROR: Final = 65_536
_LONGEST_ANSWER: Final = 8_000_000
_CONNECT_S: Final = 5
_WRITE_S: Final = 60
_SLACK_S: Final = 1


@dataclass(frozen=True, slots=True)
class Told:
    """``value`` is the body as JSON, None where it is none."""

    status: int
    value: Any


class UpstreamHttp:
    """``key`` is sent to upstreams and shown to nobody."""

    def __init__(self, key: str, proxy: str) -> None:
        self.key = key
        headers = {"User-Agent": f"qqvl/{VERSION}", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        # A balancer's cookie would send every chat to the same place.
        jar = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self._client = httpx.AsyncClient(
            headers=headers,
            cookies=jar,
            verify=_trust(),
            trust_env=False,
            proxy=proxy or None,
            follow_redirects=False,
            # Whether an answer is late is for the caller's deadline to say: a long prompt is silent for minutes.
            timeout=httpx.Timeout(None, connect=_CONNECT_S, write=_WRITE_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30),
        )

    async def ask(self, url: str, body: Mapping[str, Any] | None = None, *, timeout_s: float) -> Told | None:
        """GET, or POST of ``body``; None where nothing answers in time."""
        try:
            async with asyncio.timeout(timeout_s):
                request = self._client.build_request("GET" if body is None else "POST", url, json=body)
                answer = await self._client.send(request, stream=True)
                try:
                    return Told(answer.status_code, _json(await _read(answer, _LONGEST_ANSWER)))
                finally:
                    await answer.aclose()
        except (httpx.HTTPError, httpx.StreamError, OSError):
            # TimeoutError is an OSError.
            return None

    @asynccontextmanager
    async def events(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[AsyncGenerator[dict[str, Any], None]]:
        """The objects of a stream of events, up to ``[DONE]`` or its end; leaving closes it, which stops the upstream.

        Raises:
            Setback, QqvlError: as ``setbacks``.
        """
        headers = {**headers, "Content-Type": "application/json", "Accept": "text/event-stream"}
        began = time.monotonic()
        try:
            async with self._client.stream("POST", url, content=body, headers=headers) as answer:
                if answer.status_code != 200:
                    said = await _read(answer, _LONGEST_ERROR)
                    raise setbacks.refused(answer.status_code, answer.headers, said, self.key)
                yield _objects(answer, self.key)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            ours = isinstance(error, httpx.ConnectTimeout) and is_our_delay(began, _CONNECT_S)
            raise setbacks.unreachable(type(error).__name__, is_fault=not ours) from None
        except (httpx.HTTPError, httpx.StreamError, OSError):
            raise setbacks.torn() from None

    async def aclose(self) -> None:
        await self._client.aclose()


def is_our_delay(began: float, patience_s: float) -> bool:
    """Whether a patience that began at ``began`` (``time.monotonic``) ended so late that it was us who had no time.

    On a crowded machine that says nothing of who was waited for.
    """
    return time.monotonic() - began > patience_s + _SLACK_S


def _trust() -> ssl.SSLContext:
    """The system's certificates too: a house's own is there, not among the web's."""
    context = ssl.create_default_context(cafile=certifi.where())
    context.load_default_certs()
    return context


async def _read(answer: httpx.Response, most: int) -> bytes:
    """As much of a body as anybody looks at."""
    found = bytearray()
    async for piece in answer.aiter_raw():
        found += piece
        if len(found) > most:
            break
    return bytes(found[:most])


async def _objects(answer: httpx.Response, key: str) -> AsyncGenerator[dict[str, Any], None]:
    async for line in _lines(answer):
        # Comments, names and ids of events say nothing here.
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        value = _json(data)
        if not isinstance(value, dict):
            raise setbacks.torn()
        if value.get("error"):
            raise setbacks.told_in_stream(value["error"], key)
        yield value


async def _lines(answer: httpx.Response) -> AsyncGenerator[bytes, None]:
    held = b""
    async for piece in answer.aiter_raw():
        *whole, held = (held + piece).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")
        if len(held) > LONGEST_LINE:
            raise setbacks.torn()
    if held:
        yield held.rstrip(b"\r")


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
