"""Pictures behind http(s) addresses, from public hosts only. Knows addresses and bytes; not what a picture is.

Every name is resolved once, all of its addresses are judged, and one of those is dialled by number: a name that
answers differently the second time changes nothing. Redirects are followed by hand, each judged anew.
"""

from __future__ import annotations

import asyncio
import functools
import re
import ssl
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final, Literal

import httpx

from qqvl_server.errors import Busy, ImageRejected
from qqvl_server.media.addresses import SystemResolver, is_address, is_public

Resolver = Callable[[str], Awaitable[Sequence[str]]]

_MAX_REDIRECTS: Final = 3
_MAX_URL: Final = 8192
_CONNECT_S: Final = 5
# Slow hosts hold places: one of them may not hold all.
_PLACES: Final = 64
_PLACES_A_HOST: Final = 8
# Of all pictures that are being fetched or wait to be looked at.
_MAX_HELD_BYTES: Final = 256_000_000
_PORTS: Final = {"http": 80, "https": 443}
_HEADERS: Final = {"User-Agent": "qqvl", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}

# What RFC 9110 §8.4.1 and its registry call codings of a body. Object stores write other things there (``utf-8``,
# ``aws-chunked``, ``binary``), and send the picture as it is.
_COMPRESSIONS: Final = frozenset(("gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd", "dcb", "dcz"))
_WHOLE: Final = re.compile(r"bytes 0-(\d{1,15})/(\d{1,15})", re.IGNORECASE)

_UNKNOWN: Final = "图片地址不能访问：找不到这个主机，或者它不是公网地址"


class Fetcher:
    """One per server; ``max_bytes`` bounds one picture, ``timeout_s`` one fetch from first to last.

    Args:
        mode: ``public`` fetches from public addresses and from ``allow``, ``listed`` from ``allow`` alone.
        allow: ``HOST`` (any port) or ``HOST:PORT`` that may be fetched from wherever it points.
        resolve: a name's addresses as text, none if it has none; the system's by default.
        tls: what certificates are judged by; the usual authorities by default.
    """

    def __init__(
        self,
        mode: Literal["public", "listed", "off"],
        allow: Iterable[str],
        max_bytes: int,
        timeout_s: float,
        *,
        resolve: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._mode = mode
        self._allow = frozenset(_host_and_port(word) for word in allow)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._resolve = resolve or SystemResolver()
        self._tls = tls
        self._held = 0
        self._places = asyncio.Semaphore(_PLACES)
        self._hosts: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()

    @asynccontextmanager
    async def fetched(self, url: str) -> AsyncIterator[bytes]:
        """The bytes behind ``url``, counted as held until the block ends.

        Raises:
            ImageRejected: not allowed, not to be had, too large or too slow.
            Busy: too many bytes are held already.
        """
        if self._mode == "off":
            raise ImageRejected("本服务不取网络图片，请把图片转成 base64（data: 地址）再发")
        body = bytearray()
        try:
            await self._fill(body, _parsed(url))
            yield bytes(body)
        finally:
            self._held -= len(body)

    async def _fill(self, body: bytearray, url: httpx.URL) -> None:
        host = self._hosts.setdefault(_name(url), asyncio.Semaphore(_PLACES_A_HOST))
        try:
            async with asyncio.timeout(self._timeout_s), host, self._places:
                await self._follow(body, url)
        except TimeoutError:
            raise ImageRejected("取图片超时，对方太慢") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise ImageRejected("取不到图片，连不上对方或对方没有好好回答") from error

    async def _follow(self, body: bytearray, url: httpx.URL) -> None:
        for _ in range(_MAX_REDIRECTS + 1):
            addresses = await self._judged(url)
            target = await self._get(body, url, addresses)
            if target is None:
                return
            url = _parsed(target, base=url)
        raise ImageRejected(f"图片地址转了太多次，最多 {_MAX_REDIRECTS} 次")

    async def _judged(self, url: httpx.URL) -> Sequence[str]:
        """The addresses that may be dialled for ``url``."""
        host, port = _name(url), url.port or _PORTS[url.scheme]
        listed = bool({(host, port), (host, None)} & self._allow)
        if not listed and self._mode == "listed":
            raise ImageRejected("这个图片地址不在允许的名单里，请把图片转成 base64（data: 地址）再发")
        if not listed and port not in _PORTS.values():
            raise ImageRejected("图片地址只能用 80 和 443 端口")
        addresses = (host,) if is_address(host) else await self._resolve(host)
        if not addresses or not (listed or all(is_public(word) for word in addresses)):
            raise ImageRejected(_UNKNOWN)
        return addresses

    async def _get(self, body: bytearray, url: httpx.URL, addresses: Sequence[str]) -> str | None:
        """Fill ``body``, or say where to look instead."""
        failed: httpx.TransportError | None = None
        for address in addresses[:3]:
            try:
                return await self._dial(body, url, address)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failed = error
        assert failed is not None
        raise failed

    async def _dial(self, body: bytearray, url: httpx.URL, address: str) -> str | None:
        if self._tls is None:
            # Reading the authorities takes tens of milliseconds.
            with ThreadPoolExecutor(1, thread_name_prefix="qqvl-tls") as reader:
                make = functools.partial(httpx.create_ssl_context, trust_env=False)
                self._tls = await asyncio.get_running_loop().run_in_executor(reader, make)
        limits = httpx.Limits(max_keepalive_connections=0)
        async with (
            httpx.AsyncClient(
                verify=self._tls, trust_env=False, limits=limits, timeout=httpx.Timeout(None, connect=_CONNECT_S)
            ) as client,
            client.stream(
                "GET",
                url.copy_with(host=address, fragment=None),
                headers=_HEADERS | {"Host": url.netloc.decode("ascii")},
                extensions={"sni_hostname": _name(url)},
            ) as answer,
        ):
            if answer.is_redirect and "location" in answer.headers:
                return answer.headers["location"]
            await self._read(body, answer)
            return None

    async def _read(self, body: bytearray, answer: httpx.Response) -> None:
        if answer.status_code != 200 and not _is_whole(answer):
            raise ImageRejected(f"取不到图片，对方回答 HTTP {answer.status_code}")
        codings = {word.strip().lower() for word in answer.headers.get("content-encoding", "").split(",")}
        if codings & _COMPRESSIONS:
            raise ImageRejected("取不到图片，对方给的是压缩过的内容")
        length = answer.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._max_bytes:
            raise self._too_large()
        async for chunk in answer.aiter_raw():
            self._held += len(chunk)
            body += chunk
            if len(body) > self._max_bytes:
                raise self._too_large()
            if self._held > _MAX_HELD_BYTES:
                raise Busy("同时在取的图片太多，请稍后再试", retry_after=2)

    def _too_large(self) -> ImageRejected:
        return ImageRejected(f"图片太大，最多 {self._max_bytes / 1_000_000:g} MB")


def _is_whole(answer: httpx.Response) -> bool:
    """Whether this is a part that nobody asked for and that is all (RFC 9110 §14.4)."""
    span = _WHOLE.fullmatch(answer.headers.get("content-range", ""))
    return answer.status_code == 206 and span is not None and int(span[1]) + 1 == int(span[2])


def _parsed(url: str, base: httpx.URL | None = None) -> httpx.URL:
    """The one reading of an address: what is judged is what is dialled."""
    if len(url) > _MAX_URL:
        raise ImageRejected(f"图片地址太长，最多 {_MAX_URL} 个字符")
    try:
        parsed = base.join(url) if base is not None else httpx.URL(url)
        host = _name(parsed)
    except (httpx.InvalidURL, ValueError) as error:
        raise ImageRejected("图片地址写法不对") from error
    if parsed.scheme not in _PORTS or not host:
        raise ImageRejected("图片地址只能以 http:// 或 https:// 开头")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise ImageRejected("图片地址写法不对")
    if parsed.userinfo:
        raise ImageRejected("图片地址里不能带用户名和密码")
    return parsed


def _host_and_port(word: str) -> tuple[str, int | None]:
    # A scheme without a port of its own: under http:// the port 80 would read as none.
    url = httpx.URL(f"any://{word}")
    return _name(url), url.port


def _name(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii").rstrip(".")
