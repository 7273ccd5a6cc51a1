"""Conversations as the page reads them: JSON, events, and files to take away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from qqvl_server.chat.conversations.running import Ended, Told
from qqvl_server.chat.conversations.values import Conversation, Said, Status, thread
from qqvl_server.errors import QqvlError
from qqvl_server.generation.port import Finished, Reasoning, TextDelta, ToolCallArguments, ToolCallStarted

_WHO = {"user": "我", "assistant": "模型"}


def conversation(one: Conversation, *, running: bool) -> dict[str, Any]:
    return {
        "id": one.id,
        "title": one.title,
        "titled": one.titled,
        "system_prompt": one.system_prompt,
        "sampling": dict(one.sampling),
        "tools": one.tools.get("tools", []),
        "tool_choice": one.tools.get("tool_choice"),
        "head": one.head,
        "created_at": one.created_at,
        "updated_at": one.updated_at,
        "running": running,
    }


def message(said: Said) -> dict[str, Any]:
    usage = said.usage
    return {
        "id": said.id,
        "parent": said.parent,
        "role": said.role,
        "text": said.text,
        "images": [
            {"sha256": i.sha256, "url": f"/api/page/images/{i.sha256}", "width": i.width, "height": i.height}
            for i in said.images
        ],
        "reasoning": said.reasoning,
        "tool_calls": [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in said.tool_calls],
        "tool_results": [{"tool_call_id": one.call_id, "content": one.text} for one in said.tool_results],
        "status": said.status.value,
        "finish_reason": said.finish_reason,
        "error": said.error,
        "model": said.model,
        "usage": asdict(usage) if usage is not None else None,
        "first_token_s": said.first_token_s,
        "seconds": said.seconds,
        "created_at": said.created_at,
    }


def start(asked: Said | None, said: Said) -> str:
    return event("start", {"user": message(asked) if asked is not None else None, "reply": message(said)})


def told(item: Told) -> str:
    match item:
        case TextDelta(text):
            return event("delta", {"text": text})
        case Reasoning(text, retracts=retracts):
            return event("reasoning", {"text": text, "retracts": retracts})
        case ToolCallStarted(index, call_id, name):
            return event("tool_call", {"index": index, "id": call_id, "name": name, "arguments": ""})
        case ToolCallArguments(index, text):
            return event("tool_call", {"index": index, "arguments": text})
        case Ended(said, code) if said.status is Status.FAILED or said.status is Status.INTERRUPTED:
            error = {"code": code or "interrupted", "message": said.error or ""}
            return event("error", {"error": error, "reply": message(said)})
        case Ended(said):
            return event("done", message(said))
        case Finished():
            return ""


def failure(error: QqvlError) -> str:
    return event("error", {"error": {"code": error.code, "message": error.message}, "reply": None})


def event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def as_markdown(one: Conversation, messages: Sequence[Said]) -> str:
    """The branch that is shown, for people."""
    parts = [f"# {one.title or '对话'}"]
    if one.system_prompt.strip():
        parts.append(f"> {one.system_prompt.strip()}".replace("\n", "\n> "))
    for said in thread(messages, one.head):
        pictures = [f"[图片 {image.width}×{image.height}]" for image in said.images]
        broken = [f"（{said.error}）"] if said.error else []
        calls = [f"> 调用 {call.name}：{call.arguments}" for call in said.tool_calls]
        results = ["> 结果：" + one.text.replace("\n", "\n> ") for one in said.tool_results]
        parts.append("\n\n".join([f"## {_WHO[said.role]}", *results, *pictures, said.text, *calls, *broken]))
    return "\n\n".join(parts) + "\n"


def as_json(one: Conversation, messages: Sequence[Said]) -> str:
    """All branches, for programs."""
    whole = conversation(one, running=False) | {"messages": [message(said) for said in messages]}
    return json.dumps(whole, ensure_ascii=False, indent=2)
