"""POST /api/client/status: how the client that relays QQ finds its line, and what it gets to know of us for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from qqvl_server.api import error_bodies
from qqvl_server.api.body import read_object
from qqvl_server.api.document import request_body
from qqvl_server.api.door import Door
from qqvl_server.api.validation import validated
from qqvl_server.errors import QqvlError
from qqvl_server.keys import Scope
from qqvl_server.observe.links import Links


def _as_id(value: object) -> object:
    """Ids come as strings or numbers; one that is not known yet is null, empty or left out."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else "" if value is None else value


class ClientStatus(BaseModel):
    """``link``: whether what is sent now would reach QQ."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    self_id: Annotated[str, BeforeValidator(_as_id), Field(max_length=64)] = ""
    link: Literal["up", "down"]
    reason: str = Field("", max_length=200)


class StatusReply(BaseModel):
    """``ready``: whether a message would be taken now."""

    status: Literal["success"] = "success"
    ready: bool


def build(links: Links, is_ready: Callable[[], bool]) -> Door:
    router = APIRouter(prefix="/api/client", tags=["qq"])

    @router.post("/status", openapi_extra=request_body(ClientStatus), response_model=StatusReply)
    async def status(request: Request) -> Response:
        try:
            told = validated(ClientStatus, await read_object(request))
        except QqvlError:
            await request.scope["qqvl.count"]("")
            raise
        # Apart from what it relays, which it must not be kept from by telling that it can.
        await request.scope["qqvl.count"](f"status {told.self_id}")
        links.told(told.self_id, is_up=told.link == "up", reason=told.reason)
        return Response(StatusReply(ready=is_ready()).model_dump_json(), media_type="application/json")

    return Door("qq", ("/api/client",), Scope.QQ, router, error_bodies.own, counts_by_itself=True)
