"""GET /api/page/images/{sha256}: pictures that were sent, for who may see where they were sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from qqvl_server.api import error_bodies
from qqvl_server.api.door import Door, Lock
from qqvl_server.api.model_access import Caller
from qqvl_server.errors import NotFound
from qqvl_server.keys import Scope

# What browsers draw; everything else they may but save.
_KINDS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"), (b"BM", "image/bmp"),
)  # fmt: skip
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=86400, immutable",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def build(read: Callable[[str], bytes | None], shows: Callable[[str, str], Awaitable[bool]]) -> Door:
    """``read`` is blocking and gives a picture's bytes by its hash; ``shows`` says whether it is in one of a caller's
    conversations."""
    router = APIRouter(tags=["conversations"])

    @router.get("/api/page/images/{sha256}")
    async def image(request: Request, sha256: str) -> Response:
        """A picture as it came. Whoever may see everything sees every picture, others those of their conversations."""
        caller: Caller = request.scope["qqvl.caller"]
        is_shown = Scope.ADMIN in caller.scopes or await shows(caller.name, sha256)
        data = await asyncio.to_thread(read, sha256) if is_shown else None
        if data is None:
            raise NotFound("没有这张图片，或它已经过期清掉了")
        kind = kind_of(data)
        named = {} if kind else {"Content-Disposition": f'attachment; filename="{sha256[:12]}"'}
        return Response(data, headers=_HEADERS | named, media_type=kind or "application/octet-stream")

    return Door("page", ("/api/page/images",), Scope.OPENAI, router, error_bodies.own, lock=Lock.ALL)


def kind_of(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for mark, kind in _KINDS if data.startswith(mark)), None)
