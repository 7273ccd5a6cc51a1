"""One picture: from whatever a segment says about it to bytes of a known format. Local paths are never read."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from qqvl_client.errors import LineError, PictureError, PictureTooLargeError
from qqvl_client.formats import INLINE, decode_inline, format_of
from qqvl_client.message import Picture
from qqvl_client.settings import Settings, is_loopback
from qqvl_client.videos import length_of

LOG = logging.getLogger("qqvl.images")
RESOLVE = Callable[[], Awaitable[Mapping[str, Any]]]
"""Asks the OneBot implementation for a fresh address of the file."""
COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "br", "compress", "x-compress", "zstd", "dcb", "dcz"})
"""RFC 9110 8.4.1 and later registrations. Object stores write other things there ("UTF-8"), which change no byte."""
VIDEO_PART = 65_536
"""Bytes of a video's start, and of its end, among which its length is looked for."""
VIDEO_S = 3
_WHOLE = re.compile(r"bytes 0-(\d+)/(\d+)$")


def _is_inside(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return is_loopback(host)
    return not address.is_global


class PictureFetcher:
    """Fetches pictures within the limits of the settings."""

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._max_bytes = int(settings.picture_max_mb * 1_000_000)
        tls = ssl.create_default_context()
        # Some QQ picture hosts still need ciphers that OpenSSL 3 leaves out; certificates are checked all the same.
        tls.set_ciphers("DEFAULT:@SECLEVEL=1")
        timeout = httpx.Timeout(settings.picture_stall_s, connect=settings.connect_timeout_s)
        # Proxy variables are for model downloads; a dead one must not cost the bot its eyes.
        self._http = httpx.AsyncClient(
            transport=transport, verify=tls, timeout=timeout, trust_env=False, proxy=settings.proxy or None
        )
        self._direct = httpx.AsyncClient(transport=transport, verify=tls, timeout=timeout, trust_env=False)

    async def aclose(self) -> None:
        await self._http.aclose()
        await self._direct.aclose()

    async def fetch(self, data: Mapping[str, Any], resolve: RESOLVE | None) -> Picture:
        """The picture a segment's data names; raises PictureError with a note for the model."""
        problem = PictureError("没有可用的地址")
        for source in _sources(data):
            try:
                return await self._load(source)
            except PictureTooLargeError:
                raise
            except PictureError as error:
                problem = error
        if resolve is None:
            raise problem
        try:
            fresh = await resolve()
        except LineError as error:
            LOG.info("没有问到图片的新地址：%s", error)
            raise problem from None
        # `file` of the answer is a path on NapCat's machine: never read, not even when it is ours.
        for source in _sources({"url": fresh.get("url"), "base64": fresh.get("base64")}):
            return await self._load(source)
        raise problem

    async def video_length(self, data: Mapping[str, Any]) -> float | None:
        """A video's length in seconds, from the start or the end of its file; nothing where that does not tell."""
        url = next((source for source in _sources(data) if source.lower().startswith("http")), "")
        try:
            async with asyncio.timeout(VIDEO_S if url else 0):
                for part in (f"bytes=0-{VIDEO_PART - 1}", f"bytes=-{VIDEO_PART}"):
                    headers = {"Accept-Encoding": "identity", "Range": part}
                    if (length := length_of(await self._download(url, headers, _head_of))) is not None:
                        return length
        except (PictureError, TimeoutError):
            pass
        return None

    async def _load(self, source: str) -> Picture:
        if source.lower().startswith(INLINE):
            # A picture of megabytes takes its time to decode.
            body = await asyncio.to_thread(decode_inline, source, self._max_bytes)
        else:
            try:
                async with asyncio.timeout(self._settings.picture_timeout_s):
                    body = await self._download(source, {"Accept-Encoding": "identity"}, self._body)
            except TimeoutError:
                raise PictureError("下载超时") from None
        found = format_of(body)
        if not found:
            raise PictureError("不是能识别的图片")
        return Picture(body, found)

    async def _download(
        self, url: str, headers: Mapping[str, str], read: Callable[[httpx.Response], Awaitable[bytes]]
    ) -> bytes:
        for _ in range(self._settings.picture_redirects + 1):
            client = self._direct if is_loopback(urlsplit(url).hostname) else self._http
            try:
                async with client.stream("GET", url, headers=headers) as answer:
                    if not answer.is_redirect:
                        return await read(answer)
                    url = _redirected(answer)
            except httpx.TimeoutException:
                raise PictureError("下载超时") from None
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
                LOG.debug("取图片失败：%r", error)
                raise PictureError("下载失败") from None
        raise PictureError("跳转次数过多")

    async def _body(self, answer: httpx.Response) -> bytes:
        if answer.status_code not in (200, 203, 206):
            await self._log_refusal(answer)
            raise PictureError("链接已失效" if answer.status_code in (400, 403, 404, 410) else "下载失败")
        declared = answer.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            raise PictureTooLargeError
        # An encoded body could unfold to any size between two checks, and pictures gain nothing by it.
        codings = answer.headers.get("content-encoding", "").lower().split(",")
        if COMPRESSIONS & {coding.strip() for coding in codings}:
            raise PictureError("下载失败")
        body = bytearray()
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > self._max_bytes:
                raise PictureTooLargeError
        if answer.status_code == 206 and not _is_whole(answer.headers.get("content-range", ""), len(body)):
            raise PictureError("下载失败")
        return bytes(body)

    async def _log_refusal(self, answer: httpx.Response) -> None:
        head = b""
        async for chunk in answer.aiter_raw():
            head += chunk
            if len(head) >= 200:
                break
        LOG.info("图片主机回答 %d：%s", answer.status_code, head[:200].decode("utf-8", "replace"))


async def _head_of(answer: httpx.Response) -> bytes:
    """So much of a file as was asked for, also from a host that sends all of it."""
    if answer.status_code not in (200, 206):
        raise PictureError("下载失败")
    head = bytearray()
    async for chunk in answer.aiter_raw():
        head += chunk
        if len(head) >= VIDEO_PART:
            break
    return bytes(head)


def _is_whole(content_range: str, length: int) -> bool:
    """Whether a part that nobody asked for is all there is."""
    found = _WHOLE.match(content_range.strip())
    return found is not None and int(found[1]) + 1 == int(found[2]) == length


def _sources(data: Mapping[str, Any]) -> list[str]:
    if isinstance(encoded := data.get("base64"), str) and encoded:
        return [encoded if encoded.lower().startswith(INLINE) else f"base64://{encoded}"]
    found = [data.get("url"), data.get("file")]
    schemes = ("http://", "https://", *INLINE)
    texts = [s.strip() for s in found if isinstance(s, str)]
    return list(dict.fromkeys(s for s in texts if s[:10].lower().startswith(schemes)))


def _redirected(answer: httpx.Response) -> str:
    target = answer.url.join(answer.headers["location"])
    if target.scheme not in ("http", "https"):
        raise PictureError("跳转到了不允许的地址")
    # A public page must not point us at services behind the owner's firewall.
    if _is_inside(target.host) and not _is_inside(answer.url.host):
        raise PictureError("跳转到了不允许的地址")
    return str(target)
