"""One picture: from whatever a segment says about it to bytes of a known format. Local paths are never read."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from qqvl_client.errors import LineError, PictureError, PictureTooLargeError
from qqvl_client.message import Picture
from qqvl_client.settings import Settings, is_loopback

LOG = logging.getLogger("qqvl.images")
INLINE = ("base64://", "data:")
RESOLVE = Callable[[str], Awaitable[Mapping[str, Any]]]
"""Asks the OneBot implementation for a fresh address of a file by its name (get_image)."""


def format_of(data: bytes) -> str | None:
    """What the bytes are, whatever the file's name says: QQ names GIFs .jpg."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    return None


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

    async def fetch(self, data: Mapping[str, Any], resolve: RESOLVE) -> Picture:
        """The picture a segment's data names; raises PictureError with a note for the model."""
        problem = PictureError("没有可用的地址")
        for source in _sources(data):
            try:
                return await self._load(source)
            except PictureTooLargeError:
                raise
            except PictureError as error:
                problem = error
        name = data.get("file")
        if not isinstance(name, str) or not name or name.startswith(INLINE):
            raise problem
        try:
            fresh = await resolve(name)
        except LineError as error:
            LOG.info("get_image 没有给出新地址：%s", error)
            raise problem from None
        # `file` of the answer is a path on NapCat's machine: never read, not even when it is ours.
        for source in _sources({"url": fresh.get("url"), "base64": fresh.get("base64")}):
            return await self._load(source)
        raise problem

    async def _load(self, source: str) -> Picture:
        if source.startswith(INLINE):
            body = self._inline(source)
        else:
            try:
                async with asyncio.timeout(self._settings.picture_timeout_s):
                    body = await self._download(source)
            except TimeoutError:
                raise PictureError("下载超时") from None
        found = format_of(body)
        if not found:
            raise PictureError("不是能识别的图片")
        return Picture(body, found)

    def _inline(self, source: str) -> bytes:
        encoded = source.removeprefix("base64://")
        if source.startswith("data:"):
            encoded = source.partition(",")[2]
        if len(encoded) * 3 // 4 > self._max_bytes:
            raise PictureTooLargeError
        try:
            return base64.b64decode(encoded)
        except (binascii.Error, ValueError):
            raise PictureError("编码有误") from None

    async def _download(self, url: str) -> bytes:
        for _ in range(self._settings.picture_redirects + 1):
            client = self._direct if is_loopback(urlsplit(url).hostname) else self._http
            try:
                async with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
                    if not answer.is_redirect:
                        return await self._body(answer)
                    url = _redirected(answer)
            except httpx.TimeoutException:
                raise PictureError("下载超时") from None
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
                LOG.debug("取图片失败：%r", error)
                raise PictureError("下载失败") from None
        raise PictureError("跳转次数过多")

    async def _body(self, answer: httpx.Response) -> bytes:
        if answer.status_code != 200:
            await self._log_refusal(answer)
            raise PictureError("链接已失效" if answer.status_code in (400, 403, 404, 410) else "下载失败")
        declared = answer.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            raise PictureTooLargeError
        # An encoded body could unfold to any size between two checks, and pictures gain nothing by it.
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise PictureError("下载失败")
        body = bytearray()
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > self._max_bytes:
                raise PictureTooLargeError
        return bytes(body)

    async def _log_refusal(self, answer: httpx.Response) -> None:
        head = b""
        async for chunk in answer.aiter_raw():
            head += chunk
            if len(head) >= 200:
                break
        LOG.info("图片主机回答 %d：%s", answer.status_code, head[:200].decode("utf-8", "replace"))


def _sources(data: Mapping[str, Any]) -> list[str]:
    if isinstance(encoded := data.get("base64"), str) and encoded:
        return [f"base64://{encoded}"]
    found = [data.get("url"), data.get("file")]
    schemes = ("http://", "https://", *INLINE)
    return list(dict.fromkeys(s for s in found if isinstance(s, str) and s.lower().startswith(schemes)))


def _redirected(answer: httpx.Response) -> str:
    target = answer.url.join(answer.headers["location"])
    if target.scheme not in ("http", "https"):
        raise PictureError("跳转到了不允许的地址")
    # A public page must not point us at services behind the owner's firewall.
    if _is_inside(target.host) and not _is_inside(answer.url.host):
        raise PictureError("跳转到了不允许的地址")
    return str(target)
