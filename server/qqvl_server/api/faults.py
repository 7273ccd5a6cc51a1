"""Errors become HTTP here and nowhere else: one table, one body per door.

Bodies hold fixed words only: no exception text, path, key or echo of the input.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from qqvl_server import errors
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
    errors.PayloadTooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.Busy: 503,
    errors.Loading: 503,
    errors.Draining: 503,
    errors.DeadlineExceeded: 504,
    errors.GenerationFailed: 500,
    errors.EngineDead: 503,
    errors.StorageFailed: 503,
}

# What the router itself refuses, before a route of ours runs.
_ROUTER: Final[dict[int, errors.QqvlError]] = {
    404: errors.NotFound("没有这个接口，请检查地址是否写对"),
    405: errors.MethodNotAllowed("这个接口不支持这种请求方法"),
}


def status_of(error: errors.QqvlError) -> int:
    return STATUS.get(type(error), 500)


def respond(error: errors.QqvlError, request_id: str) -> Response:
    """The QQ door's error: ``{"status": "error", "error": {code, message, request_id}}``."""
    body: dict[str, Any] = {
        "status": "error",
        "error": {"code": error.code, "message": error.message, "request_id": request_id},
    }
    headers = {}
    status = status_of(error)
    if isinstance(error, errors.CapacityError):
        headers["Retry-After"] = str(error.retry_after)
    elif status == 503:
        headers["Retry-After"] = "5"
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status, headers)


def request_id_of(request: Request) -> str:
    return str(request.scope.get("qqvl.request_id", ""))


async def on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.QqvlError)
    return respond(error, request_id_of(request))


async def on_router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = _ROUTER.get(error.status_code, errors.InvalidRequest("请求不对，请检查接口文档"))
    return respond(known, request_id_of(request))


async def on_bug(request: Request, error: Exception) -> Response:
    """The outermost edge: whatever we did not foresee is logged with its trace and told without it."""
    logger().error("内部错误", request_id=request_id_of(request), exc_info=error)
    return respond(errors.QqvlError("服务器内部出错，请把 request_id 和日志一起反馈"), request_id_of(request))
