"""Errors become HTTP here and nowhere else: one table, one body per door: QQ's, Anthropic's and OpenAI's.

Bodies hold fixed words only: no exception text, path, key or echo of the input.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from qqvl_server import errors
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
    errors.PayloadTooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.RateLimited: 429,
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


# OpenAI's word for what went wrong, by status; anything else of ours is an invalid request, of theirs a server error.
_OPENAI_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_QQ_PATHS: Final = ("/api/chat", "/admin")
_ANTHROPIC_PATHS: Final = ("/v1/messages",)


def status_of(error: errors.QqvlError) -> int:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def respond(error: errors.QqvlError, request_id: str, path: str) -> Response:
    """The error as the door at ``path`` tells it; what is no door's is told as OpenAI does."""
    status = status_of(error)
    headers = {}
    if isinstance(error, errors.CapacityError):
        headers["Retry-After"] = str(error.retry_after)
    elif status == 503:
        headers["Retry-After"] = "5"
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body_of(error, request_id, path), status, headers)


def body_of(error: errors.QqvlError, request_id: str, path: str) -> dict[str, Any]:
    """Also what a stream tells once its 200 is out."""
    if _is_under(path, _QQ_PATHS):
        return _qq(error, request_id)
    return _anthropic(error, request_id) if _is_under(path, _ANTHROPIC_PATHS) else _openai(error)


def _is_under(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes)


def _qq(error: errors.QqvlError, request_id: str) -> dict[str, Any]:
    return {"status": "error", "error": {"code": error.code, "message": error.message, "request_id": request_id}}


def _openai(error: errors.QqvlError) -> dict[str, Any]:
    status = status_of(error)
    kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    if isinstance(error, errors.ModelNotFound):
        kind = "invalid_request_error"
    param = error.param if isinstance(error, errors.RequestError) else None
    message = error.message
    if isinstance(error, errors.PromptTooLong) and error.limit:
        # Clients that shorten their prompt know its reason by these words.
        message += f"（this model's maximum context length is {error.limit} tokens）"
    return {"error": {"message": message, "type": kind, "param": param, "code": error.code}}


def _anthropic(error: errors.QqvlError, request_id: str) -> dict[str, Any]:
    status = status_of(error)
    kind = _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}


def request_id_of(request: Request) -> str:
    return str(request.scope.get("qqvl.request_id", ""))


def answer_to(request: Request, error: errors.QqvlError) -> Response:
    return respond(error, request_id_of(request), request.scope["path"])


async def on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.QqvlError)
    return answer_to(request, error)


async def on_router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = _ROUTER.get(error.status_code, errors.InvalidRequest("请求不对，请检查接口文档"))
    path = request.scope["path"]
    right = meant(path, request.app.openapi()["paths"]) if isinstance(known, errors.NotFound) else None
    if right is not None:
        known = errors.NotFound(f"没有这个接口，正确的地址是 {right}，请检查 base URL（the right path is {right}）")
    # A client that reads errors reads them as the door that it meant tells them.
    response = respond(known, request_id_of(request), right or path)
    response.headers.update(error.headers or {})
    return response


async def on_bug(request: Request, error: Exception) -> Response:
    """The outermost edge: whatever we did not foresee is logged with its trace and told without it."""
    logger().error("内部错误", request_id=request_id_of(request), exc_info=error)
    return answer_to(request, errors.QqvlError("服务器内部出错，请把 X-Request-ID 和日志一起反馈"))
