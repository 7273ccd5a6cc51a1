"""What every request passes before a route sees it: id, host, origin, key, and a body of bounded size and time.

A plain ASGI layer: it decides on ``scope["path"]`` alone (a Host header can be made to change ``request.url``),
denies by default, and decides before it reads a byte of the body.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
import uuid
from collections.abc import AsyncIterator
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qqvl_server import errors
from qqvl_server.api import faults
from qqvl_server.config import is_loopback
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ServerSettings

OPEN_PATHS: Final = frozenset({"/health"})
# Without a key these are for this machine only: they show what people said.
LOCAL_PREFIXES: Final = ("/admin", "/metrics", "/openapi.json")
_DOORS: Final = {"/api/chat/group": "qq", "/api/chat/private": "qq"}
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


class Guard:
    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._keys = tuple(key.encode() for key in settings.api_keys)
        self._buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req-{uuid.uuid4().hex[:20]}"
        scope["qqvl.request_id"] = request_id
        started = time.monotonic()
        status: int | None = None

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cache-Control"] = "no-store"
            await send(message)

        try:
            await self._admit(scope, receive, send_named)
        except errors.QqvlError as error:
            response = faults.respond(error, request_id)
            slow = isinstance(error, errors.BodyTimeout)
            if slow or _is_ambiguous(Headers(scope=scope)):
                # What follows on this connection may be the rest of this body, or a smuggled request.
                response.headers["Connection"] = "close"
            if scope["method"] in _WITH_BODY and not slow:
                await self._swallow(receive)
            await response(scope, receive, send_named)
        except asyncio.CancelledError:
            # uvicorn ends a stop by cancelling who still waits for a client; let through, it is logged as a bug.
            if status is None:
                stopping = errors.Draining("服务正在停止，请稍后再试", retry_after=5)
                await faults.respond(stopping, request_id)(scope, receive, send_named)
        except Exception:
            # The outermost edge: ``faults.on_bug`` has logged it and answered; uvicorn would log it again.
            if status is None:
                raise
        finally:
            door = _DOORS.get(scope["path"], "other")
            self._metrics.http_requests.labels(door, str(status)).inc()
            # Supervisors ask /health every few seconds for ever.
            log = logger().debug if scope["path"] in OPEN_PATHS else logger().info
            log(
                "请求", method=scope["method"], path=scope["path"], status=status,
                ms=round((time.monotonic() - started) * 1000), request_id=request_id,
            )  # fmt: skip

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._check_framing(headers)
        self._check_host(headers)
        self._check_origin(headers)
        self._check_key(scope, headers)
        if scope["method"] not in _WITH_BODY:
            await self._app(scope, receive, send)
            return
        self._check_content(headers)
        body = bytearray()
        try:
            await self._read(receive, body)
            await self._app(scope, _replay(bytes(body), receive), send)
        finally:
            self._buffered -= len(body)

    async def _read(self, receive: Receive, body: bytearray) -> None:
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                async for chunk in _chunks(receive):
                    self._buffered += len(chunk)
                    body += chunk
                    self._check_room(len(body))
        except TimeoutError:
            raise errors.BodyTimeout("请求体传得太慢，已断开", retry_after=1) from None

    def _check_framing(self, headers: Headers) -> None:
        # h11 takes both and keeps the connection, which is how requests are smuggled past a proxy.
        if _is_ambiguous(headers):
            raise errors.InvalidRequest("不能同时带 Content-Length 和 Transfer-Encoding")

    def _check_host(self, headers: Headers) -> None:
        """Against DNS rebinding: a web page can point its own name at this machine, but not an address."""
        if self._keys:
            return
        host = headers.get("host", "")
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if name.lower() in ("localhost", *(allowed.lower() for allowed in self._settings.allowed_hosts)):
            return
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            address = None
        if address is None or (is_loopback(self._settings.host) and not address.is_loopback):
            raise errors.Forbidden("Host 不在允许之列：请用 IP 或 localhost 访问，或设置 allowed_hosts / api_keys")

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            raise errors.Forbidden("不接受来自其他网页的请求")

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        path: str = scope["path"]
        if path in OPEN_PATHS:
            return
        if self._keys:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            given = token.strip(" \t") if scheme.lower() == "bearer" else headers.get("x-api-key", "")
            # Bytes (the framework reads headers as Latin-1), because compare_digest refuses non-ASCII text;
            # every key, so that time tells nothing.
            if not any([hmac.compare_digest(given.encode("latin-1"), key) for key in self._keys]):  # noqa: C419
                raise errors.Unauthorized("需要正确的密钥：请在请求头里带 Authorization: Bearer <密钥>")
        elif path.startswith(LOCAL_PREFIXES):
            client = scope.get("client")
            if client is None or not is_loopback(client[0]):
                raise errors.Forbidden("没有设置密钥时，这个接口只对本机开放")

    def _check_content(self, headers: Headers) -> None:
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise errors.UnsupportedMedia("不接受压缩过的请求体，请去掉 Content-Encoding")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise errors.UnsupportedMedia("请求体应是 JSON，请带 Content-Type: application/json")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._settings.max_body_mb * 1_000_000:
            raise self._too_large()

    def _check_room(self, size: int) -> None:
        if size > self._settings.max_body_mb * 1_000_000:
            raise self._too_large()
        if self._buffered > self._settings.max_buffered_mb * 1_000_000:
            raise errors.Busy("同时收到的内容太多，请稍后再试", retry_after=2)

    def _too_large(self) -> errors.PayloadTooLarge:
        return errors.PayloadTooLarge(f"请求体太大，最多 {self._settings.max_body_mb} MB")

    async def _swallow(self, receive: Receive) -> None:
        """Throw away a bounded rest of the body: a client still sending would see a reset instead of our answer."""
        left = self._settings.max_body_mb * 4_000_000
        try:
            # A client that stopped sending waits for our answer: it need not wait long.
            async with asyncio.timeout(10), asyncio.timeout(1) as pause:
                async for chunk in _chunks(receive):
                    pause.reschedule(asyncio.get_running_loop().time() + 1)
                    left -= len(chunk)
                    if left < 0:
                        return
        except (TimeoutError, errors.InvalidRequest):
            return


def _is_ambiguous(headers: Headers) -> bool:
    return "content-length" in headers and "transfer-encoding" in headers


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise errors.InvalidRequest("请求体没有传完")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
