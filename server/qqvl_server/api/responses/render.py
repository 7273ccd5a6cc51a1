"""The voice's words as the JSON of Responses: the response's frame, its items and their parts, usage, events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from qqvl_server.api.responses.schema import ReasoningOptions, ResponseBody
from qqvl_server.errors import QqvlError, RequestError
from qqvl_server.generation.port import Usage


def frame(body: ResponseBody, model: str) -> dict[str, Any]:
    """A response with nothing said yet; it repeats what was asked for."""
    asked = body.reasoning or ReasoningOptions()
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata,
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": asked.effort, "summary": asked.summary},
        "service_tier": "default",
        "store": False,
        "temperature": body.temperature,
        "text": {"format": (body.text.format if body.text else None) or {"type": "text"}},
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        # Those that were left out are told in a header.
        "tools": [_tool(item) for item in body.tools if item.get("type") == "function"],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


def _tool(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "name": item["name"],
        "description": item.get("description"),
        "parameters": item.get("parameters"),
        "strict": item.get("strict"),
    }


def message() -> dict[str, Any]:
    """An item of text with nothing said yet."""
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }


def reasoning() -> dict[str, Any]:
    """An item of thoughts with nothing thought yet. They are told as they are, so that there is nothing to sum up."""
    return {"id": f"rs_{uuid.uuid4().hex}", "type": "reasoning", "status": "in_progress", "summary": [], "content": []}


def reasoning_part(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}


def function_call(call_id: str, name: str) -> dict[str, Any]:
    return {
        "id": f"fc_{uuid.uuid4().hex}",
        "type": "function_call",
        "status": "in_progress",
        "call_id": call_id,
        "name": name,
        "arguments": "",
    }


def text_part(text: str, logprobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def usage(used: Usage) -> dict[str, Any]:
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }


def error(failed: QqvlError) -> dict[str, Any]:
    """What a failed response bears: its codes are a fixed few of OpenAI's."""
    code = "invalid_prompt" if isinstance(failed, RequestError) else "server_error"
    return {"code": code, "message": failed.message}


def event(body: dict[str, Any]) -> str:
    return f"event: {body['type']}\ndata: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"
