"""DELETE /api/page/tries/{chat_id}: a played group is thrown away. It is played at the QQ door itself."""

from __future__ import annotations

from fastapi import APIRouter

from qqvl_server.api import error_bodies
from qqvl_server.api.door import Door, Lock
from qqvl_server.chat.care import Care
from qqvl_server.chat.message import ChatKey, ChatKind
from qqvl_server.errors import NotFound
from qqvl_server.keys import Scope


def build(care: Care) -> Door:
    router = APIRouter(tags=["page"])

    @router.delete("/api/page/tries/{chat_id}")
    async def forget(chat_id: str) -> dict[str, bool]:
        """Whatever is kept of a played group. Its id begins with ``try-``; a day after its last line it goes anyway."""
        chat = ChatKey(ChatKind.GROUP, chat_id)
        if not chat.is_trial:
            raise NotFound("试玩的群号以 try- 开头；真的群不在这里删")
        await care.throw_away(chat)
        return {"deleted": True}

    return Door("page", ("/api/page/tries",), Scope.ADMIN, router, error_bodies.own, lock=Lock.ALL)
