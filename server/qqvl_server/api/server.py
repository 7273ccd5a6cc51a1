"""The HTTP application: the doors it is given mounted behind the guard, every error mapped. Names no door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qqvl_server import errors
from qqvl_server.api import error_bodies
from qqvl_server.api.door import Door, Endpoint, at
from qqvl_server.api.faults import Faults
from qqvl_server.api.guard import Guard
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ServerSettings
from qqvl_server.signin import SignIn


def build(doors: Sequence[Door], settings: ServerSettings, metrics: Metrics, sign_in: SignIn | None = None) -> Guard:
    """``sign_in`` lets browsers in by a cookie.

    Raises ValueError: a route lies where another of the doors says who may come in.
    """
    for door in doors:
        for path in door.paths:
            if at(doors, path) is not door:
                raise ValueError(f"the door {door.name} has a route behind another one's prefix: {path}")
    # A redirect to a path without its last slash would be to wherever the Host header says.
    app = FastAPI(title="qqvl", docs_url=None, redoc_url=None, openapi_url="/openapi.json", redirect_slashes=False)
    faults = Faults(doors, error_bodies.openai)
    for door in doors:
        app.include_router(door.router)
    app.add_exception_handler(errors.QqvlError, faults.on_error)
    app.add_exception_handler(HTTPException, faults.on_router_error)
    app.add_exception_handler(RequestValidationError, faults.on_bad_query)
    app.add_exception_handler(Exception, faults.on_bug)
    posts = {path: endpoint for door in doors for path, endpoint in door.posts().items()}
    return Guard(Direct(posts, app, faults), doors, faults, settings, metrics, sign_in)


class Direct:
    """Calls what answers a POST at once; everything else goes through the framework, ``app``, a HEAD as its GET.

    Its layers take longer than a small model's token, and there is nothing in them for us: doors read, validate and
    answer by themselves.
    """

    def __init__(self, posts: Mapping[str, Endpoint], app: ASGIApp, faults: Faults) -> None:
        self._posts = posts
        self._app = app
        self._faults = faults

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
            response = self._faults.answer_to(request, error)
        except Exception as error:
            # The outermost edge of a request, as the framework's is for the others.
            response = await self._faults.on_bug(request, error)
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
