"""/api/page/conversations…: talks with the model that the server keeps, so that every browser shows the same."""

from __future__ import annotations

import urllib.parse
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from qqvl_server.api import error_bodies, sse
from qqvl_server.api.body import read_object
from qqvl_server.api.document import request_body
from qqvl_server.api.door import Door, Lock
from qqvl_server.api.faults import request_id_of
from qqvl_server.api.model_access import Caller, PictureIntake
from qqvl_server.api.page import render, toolset
from qqvl_server.api.page.schema import ConversationBody, Nothing, SayBody, TalkSampling, kept
from qqvl_server.api.validation import bad, validated
from qqvl_server.chat.conversations.running import Running, Told
from qqvl_server.chat.conversations.talking import Saying, Talking
from qqvl_server.chat.conversations.values import Conversation, Said, ToolResult, Wishes
from qqvl_server.generation.port import Thinking
from qqvl_server.keys import Scope
from qqvl_server.media.image import ImageRef

OWNER: Final = "owner"
"""Whose conversations all are who may do everything: by the link at home, by the key from outside."""
_PATH: Final = "/api/page/conversations"
_HASH: Final = "sha256:"


@dataclass(frozen=True, slots=True)
class Talks:
    talking: Talking
    pictures: PictureIntake
    max_images: int


def whose(request: Request) -> str:
    caller: Caller = request.scope["qqvl.caller"]
    return OWNER if Scope.ADMIN in caller.scopes else caller.name


def wishes_of(conversation: Conversation, context: int) -> Wishes:
    """The voice's own of what is kept with a conversation; another version may have kept more."""
    read = TalkSampling.model_validate(dict(conversation.sampling), strict=False)
    tools, choice = toolset.read(conversation.tools)
    return Wishes(
        read.sampling(read.max_tokens or context, None), Thinking(enabled=read.enable_thinking), tools, choice
    )


def build(talks: Talks) -> Door:
    router = APIRouter(tags=["conversations"], prefix=_PATH)
    _add_lists(router, talks)
    _add_one(router, talks)
    _add_saying(router, talks)
    return Door("page", (_PATH,), Scope.OPENAI, router, error_bodies.own, lock=Lock.ALL)


def _add_lists(router: APIRouter, talks: Talks) -> None:
    store = talks.talking.store

    @router.get("")
    async def conversations(
        request: Request,
        q: str = Query("", max_length=200),
        before: float | None = Query(None),
        limit: int = Query(50, ge=1, le=200),
    ) -> dict[str, Any]:
        """The newest first; ``q`` looks in titles and in what was said; ``next`` is the next page's ``before``."""
        found = await store.listed(whose(request), q.strip(), before, limit)
        listed = [
            render.conversation(one.conversation, running=talks.talking.find(one.conversation.id) is not None)
            | {"preview": one.preview, "messages": one.messages}
            for one in found
        ]
        return {"conversations": listed, "next": listed[-1]["updated_at"] if len(listed) == limit else None}

    @router.post("", openapi_extra=request_body(ConversationBody))
    async def begin(request: Request) -> Response:
        body = validated(ConversationBody, await read_object(request))
        made = await store.create(whose(request), (body.title or "").strip(), kept(body))
        return JSONResponse(render.conversation(made, running=False))

    @router.delete("")
    async def forget_all(request: Request) -> dict[str, int]:
        """Deletes all of mine."""
        return {"deleted": await talks.talking.delete(whose(request), None)}


def _add_one(router: APIRouter, talks: Talks) -> None:
    store = talks.talking.store

    @router.get("/{conversation_id}")
    async def conversation(request: Request, conversation_id: str) -> dict[str, Any]:
        """With its messages, all branches; one that is being made as far as it has come."""
        found = await store.find(whose(request), conversation_id)
        said = await store.messages(whose(request), conversation_id)
        running = talks.talking.find(conversation_id)
        return render.conversation(found, running=running is not None) | {
            "messages": [render.message(_newest(one, running)) for one in said]
        }

    @router.post("/{conversation_id}", openapi_extra=request_body(ConversationBody))
    async def change(request: Request, conversation_id: str) -> dict[str, Any]:
        """What is not named stays."""
        body = validated(ConversationBody, await read_object(request))
        values = kept(body) | body.model_dump(exclude_none=True, include={"title", "head"})
        changed = await store.change(whose(request), conversation_id, values)
        return render.conversation(changed, running=talks.talking.find(conversation_id) is not None)

    @router.delete("/{conversation_id}")
    async def forget(request: Request, conversation_id: str) -> dict[str, int]:
        return {"deleted": await talks.talking.delete(whose(request), conversation_id)}

    @router.get("/{conversation_id}/export")
    async def export(
        request: Request, conversation_id: str, kind: Literal["json", "markdown"] = Query("markdown", alias="format")
    ) -> Response:
        """A file to take away: the branch that is shown as Markdown, or all branches as JSON."""
        found = await store.find(whose(request), conversation_id)
        said = await store.messages(whose(request), conversation_id)
        text = render.as_json(found, said) if kind == "json" else render.as_markdown(found, said)
        media, ending = ("application/json", "json") if kind == "json" else ("text/markdown", "md")
        name = urllib.parse.quote(f"{found.title or 'qqvl'}.{ending}", safe="")
        headers = {"Content-Disposition": f"attachment; filename=\"qqvl.{ending}\"; filename*=UTF-8''{name}"}
        return Response(text, headers=headers, media_type=f"{media}; charset=utf-8")


def _add_saying(router: APIRouter, talks: Talks) -> None:
    @router.post("/{conversation_id}/reply", openapi_extra=request_body(SayBody))
    async def reply(request: Request, conversation_id: str) -> Response:
        """Say something and be answered by events; the answer is kept, whether anybody stays to read it or not."""
        body = validated(SayBody, await read_object(request))
        images = await _pictures(talks, whose(request), conversation_id, body.images)
        results = tuple(ToolResult(one.tool_call_id, one.content) for one in body.tool_results)
        saying = Saying(request_id_of(request), body.parent, body.text, images, results, body.key)
        running = await talks.talking.say(whose(request), conversation_id, saying)
        return await _stream(running, running.asked)

    @router.get("/{conversation_id}/events")
    async def events(request: Request, conversation_id: str) -> Response:
        """The answer that is being made: first as far as it has come, then its events; ``idle`` where none is."""
        await talks.talking.store.find(whose(request), conversation_id)
        running = talks.talking.find(conversation_id)
        if running is None:
            return Response(render.event("idle", {}), media_type="text/event-stream")
        return await _stream(running, None)

    @router.post("/{conversation_id}/stop", openapi_extra=request_body(Nothing))
    async def stop(request: Request, conversation_id: str) -> dict[str, bool]:
        return {"stopped": await talks.talking.stop(whose(request), conversation_id)}


def _newest(said: Said, running: Running | None) -> Said:
    return running.said if running is not None and running.said.id == said.id else said


async def _stream(running: Running, asked: Said | None) -> Response:
    said, following = running.watch()
    return sse.EventStream(await sse.begun(_events(asked, said, following)), render.failure)


async def _events(asked: Said | None, said: Said, following: AsyncGenerator[Told, None]) -> AsyncGenerator[str, None]:
    yield render.start(asked, said)
    async for item in following:
        yield render.told(item)


async def _pictures(talks: Talks, owner: str, conversation_id: str, given: Sequence[str]) -> tuple[ImageRef, ...]:
    """Raises InvalidRequest, ImageRejected: too many, or one that cannot be used."""
    if len(given) > talks.max_images:
        raise bad("images", f"最多 {talks.max_images} 张（has too many items）")
    known: dict[str, ImageRef] = {}
    if any(one.startswith(_HASH) for one in given):
        said = await talks.talking.store.messages(owner, conversation_id)
        known = {image.sha256: image for one in said for image in one.images}
    found = []
    for one in given:
        if one.startswith(_HASH):
            image = known.get(one.removeprefix(_HASH))
            if image is None:
                raise bad("images", "里的 sha256 不是这个对话里的图片（names no picture of this conversation）")
            found.append(image)
        else:
            found.append(await talks.pictures.from_url(one))
    return tuple(found)
