"""/api/page/plays: groups that were played in the browser, kept for any browser and for ``qqvl try`` to play again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from qqvl_server.api import error_bodies
from qqvl_server.api.body import read_object
from qqvl_server.api.document import request_body
from qqvl_server.api.door import Door, Lock
from qqvl_server.api.validation import bad
from qqvl_server.chat.plays import Plays
from qqvl_server.chat.playscript import Script, parsed
from qqvl_server.keys import Scope

_PATH = "/api/page/plays"
_LONGEST = 80


def build(plays: Plays) -> Door:
    router = APIRouter(tags=["page"], prefix=_PATH)

    @router.get("")
    async def listed() -> dict[str, Any]:
        """What is kept, the newest first."""
        return {"plays": [asdict(one) for one in await plays.all()]}

    @router.post("", openapi_extra=request_body(Script))
    async def keep(request: Request) -> Response:
        """A whole script, as ``qqvl try`` reads it; it takes the place of the one of its name."""
        script = await read_object(request)
        read = parsed(script)
        name = read.name.strip()
        if not name or len(name) > _LONGEST:
            raise bad("name", f"脚本要有名字，最多 {_LONGEST} 字（must be a name）")
        return JSONResponse(asdict(await plays.keep(name, len(read.lines), script | {"name": name})))

    @router.get("/{play_id}")
    async def play(play_id: str) -> dict[str, Any]:
        """The script."""
        return await plays.get(play_id)

    @router.delete("/{play_id}")
    async def forget(play_id: str) -> dict[str, bool]:
        await plays.delete(play_id)
        return {"deleted": True}

    return Door("page", (_PATH,), Scope.ADMIN, router, error_bodies.own, lock=Lock.ALL)
