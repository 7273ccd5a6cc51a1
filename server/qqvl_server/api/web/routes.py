"""GET /, /try, /bot and their files; /docs, which reads the API's document. Holds nothing of anybody's: open to all.

What a built page needs lies in ``static/`` (made from ``web/`` at the top of the checkout), ``docs/`` is written by
hand. A link with ``?token=`` is redeemed here, for a cookie, and sent on to the address without it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from qqvl_server.api import error_bodies
from qqvl_server.api.cookies import set_cookie
from qqvl_server.api.door import Door
from qqvl_server.api.visitors import is_near
from qqvl_server.api.web.files import File, Files
from qqvl_server.errors import NotFound
from qqvl_server.keys import Scope
from qqvl_server.signin import LOCAL, SignIn

_POLICY: Final = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data: blob:",
    "font-src 'self'", "connect-src 'self'", "worker-src 'self'", "manifest-src 'self'", "base-uri 'none'",
    "form-action 'self'", "frame-ancestors 'none'",
))  # fmt: skip
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_FOR_EVER: Final = {"Cache-Control": "public, max-age=31536000, immutable"}
_PAGES: Final = ("/", "/try", "/bot", "/c/{rest:path}", "/try/{rest:path}", "/bot/{rest:path}")
_NOT_BUILT: Final = """<!doctype html><html lang="zh-CN"><meta charset="utf-8"><title>qqvl</title>
<h1>网页还没有做好</h1>
<p>服务器在正常工作，只是缺网页的文件。从源码运行时，在 <code>web/</code> 里执行
<code>npm ci &amp;&amp; npm run build</code>，再刷新这一页。</p>
<p>接口都能用：<a href="/docs">接口文档</a>。</p>
<p lang="en">The server is fine, but the page's files are missing: run <code>npm ci &amp;&amp; npm run build</code>
in <code>web/</code>, then reload.</p></html>
"""


def build(sign_in: SignIn, static: Path = Path(__file__).parent / "static") -> Door:
    """``static`` is where the built files are."""
    router = APIRouter(tags=["page"], include_in_schema=False)
    built, own = Files(static), Files(Path(__file__).parent / "docs")

    async def page(request: Request) -> Response:
        token = request.query_params.get("token")
        if token is not None:
            return _redeemed(request, sign_in, token)
        shell = await asyncio.to_thread(built.get, "index.html")
        if shell is None:
            return Response(_NOT_BUILT, 503, _PAGE_HEADERS, "text/html; charset=utf-8")
        return _told(request, shell, _PAGE_HEADERS)

    for path in _PAGES:
        router.add_api_route(path, page, methods=["GET"])

    @router.get("/assets/{name}")
    async def asset(request: Request, name: str) -> Response:
        return _told(request, await asyncio.to_thread(built.get, "assets", name), _FOR_EVER)

    @router.get("/favicon.svg")
    @router.get("/favicon.ico")
    async def icon(request: Request) -> Response:
        return _told(request, await asyncio.to_thread(built.get, "favicon.svg"), {"Cache-Control": "max-age=86400"})

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        return _told(request, await asyncio.to_thread(own.get, "docs.html"), _PAGE_HEADERS)

    @router.get("/docs/{name}")
    async def docs_file(request: Request, name: str) -> Response:
        return _told(request, await asyncio.to_thread(own.get, name), _PAGE_HEADERS)

    prefixes = ("/", "/try", "/bot", "/c", "/assets", "/favicon.svg", "/favicon.ico", "/docs")
    return Door("web", prefixes, Scope.OPENAI, router, error_bodies.openai, is_public=True)


def _redeemed(request: Request, sign_in: SignIn, token: str) -> Response:
    path = request.scope["path"]
    if not is_near(request.scope) or not sign_in.redeem(token):
        return RedirectResponse(f"{path}?denied=1", 303)
    response = RedirectResponse(path, 303)
    set_cookie(response, request, sign_in, LOCAL)
    return response


def _told(request: Request, file: File | None, headers: dict[str, str]) -> Response:
    """Raises NotFound."""
    if file is None:
        raise NotFound("没有这个文件：网页更新过就刷新一次")
    tag = f'W/"{file.tag}"'
    headers = {**headers, "ETag": tag, "Vary": "Accept-Encoding"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    if file.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, 200, {**headers, "Content-Encoding": "gzip"}, file.kind)
    return Response(file.data, 200, headers, file.kind)
