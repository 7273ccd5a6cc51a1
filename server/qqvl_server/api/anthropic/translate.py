"""Anthropic's requests to the voice's. The one place that knows both."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from qqvl_server.api.anthropic import content
from qqvl_server.api.anthropic.reply import Thoughts
from qqvl_server.api.anthropic.schema import MessagesBody, PromptBody, ThinkingOptions
from qqvl_server.api.drafts import Draft, resolve_pictures
from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.model_access import Caller, ModelAccess
from qqvl_server.api.tools import NAME, functions
from qqvl_server.api.validation import bad
from qqvl_server.generation.port import (
    GenerationRequest,
    Grammar,
    GrammarKind,
    Sampling,
    Thinking,
    Tool,
    ToolChoice,
    ToolMode,
    Urgency,
)


async def message(
    body: MessagesBody, access: ModelAccess, caller: Caller, request_id: str, left_out: LeftOut
) -> tuple[GenerationRequest, Thoughts]:
    """And how its thoughts are told. Raises InvalidRequest, ImageRejected."""
    sampling = Sampling(
        max_new_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=body.stop_sequences,
    )
    return await _request(body, sampling, access, caller, request_id, left_out), _told(body.thinking)


async def prompt(
    body: PromptBody, access: ModelAccess, caller: Caller, request_id: str, left_out: LeftOut
) -> GenerationRequest:
    """What ``/count_tokens`` counts. Raises InvalidRequest, ImageRejected."""
    return await _request(body, Sampling(1), access, caller, request_id, left_out)


async def _request(
    body: PromptBody, sampling: Sampling, access: ModelAccess, caller: Caller, request_id: str, left_out: LeftOut
) -> GenerationRequest:
    tools = functions(body.tools, _tool, left_out, "custom")
    choice = _chosen(tools, body.tool_choice)
    grammar = _grammar(body)
    if choice.mode is ToolMode.REQUIRED and grammar is not None:
        raise bad("tool_choice", "要求调用工具时不能再约束回复（cannot be combined with output_config.format）")
    drafts, opening = _opening(content.read(body.system, body.messages, access.max_images, left_out))
    if opening and (grammar is not None or choice.mode is ToolMode.REQUIRED):
        raise bad("messages", "回复有约束时不能续写（must end with a user message when the answer has a format）")
    if not any(draft.role != "system" for draft in drafts):
        raise bad("messages", "里没有 user 消息（must hold a user message）")
    deadline = time.monotonic() + access.timeout_s
    return GenerationRequest(
        request_id,
        await resolve_pictures(drafts, access.pictures, left_out),
        sampling,
        deadline,
        owner=f"api:{caller.name}",
        urgency=Urgency.API,
        tools=tools,
        tool_choice=choice,
        grammar=grammar,
        opening=opening,
        thinking=_thinking(body),
    )


def _opening(drafts: Sequence[Draft]) -> tuple[Sequence[Draft], str]:
    """A last message of the assistant's is the beginning of the reply, which the model goes on from."""
    if not drafts or drafts[-1].role != "assistant":
        return drafts, ""
    if drafts[-1].tool_calls:
        raise bad("messages", "最后一条是工具调用，却没有它的结果（must not end with a tool_use block）")
    return drafts[:-1], drafts[-1].text


def _chosen(known: tuple[Tool, ...], choice: dict[str, Any] | None) -> ToolChoice:
    names = [tool.name for tool in known]
    if len(set(names)) < len(names):
        raise bad("tools", "里有重名的工具（has two tools of one name）")
    choice = choice or {"type": "auto"}
    parallel = choice.get("disable_parallel_tool_use") is not True
    match choice.get("type"):
        case "auto":
            return ToolChoice(parallel=parallel)
        case "none":
            return ToolChoice(ToolMode.NONE)
        case "any" if known:
            return ToolChoice(ToolMode.REQUIRED, parallel=parallel)
        case "tool" if choice.get("name") in names:
            return ToolChoice(ToolMode.REQUIRED, str(choice["name"]), parallel=parallel)
        case "any" | "tool":
            raise bad(
                "tool_choice",
                "要求调用的工具不在 tools 里，或不是这里能调用的（asks for a tool that cannot be called）",
            )
    raise bad("tool_choice.type", "应是 auto、any、tool 或 none（must be auto, any, tool or none）")


def _tool(item: dict[str, Any], where: str) -> Tool:
    name, description, schema = item.get("name"), item.get("description"), item.get("input_schema")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise bad(f"{where}.name", "应是 1 到 128 个字母、数字、下划线或短横（is not a valid name）")
    if not isinstance(description, str | None):
        raise bad(f"{where}.description", "应是字符串（must be a string）")
    if not isinstance(schema, dict):
        raise bad(f"{where}.input_schema", "应是 JSON schema 对象（must be an object）")
    return Tool(name, description, json.dumps(schema, ensure_ascii=False), f"{where}.input_schema")


def _grammar(body: PromptBody) -> Grammar | None:
    wanted = (body.output_config.format if body.output_config else None) or body.output_format
    if wanted is None:
        return None
    schema = wanted.get("schema")
    if wanted.get("type") != "json_schema" or not isinstance(schema, dict):
        raise bad("output_config.format", '应是 {"type": "json_schema", "schema": {…}}（must be a JSON schema）')
    text = json.dumps(schema, ensure_ascii=False)
    return Grammar(GrammarKind.JSON_SCHEMA, text, ("output_config.format.schema",))


def _thinking(body: PromptBody) -> Thinking:
    asked = body.thinking or ThinkingOptions()
    enabled = None if body.thinking is None else asked.type != "disabled"
    effort = body.output_config.effort if body.output_config else None
    return Thinking(enabled, asked.budget_tokens, None if effort == "none" else effort)


def _told(asked: ThinkingOptions | None) -> Thoughts:
    """A checkpoint that thinks unasked tells its thoughts unasked."""
    if asked is None:
        return Thoughts.TOLD
    if asked.type == "disabled":
        return Thoughts.HIDDEN
    return Thoughts.OMITTED if asked.display == Thoughts.OMITTED else Thoughts.TOLD
