"""The voice's words as Anthropic's JSON: the message's frame, usage, events."""

from __future__ import annotations

import json
import uuid
from typing import Any, Final

from qqvl_server.api.faults import status_of
from qqvl_server.errors import QqvlError
from qqvl_server.generation.port import Usage

_ERROR_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def message(model: str, prompt_tokens: int = 0) -> dict[str, Any]:
    """A message with nothing said yet."""
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage(Usage(prompt_tokens, 0)), "service_tier": "standard"},
    }


def usage(used: Usage) -> dict[str, Any]:
    """Prompt tokens are told apart: ``input_tokens`` are only those that were not at hand already."""
    thought = {"output_tokens_details": {"thinking_tokens": used.reasoning_tokens}}
    return {
        "input_tokens": used.prompt_tokens - used.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": used.cached_tokens,
        "output_tokens": used.completion_tokens,
        **(thought if used.reasoning_tokens else {}),
    }


def event(body: dict[str, Any]) -> str:
    return f"event: {body['type']}\ndata: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def error_body(error: QqvlError, request_id: str) -> dict[str, Any]:
    status = status_of(error)
    kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}


def failure(error: QqvlError, request_id: str) -> str:
    """An error as the last event of a stream; SDKs raise it."""
    return event(error_body(error, request_id))
