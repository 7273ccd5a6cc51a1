"""Pictures that callers of the bare model hand in or point at, checked and kept. Knows no door and no pixels."""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from qqvl_server.errors import ImageRejected
from qqvl_server.media.image import ImageRef, decode_base64
from qqvl_server.media.library import ImageLibrary

_SCHEME: Final = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]{0,31}):")
_DATA_URI: Final = re.compile(r"\s*data:([^,]{0,256}),", re.IGNORECASE)
# Most of the time they wait for the decoder, which lets fewer slow pictures wait than there are threads here.
_WORKERS: Final = 24


class Fetcher(Protocol):
    def fetched(self, url: str) -> AbstractAsyncContextManager[bytes]:
        """The bytes behind an http(s) address. Raises ImageRejected: not allowed, or not to be had."""
        ...


class Pictures:
    """``model_access.PictureIntake`` over the library on disk; whatever blocks runs in a worker thread.

    Raises, besides ImageRejected, StorageFailed: the disk would not take the picture, and Busy: too much is
    being fetched.
    """

    def __init__(self, library: ImageLibrary, fetcher: Fetcher) -> None:
        self._library = library
        self._fetcher = fetcher
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="qqvl-intake")

    async def from_url(self, url: str) -> ImageRef:
        """A ``data:`` URI, an http(s) address (if fetching is allowed), or bare base64."""
        scheme = _SCHEME.match(url)
        match scheme[1].lower() if scheme else "":
            case "":
                return await self.from_base64(url)
            case "data":
                return await self._kept(lambda: self._library.add(self._inline(url)))
            case "http" | "https":
                async with self._fetcher.fetched(url.strip()) as data:
                    return await self._kept(lambda: self._library.add(data))
        raise ImageRejected("图片地址只能以 http://、https:// 或 data: 开头，本机文件请转成 base64")

    async def from_base64(self, data: str) -> ImageRef:
        """Base64 as clients really send it: line breaks, URL-safe letters and missing padding are forgiven."""
        return await self._kept(lambda: self._library.add_base64(data))

    async def _kept(self, add: Callable[[], ImageRef]) -> ImageRef:
        return await asyncio.get_running_loop().run_in_executor(self._workers, add)

    def _inline(self, uri: str) -> bytes:
        most = self._library.limits.max_bytes
        header = _DATA_URI.match(uri)
        if header is None:
            raise ImageRejected("data: 地址写法不对，应像 data:image/png;base64,…")
        if "%" not in uri[header.end() :]:
            return decode_base64(uri, most)
        if len(uri) > most * 3:
            raise ImageRejected(f"图片太大，最多 {most / 1_000_000:g} MB")
        body = urllib.parse.unquote_to_bytes(uri[header.end() :])
        return decode_base64(body.decode("latin-1"), most) if ";base64" in header[1].lower() else body
