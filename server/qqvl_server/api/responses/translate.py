"""Requests of Responses to the voice's. The one place that knows both."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from qqvl_server.api import drafts
from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.model_access import Caller, ModelAccess
from qqvl_server.api.responses import items, toolset
from qqvl_server.api.responses.schema import LOGPROBS, ResponseBody
from qqvl_server.api.thinking import wished_by
from qqvl_server.api.validation import bad
from qqvl_server.generation.port import GenerationRequest, Grammar, GrammarKind, ToolMode, Urgency

_ANY_OBJECT: Final = Grammar(GrammarKind.JSON_SCHEMA, '{"type":"object"}')


async def response(
    body: ResponseBody, access: ModelAccess, caller: Caller, request_id: str, context: int, left_out: LeftOut
) -> GenerationRequest:
    """``context`` bounds a reply whose caller does not. Raises InvalidRequest, ImageRejected."""
    tools, choice = toolset.read(body.tools, body.tool_choice, body.parallel_tool_calls, left_out)
    grammar = _format(body)
    if choice.mode is ToolMode.REQUIRED and grammar is not None:
        raise bad("tool_choice", "要求调用函数时不能再约束回复（cannot be combined with text.format）")
    read = items.read(body.instructions, body.input, access.max_images, left_out)
    deadline = time.monotonic() + access.timeout_s
    return GenerationRequest(
        request_id,
        await drafts.resolve_pictures(read, access.pictures, left_out),
        body.sampling(body.max_output_tokens or context, _logprobs(body)),
        deadline,
        owner=f"api:{caller.name}",
        urgency=Urgency.API,
        tools=tools,
        tool_choice=choice,
        grammar=grammar,
        thinking=wished_by(body, body.chat_template_kwargs, body.reasoning.effort if body.reasoning else None),
    )


def _logprobs(body: ResponseBody) -> int | None:
    return (body.top_logprobs or 0) if body.top_logprobs or LOGPROBS in body.include else None


def _format(body: ResponseBody) -> Grammar | None:
    value: dict[str, Any] = (body.text.format if body.text else None) or {"type": "text"}
    match value.get("type"):
        case "text":
            return None
        case "json_object":
            return _ANY_OBJECT
        case "json_schema":
            schema = value.get("schema")
            if not isinstance(schema, dict):
                raise bad("text.format.schema", "应是对象（must be an object）")
            return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema, ensure_ascii=False), ("text.format.schema",))
    raise bad("text.format.type", "应是 text、json_object 或 json_schema（is not a known type）")
