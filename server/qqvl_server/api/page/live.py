"""GET /api/page/live: the server's state as events, the last minutes first, then once a second."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from qqvl_server.api import error_bodies, sse
from qqvl_server.api.door import Door, Lock
from qqvl_server.errors import QqvlError
from qqvl_server.keys import Scope
from qqvl_server.observe.pulse import Pulse


def build(pulse: Pulse, is_stopping: Callable[[], bool]) -> Door:
    router = APIRouter(tags=["page"])

    @router.get("/api/page/live")
    async def live() -> Response:
        """``history`` holds the last five minutes' states, then each ``state`` comes by itself."""
        return sse.EventStream(await sse.begun(_events(pulse, is_stopping)), _failure)

    return Door("page", ("/api/page/live",), Scope.ADMIN, router, error_bodies.own, lock=Lock.ALL)


async def _events(pulse: Pulse, is_stopping: Callable[[], bool]) -> AsyncGenerator[str, None]:
    yield _event("history", {"states": pulse.states})
    async with aclosing(pulse.follow()) as states:
        async for state in states:
            yield _event("state", state)
            if is_stopping():
                return


def _failure(error: QqvlError) -> str:
    return _event("error", {"error": {"code": error.code, "message": error.message}})


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
