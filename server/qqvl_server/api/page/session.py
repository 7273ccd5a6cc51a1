"""/api/page/session: who is there, signing in by a key or a link's token, signing out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from qqvl_server import invocation, keys
from qqvl_server.api import error_bodies
from qqvl_server.api.body import read_object
from qqvl_server.api.cookies import clear_cookie, set_cookie
from qqvl_server.api.document import request_body
from qqvl_server.api.door import Door, Lock
from qqvl_server.api.fields import Model
from qqvl_server.api.model_access import Caller
from qqvl_server.api.validation import bad, validated
from qqvl_server.api.visitors import EVERYTHING, is_near
from qqvl_server.errors import Unauthorized
from qqvl_server.keys import ApiKey, Scope
from qqvl_server.signin import LOCAL, SignIn
from qqvl_server.version import VERSION


class SignInBody(Model):
    """One of the two."""

    key: str | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Desk:
    """What the page is told once somebody has signed in: ``told`` gives the model's name, limits and state."""

    sign_in: SignIn
    keys: Sequence[ApiKey]
    told: Callable[[], dict[str, Any]]


def build(desk: Desk) -> Door:
    router = APIRouter(tags=["page"])
    path = "/api/page/session"

    @router.get(path)
    async def session(request: Request) -> Response:
        """Who the page is open for. Never refused: ``signed_in`` says what may be asked of the others."""
        caller: Caller = request.scope["qqvl.caller"]
        response = JSONResponse(_seen(desk, request, caller))
        if desk.sign_in.cookie_name in request.cookies and caller.scopes:
            set_cookie(response, request, desk.sign_in, caller.name)
        return response

    @router.post(path, openapi_extra=request_body(SignInBody))
    async def enter(request: Request) -> Response:
        """Sign in by a key, or by the token of a link that was not used yet."""
        caller = _let_in(desk, request, validated(SignInBody, await read_object(request)))
        response = JSONResponse(_seen(desk, request, caller))
        set_cookie(response, request, desk.sign_in, caller.name)
        return response

    @router.delete(path)
    async def leave() -> Response:
        response = JSONResponse({"signed_in": False})
        clear_cookie(response, desk.sign_in)
        return response

    open_to_all = frozenset({path})
    return Door("page", ("/api/page",), Scope.OPENAI, router, error_bodies.own, in_the_open=open_to_all, lock=Lock.ALL)


def _let_in(desk: Desk, request: Request, body: SignInBody) -> Caller:
    """Raises InvalidRequest, Unauthorized."""
    if (body.key is None) == (body.token is None):
        raise bad("key", "和 token 要给且只能给一个（exactly one of key and token is required）")
    if body.token is not None:
        if not is_near(request.scope) or not desk.sign_in.redeem(body.token):
            raise Unauthorized("这个网址用过了或过期了：在运行服务器的那台机器上执行 qqvl page，打开它给的新网址")
        return Caller(LOCAL, EVERYTHING)
    key = keys.find(desk.keys, [(body.key or "").strip().encode("utf-8", "surrogatepass")])
    if key is None or not key.scopes & {Scope.OPENAI, Scope.ADMIN}:
        raise Unauthorized("密钥不对，或不能用来打开网页")
    return Caller(key.name, key.scopes)


def _seen(desk: Desk, request: Request, caller: Caller) -> dict[str, Any]:
    everyone = {
        "signed_in": bool(caller.scopes),
        "loopback": is_near(request.scope),
        "keys_set": bool(desk.keys),
        # It may name folders of this machine, which are no business of others.
        "command": invocation.command("page") if is_near(request.scope) else None,
        "version": VERSION,
    }
    if not caller.scopes:
        return everyone
    owner = Scope.ADMIN in caller.scopes
    return everyone | {"who": caller.name, "scopes": sorted(caller.scopes), "owner": owner} | desk.told()
