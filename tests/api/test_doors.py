"""A door is a value: whoever has one more adds it to the tuple, and no list of paths elsewhere knows of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from qqvl_server.api import error_bodies, server
from qqvl_server.api.body import read_object
from qqvl_server.api.door import Door
from qqvl_server.errors import InvalidRequest, QqvlError
from qqvl_server.keys import Scope
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ServerSettings

pytestmark = pytest.mark.anyio
KEYS = ("qq=sk-qq", "openai=sk-openai", "admin=sk-admin")


def told(error: QqvlError, _request_id: str) -> dict[str, Any]:
    return {"page": error.code}


def page(prefix: str, name: str = "page", scope: Scope = Scope.ADMIN) -> Door:
    """A page, a form it sends, and one of its things by name."""
    router = APIRouter()

    @router.get(prefix)
    async def shown() -> Response:
        return Response(name)

    @router.post(f"{prefix}/form")
    async def sent(request: Request) -> Response:
        return JSONResponse(await read_object(request))

    @router.post(f"{prefix}/things/{{thing}}")
    async def changed(thing: str, request: Request) -> Response:
        if thing == "odd":
            raise InvalidRequest("这样不行")
        return JSONResponse({thing: await read_object(request)})

    return Door(name, (prefix,), scope, router, told, in_the_open=frozenset({f"{prefix}/open"}))


@asynccontextmanager
async def house(*doors: Door, metrics: Metrics | None = None) -> AsyncIterator[httpx.AsyncClient]:
    guard = server.build(doors, ServerSettings(api_keys=KEYS), metrics or Metrics())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://127.0.0.1") as http:
        yield http


def key(name: str) -> dict[str, str]:
    return {"x-api-key": f"sk-{name}"}


async def test_one_door_more_is_guarded_answered_counted_and_told_of_as_it_says() -> None:
    metrics = Metrics()
    async with house(page("/page"), metrics=metrics) as http:
        assert (await http.get("/page", headers=key("admin"))).text == "page"
        for path in ("/page/form", "/page/things/one"):
            answer = await http.post(path, json={"a": 1}, headers=key("admin"))
            assert answer.json() == ({"a": 1} if path.endswith("form") else {"one": {"a": 1}})
            # Its bodies are read by the same rules as any other's: bounded, JSON.
            answer = await http.post(path, content=b"a=1", headers=key("admin"))
            assert (answer.status_code, answer.json()) == (415, {"page": "unsupported_media_type"})
        for status, asked in ((401, {}), (403, key("qq")), (403, key("openai"))):
            answer = await http.get("/page/nothing", headers=asked)
            assert answer.status_code == status
            assert set(answer.json()) == {"page"}
        answer = await http.post("/page/things/odd", json={}, headers=key("admin"))
        assert (answer.status_code, set(answer.json())) == (400, {"page"})
        # Without a key past the guard; the router has nothing there.
        assert (await http.get("/page/open")).status_code == 404
        # What is nobody's.
        assert set((await http.get("/other", headers=key("qq"))).json()) == {"error"}
    figures = metrics.render().decode()
    assert 'door="page",status="403"' in figures
    assert 'door="other",status="404"' in figures


@pytest.mark.parametrize("turned", [False, True])
async def test_the_longest_prefix_says_whose_a_path_is_whatever_the_order(turned: bool) -> None:
    doors = (page("/a", "wide", Scope.QQ), page("/a/b", "narrow", Scope.OPENAI))
    async with house(*(doors[::-1] if turned else doors)) as http:
        assert (await http.get("/a", headers=key("qq"))).text == "wide"
        assert (await http.get("/a/b", headers=key("openai"))).text == "narrow"
        assert (await http.get("/a/b", headers=key("qq"))).status_code == 403
        # No prefix ends within a word.
        assert (await http.get("/a/bc", headers=key("openai"))).status_code == 403


def stray() -> APIRouter:
    router = APIRouter()
    router.add_api_route("/elsewhere", lambda: None)
    return router


def hidden() -> APIRouter:
    router = APIRouter()
    router.mount("/page/files", FastAPI())
    return router


@pytest.mark.parametrize("router", [stray(), hidden()], ids=["stray", "hidden"])
def test_a_door_with_a_route_that_nobody_guards_is_none(router: APIRouter) -> None:
    with pytest.raises(ValueError, match="page"):
        Door("page", ("/page",), Scope.ADMIN, router, error_bodies.own)


@pytest.mark.parametrize("doors", [(page("/a"), page("/a/things", "nested"))])
def test_no_door_has_a_route_behind_another_ones_prefix(doors: Sequence[Door]) -> None:
    with pytest.raises(ValueError, match="page"):
        server.build(doors, ServerSettings(), Metrics())
