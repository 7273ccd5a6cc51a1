"""A message's pictures are looked at, once each and off the event loop; what is left of it can be stored."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from qqvl_server.chat.identity import Identity, has_pictures, identify
from qqvl_server.chat.message import EncodedPicture, Incoming, LostPicture, MessagePart, Picture
from qqvl_server.errors import ImageRejected, InvalidRequest
from qqvl_server.media.image import ImageRef

_LOOKING_THREADS: Final = 24


class PictureBook(Protocol):
    """What the chat needs of the image library; both calls block."""

    def add_base64(self, text: str) -> ImageRef: ...
    def holds(self, ref: ImageRef) -> bool: ...


@dataclass(frozen=True, slots=True)
class Received:
    """Parts after their pictures were looked at, and what went wrong on the way."""

    parts: tuple[MessagePart, ...]
    warnings: tuple[str, ...]


class Receiver:
    """``most`` pictures of a message are looked at."""

    def __init__(self, pictures: PictureBook, most: int) -> None:
        self._pictures = pictures
        self._most = most
        # Most of the time they wait for the decoder, which lets fewer slow pictures wait than there are threads here.
        self._looking = ThreadPoolExecutor(_LOOKING_THREADS, thread_name_prefix="qqvl-looking")

    async def received(self, incoming: Incoming) -> Received:
        """Raises:
        InvalidRequest: nothing readable is left of the message.
        Busy, Draining, StorageFailed: as the image library.
        """
        if not any(isinstance(part, EncodedPicture) for part in incoming.parts):
            # Words wait for nobody's pictures.
            return self._receive(incoming)
        return await asyncio.get_running_loop().run_in_executor(self._looking, self._receive, incoming)

    async def identified(self, incoming: Incoming) -> Identity | None:
        """Pictures are decoded and hashed off the event loop."""
        if not has_pictures(incoming):
            return identify(incoming)
        return await asyncio.get_running_loop().run_in_executor(self._looking, identify, incoming)

    def close(self) -> None:
        self._looking.shutdown(wait=False, cancel_futures=True)

    def _receive(self, incoming: Incoming) -> Received:
        """Blocking, where there are pictures."""
        parts: list[MessagePart] = []
        warnings: list[str] = []
        seen = 0
        for part in incoming.parts:
            if not isinstance(part, EncodedPicture):
                parts.append(part)
                continue
            seen += 1
            if seen > self._most:
                continue
            try:
                image = self._pictures.add_base64(part.data)
                parts.append(Picture(image, part.quoted))
                if image.share < 1:
                    warnings.append(f"第 {seen} 张图的文件不完整，只看到约 {min(image.share, 0.99):.0%}")
            except ImageRejected as error:
                warnings.append(f"第 {seen} 张图没有看到：{error.message}")
                parts.append(LostPicture())
        if seen > self._most:
            warnings.append(f"一条消息最多看 {self._most} 张图，后面 {seen - self._most} 张没有看")
        if not incoming.text and not any(isinstance(part, Picture) for part in parts):
            raise InvalidRequest("；".join(warnings) if warnings else "消息是空的：没有文字也没有图片")
        return Received(tuple(parts), tuple(warnings))
