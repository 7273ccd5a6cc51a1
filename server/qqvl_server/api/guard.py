"""What every request passes before a route sees it: id, host, origin, key, and a body of bounded size and time.

A plain ASGI layer: it decides on ``scope["path"]`` alone (a Host header can be made to change ``request.url``),
denies by default, and decides before it reads a byte of the body.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
import uuid
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from qqvl_server import errors, keys
from qqvl_server.api.door import Door, at
from qqvl_server.api.facts import facts_of
from qqvl_server.api.faults import Faults
from qqvl_server.api.intake import Intake
from qqvl_server.api.model_access import Caller
from qqvl_server.api.rate import RateLimit, RateStore
from qqvl_server.api.visitors import Visitors, address, is_forwarded, is_near
from qqvl_server.hosts import is_loopback
from qqvl_server.keys import Scope
from qqvl_server.observe.logs import Seldom, logger
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ServerSettings
from qqvl_server.signin import SignIn

# So many chats may use up their allowance at once. Ids are a caller's to invent, and each would have its own.
_CHATS: Final = 50
# The label of paths without a door.
_NOBODYS: Final = "other"
LOG_IN: Final = (
    "要先登录：在运行服务器的那台机器上执行 qqvl page（从源码运行是 ./run_server.sh page），打开它给的网址；"
    "程序请带 Authorization: Bearer <data_dir 里 page.key 的内容>"
)
# What a caller may name its request, so that its own log and ours are read together.
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{8,64}")
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


class Guard:
    """Whose a path is and who may come in there, ``doors`` say."""

    def __init__(
        self,
        app: ASGIApp,
        doors: Sequence[Door],
        faults: Faults,
        settings: ServerSettings,
        metrics: Metrics,
        sign_in: SignIn | None = None,
    ) -> None:
        self._app = app
        self._doors = doors
        self._posts = frozenset(path for door in doors for path in door.posts())
        self._faults = faults
        self._settings = settings
        self._metrics = metrics
        self._keys = keys.parse(settings.api_keys)
        self._visitors = Visitors(self._keys, sign_in)
        self._warning = Seldom(3600)
        shared = RateStore(settings.rate_store_url) if settings.rate_store_url else None
        self._rate = RateLimit(settings.rate_limit, shared=shared)
        self._rate_of_chats = RateLimit(settings.rate_limit, _CHATS, "一个调用者的所有会话合起来", shared)
        self._intake = Intake(settings)
        self._answering = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Until no request that came whole waits for the rest of its answer."""
        await self._idle.wait()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope["qqvl.request_id"] = _name_of(scope)
        facts = facts_of(scope)
        started = time.monotonic()
        status: int | None = None

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self._admit(scope, receive, send_named)
        except errors.QqvlError as error:
            response = self._faults.respond(error, request_id, scope["path"])
            facts["code"] = error.code
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
                await self._faults.respond(stopping, request_id, scope["path"])(scope, receive, send_named)
        except Exception:
            # The outermost edge: ``faults.on_bug`` has logged it and answered; uvicorn would log it again.
            if status is None:
                raise
        finally:
            door = at(self._doors, scope["path"])
            self._metrics.http_requests.labels(door.name if door is not None else _NOBODYS, str(status)).inc()
            if "code" in facts:
                self._metrics.errors.labels(facts["code"]).inc()
            # Supervisors ask /health every few seconds for ever.
            log = logger().debug if door is not None and door.is_open(scope["path"]) else logger().info
            log(
                "请求", method=scope["method"], path=scope["path"], status=status,
                ms=round((time.monotonic() - started) * 1000), request_id=request_id,
                **facts,
            )  # fmt: skip

    async def _admit(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._check_framing(headers)
        self._check_host(headers)
        self._check_origin(headers)
        scope["qqvl.caller"] = self._caller(scope, headers)
        # At any other path only the router's refusal follows, whatever is sent.
        if scope["method"] != "POST" or not self._reads_body(scope["path"]):
            await self._app(scope, receive, send)
            return
        who = bucket(scope)
        await self._count(scope, who)
        self._check_content(headers)
        length = headers.get("content-length", "")
        body = await self._intake.read(receive, who, int(length) if length.isdecimal() else 0)
        scope["qqvl.body"] = body
        try:
            await self._answer(scope, body.replayed(receive), send)
        finally:
            body.close()

    async def _count(self, scope: AsgiScope, who: str) -> None:
        door = at(self._doors, scope["path"])
        if door is not None and door.counts_by_itself:
            scope["qqvl.count"] = lambda whose: self._count_chat(who, whose)
        else:
            await self._rate.count(who)

    async def _count_chat(self, who: str, whose: str) -> None:
        # What a busy chat has too many of is not to spend what the others share.
        await self._rate.count(f"{who} {whose}")
        await self._rate_of_chats.count(who)

    def _reads_body(self, path: str) -> bool:
        if path in self._posts:
            return True
        door = at(self._doors, path)
        return door is not None and door.reads_body(path)

    async def _answer(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        self._answering += 1
        self._idle.clear()
        try:
            await self._app(scope, receive, send)
        finally:
            self._answering -= 1
            if not self._answering:
                self._idle.set()

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
        if origin is None or origin.partition("://")[2] == headers.get("host"):
            return
        if not {"*", origin} & set(self._settings.allowed_origins):
            raise errors.Forbidden("不接受来自其他网页的请求；要让某个网页能用，请设置 allowed_origins")

    def _caller(self, scope: AsgiScope, headers: Headers) -> Caller:
        # Any key may learn that a path is nobody's.
        door = at(self._doors, scope["path"])
        needed = door.scope if door is not None else None
        known = self._visitors.find(scope, headers)
        if door is not None and door.is_open(scope["path"]):
            return known or Caller("open")
        if known is not None:
            if needed is not None and needed not in known.scopes:
                raise errors.Forbidden("这把密钥不能用于这个接口")
            return known
        if self._keys:
            raise errors.Unauthorized("需要正确的密钥：请在请求头里带 Authorization: Bearer <密钥>")
        if is_forwarded(scope) and self._warning.due():
            logger().warning("有请求经反向代理转来，而没有设置密钥：能访问那个代理的人都能用模型。请设置 QQVL_API_KEYS")
        if needed is Scope.ADMIN and not is_near(scope):
            raise errors.Forbidden(
                "没有设置密钥时，这个接口只对本机的直接访问开放；从别处或经反向代理访问，请设置 api_keys"
            )
        if door is not None and door.is_locked(scope["method"]):
            raise errors.Unauthorized(LOG_IN)
        return Caller("open")

    def _check_content(self, headers: Headers) -> None:
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise errors.UnsupportedMedia("不接受压缩过的请求体，请去掉 Content-Encoding")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise errors.UnsupportedMedia("请求体应是 JSON，请带 Content-Type: application/json")
        length = headers.get("content-length", "0")
        if length.isdecimal():
            self._intake.check_length(int(length))

    async def _swallow(self, receive: Receive) -> None:
        """Throw away a bounded rest of the body: a client still sending would see a reset instead of our answer."""
        left = self._settings.max_body_mb * 4_000_000
        try:
            # A client that stopped sending waits for our answer: it need not wait long.
            async with asyncio.timeout(10), asyncio.timeout(1) as pause:
                while left > 0:
                    message = await receive()
                    if not message.get("more_body", False):
                        return
                    pause.reschedule(asyncio.get_running_loop().time() + 1)
                    left -= len(message.get("body", b""))
        except TimeoutError:
            return


def bucket(scope: AsgiScope) -> str:
    """To whom limits count a request: the key, or the address; of IPv6 the /64, which one caller has all of."""
    caller, where = scope["qqvl.caller"], address(scope)
    if caller.name != "open":
        return str(caller.name)
    if ":" not in where:
        return where
    network = ipaddress.ip_address(where.partition("%")[0])
    mapped = network.ipv4_mapped if isinstance(network, ipaddress.IPv6Address) else None
    return str(mapped or ipaddress.ip_network((int(network), 64), strict=False))


def _name_of(scope: AsgiScope) -> str:
    told = Headers(scope=scope).get("x-request-id", "")
    return told if _NAME.fullmatch(told) else f"req-{uuid.uuid4().hex[:20]}"


def _is_ambiguous(headers: Headers) -> bool:
    return "content-length" in headers and "transfer-encoding" in headers
