"""Errors become HTTP here and nowhere else: one table of statuses, and each door's own body. Names no door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from qqvl_server import errors
from qqvl_server.api.door import Door, ErrorBody, at
from qqvl_server.api.facts import facts_of
from qqvl_server.api.paths import meant
from qqvl_server.observe.logs import logger

STATUS: Final[dict[type[errors.QqvlError], int]] = {
    errors.InvalidRequest: 400,
    errors.ImageRejected: 400,
    errors.PromptTooLong: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.BodyTimeout: 408,
    errors.Conflict: 409,
    errors.PayloadTooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.RateLimited: 429,
    errors.Busy: 503,
    errors.Loading: 503,
    errors.Draining: 503,
    errors.Away: 503,
    errors.DeadlineExceeded: 504,
    errors.GenerationFailed: 500,
    errors.UpstreamFailed: 502,
    errors.EngineDead: 503,
    errors.StorageFailed: 503,
}

# What the router itself refuses, before a route of ours runs.
_ROUTER: Final[dict[int, errors.QqvlError]] = {
    404: errors.NotFound("没有这个接口，请检查地址是否写对"),
    405: errors.MethodNotAllowed("这个接口不支持这种请求方法"),
}


def status_of(error: errors.QqvlError) -> int:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


class Faults:
    """The errors of a house with these ``doors``; what is nobody's is told as ``by_default`` does."""

    def __init__(self, doors: Sequence[Door], by_default: ErrorBody) -> None:
        self._doors = doors
        self._by_default = by_default
        self._paths = frozenset(path for door in doors for path in door.paths)

    def respond(self, error: errors.QqvlError, request_id: str, path: str) -> Response:
        """The error as the door at ``path`` tells it."""
        status = status_of(error)
        headers = {}
        if isinstance(error, errors.CapacityError):
            headers["Retry-After"] = str(error.retry_after)
        elif status == 503:
            headers["Retry-After"] = "5"
        if isinstance(error, errors.Unauthorized):
            headers["WWW-Authenticate"] = "Bearer"
        door = at(self._doors, path)
        body = door.error_body if door is not None else self._by_default
        return JSONResponse(body(error, request_id), status, headers)

    def answer_to(self, request: Request, error: errors.QqvlError) -> Response:
        facts_of(request.scope)["code"] = error.code
        return self.respond(error, request_id_of(request), request.scope["path"])

    async def on_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, errors.QqvlError)
        return self.answer_to(request, error)

    async def on_router_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        known = _ROUTER.get(error.status_code, errors.InvalidRequest("请求不对，请检查接口文档"))
        path = request.scope["path"]
        right = meant(path, self._paths) if isinstance(known, errors.NotFound) else None
        if right is not None:
            known = errors.NotFound(f"没有这个接口，正确的地址是 {right}，请检查 base URL（the right path is {right}）")
        # A client that reads errors reads them as the door that it meant tells them.
        facts_of(request.scope)["code"] = known.code
        response = self.respond(known, request_id_of(request), right or path)
        response.headers.update(error.headers or {})
        return response

    async def on_bad_query(self, request: Request, _error: Exception) -> Response:
        # FastAPI's own answer would echo the input.
        return self.answer_to(request, errors.InvalidRequest("查询参数不对，请检查名字和取值"))

    async def on_bug(self, request: Request, error: Exception) -> Response:
        """The outermost edge: whatever we did not foresee is logged with its trace and told without it."""
        logger().error("内部错误", request_id=request_id_of(request), exc_info=error)
        return self.answer_to(request, errors.QqvlError("服务器内部出错，请把 X-Request-ID 和日志一起反馈"))


def request_id_of(request: Request) -> str:
    return str(request.scope.get("qqvl.request_id", ""))
