"""The HTTP application: every door mounted, every error mapped, every dependency an argument."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qqvl_server import errors
from qqvl_server.api import faults
from qqvl_server.api.admin import routes as admin
from qqvl_server.api.anthropic import routes as anthropic
from qqvl_server.api.desk import Desk
from qqvl_server.api.guard import Guard
from qqvl_server.api.openai import routes as openai
from qqvl_server.api.qq import routes as qq
from qqvl_server.api.responses import routes as responses
from qqvl_server.chat.service import ChatService
from qqvl_server.generation.port import VoiceStatus
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ServerSettings

Endpoint = Callable[[Request], Awaitable[Response]]


def build(
    service: ChatService,
    desk: Desk,
    settings: ServerSettings,
    metrics: Metrics,
    status: Callable[[], tuple[str, VoiceStatus]],
) -> Guard:
    """Args:
    status: the word ``/health`` says now (healthy, loading, stopping, dead, or the storage's trouble) and the voice's
        state.
    """
    # A redirect to a path without its last slash would be to wherever the Host header says.
    app = FastAPI(title="qqvl", docs_url=None, redoc_url=None, openapi_url="/openapi.json", redirect_slashes=False)
    doors = (
        qq.build(service),
        openai.build(desk),
        responses.build(desk),
        anthropic.build(desk),
        admin.build(service, status, metrics),
    )
    for door in doors:
        app.include_router(door)
    app.add_exception_handler(errors.QqvlError, faults.on_error)
    app.add_exception_handler(HTTPException, faults.on_router_error)
    app.add_exception_handler(RequestValidationError, _on_bad_query)
    app.add_exception_handler(Exception, faults.on_bug)
    direct = {
        route.path: route.endpoint
        for door in doors
        for route in door.routes
        if isinstance(route, APIRoute) and "POST" in (route.methods or ())
    }
    # By the document, not by ``direct``: a POST that goes the framework's way needs its bounds as well.
    posts = frozenset(path for path, methods in app.openapi()["paths"].items() if "post" in methods)
    return Guard(Direct(direct, app), posts, settings, metrics)


class Direct:
    """Calls what answers a POST at once; everything else goes through the framework, ``app``, a HEAD as its GET.

    Its layers take longer than a small model's token, and there is nothing in them for us: doors read, validate and
    answer by themselves.
    """

    def __init__(self, posts: Mapping[str, Endpoint], app: ASGIApp) -> None:
        self._posts = posts
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            await self._app({**scope, "method": "GET"}, receive, _without_body(send))
            return
        endpoint = self._posts.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except errors.QqvlError as error:
            response = faults.answer_to(request, error)
        except Exception as error:
            # The outermost edge of a request, as the framework's is for the others.
            response = await faults.on_bug(request, error)
        await response(scope, receive, send)


def _without_body(send: Send) -> Send:
    """RFC 9110, 9.3.2: the headers are those of the GET, ``Content-Length`` among them."""

    async def sent(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return sent


def opened_to_pages(guard: Guard, settings: ServerSettings) -> ASGIApp:
    """``guard`` behind the CORS headers that let pages of the allowed origins read its answers; alone if none is.

    Outside the guard, because a browser asks first without a key, and reads no refusal that lacks the headers.
    """
    if not settings.allowed_origins:
        return guard
    return CORSMiddleware(
        guard,
        allow_origins=settings.allowed_origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=("X-Request-ID", "Retry-After", "X-Qqvl-Warning"),
    )


async def _on_bad_query(request: Request, _error: Exception) -> Response:
    # FastAPI's own answer would echo the input.
    return faults.answer_to(request, errors.InvalidRequest("查询参数不对，请检查名字和取值"))
