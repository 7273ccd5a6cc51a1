"""Requests of Responses to the voice's. The one place that knows both."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from qqvl_server.api import drafts
from qqvl_server.api.desk import Caller, Desk
from qqvl_server.api.responses import items, toolset
from qqvl_server.api.responses.schema import LOGPROBS, ResponseBody
from qqvl_server.api.tools import Toolset
from qqvl_server.api.validation import bad
from qqvl_server.errors import ModelNotFound
from qqvl_server.generation.port import GenerationRequest, Grammar, GrammarKind, Sampling, Urgency

_ANY_OBJECT: Final = Grammar(GrammarKind.JSON_SCHEMA, '{"type":"object"}')
_SEEDS: Final = 2**63 - 1


def served_name(desk: Desk, asked: str | None) -> str:
    """The name to answer under: the one asked for, or the model's own where none was.

    Raises:
        ModelNotFound: it is none of the served names.
    """
    if not asked:
        return desk.names[0]
    if asked not in desk.names:
        raise ModelNotFound("没有这个模型，可用的模型见 GET /v1/models（the model does not exist）", param="model")
    return asked


async def response(
    body: ResponseBody, desk: Desk, caller: Caller, request_id: str, context: int
) -> tuple[GenerationRequest, Toolset]:
    """``context`` bounds a reply whose caller does not. Raises InvalidRequest, ImageRejected."""
    tools = toolset.read(body.tools, body.tool_choice, body.parallel_tool_calls)
    grammar = _grammar(_format(body), tools)
    read = items.read(body.instructions, body.input, desk.max_images)
    deadline = time.monotonic() + desk.timeout_s
    request = GenerationRequest(
        request_id,
        await drafts.look(read, desk.pictures),
        _sampling(body, context),
        deadline,
        owner=f"api:{caller.name}",
        urgency=Urgency.API,
        tools=tools.shown,
        grammar=grammar,
    )
    return request, tools


def _sampling(body: ResponseBody, context: int) -> Sampling:
    wants_logprobs = LOGPROBS in body.include or bool(body.top_logprobs)
    return Sampling(
        max_new_tokens=body.max_output_tokens or context,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(body.top_k, 0),
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        seed=None if body.seed is None else body.seed & _SEEDS,
        stop=body.stop,
        logprobs=(body.top_logprobs or 0) if wants_logprobs else None,
    )


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
            return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema, ensure_ascii=False))
    raise bad("text.format.type", "应是 text、json_object 或 json_schema（is not a known type）")


def _grammar(asked: Grammar | None, tools: Toolset) -> Grammar | None:
    if tools.must_call and asked is not None:
        raise bad("tool_choice", "要求调用函数时不能再约束回复（cannot be combined with text.format）")
    return tools.grammar(asked)
