"""How an error reads to whom: the bodies that several doors share. Fixed words only: no exception text, no echo."""

from __future__ import annotations

from typing import Any, Final

from qqvl_server import errors
from qqvl_server.api.faults import status_of

# OpenAI's word for what went wrong, by status; anything else of ours is an invalid request, of theirs a server error.
_OPENAI_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def own(error: errors.QqvlError, request_id: str) -> dict[str, Any]:
    """This project's: of the QQ JSON and of what an operator asks."""
    return {"status": "error", "error": {"code": error.code, "message": error.message, "request_id": request_id}}


def openai(error: errors.QqvlError, _request_id: str = "") -> dict[str, Any]:
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
