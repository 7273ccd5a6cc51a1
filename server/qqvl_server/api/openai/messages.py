"""OpenAI's messages, in every spelling people send, become drafts of the voice's."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any, Final

from qqvl_server.api import mcp
from qqvl_server.api.drafts import Draft, Pointer, ordered
from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.validation import bad
from qqvl_server.generation.port import Role, TextPart, ToolCall

_ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_TEXT_TYPES: Final = ("text", "input_text", "output_text", "refusal")
_IMAGE_TYPES: Final = ("image_url", "input_image", "image")


def read(items: Sequence[dict[str, Any]], max_images: int, left_out: LeftOut) -> tuple[Draft, ...]:
    """All system messages as one at the front, then the rest in order.

    Raises:
        InvalidRequest: an unknown role, a wrong type, a picture where the model would not see it, too many.
    """
    drafts = (_draft(item, f"messages[{index}]", max_images, left_out) for index, item in enumerate(items))
    return ordered([draft for draft in drafts if draft is not None], "messages", max_images)


def _draft(item: dict[str, Any], where: str, max_images: int, left_out: LeftOut) -> Draft | None:
    """None: an answer of which nothing can be read here, a spoken one, say."""
    before = left_out.count
    name = item.get("role")
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise bad(f"{where}.role", "应是 system、developer、user、assistant 或 tool（is not a known role）")
    parts = _parts(item.get("content"), role, f"{where}.content", left_out)
    calls = _calls(item, where, left_out) if role == "assistant" else ()
    if role == "assistant" and item.get("audio") is not None:
        left_out.add(f"{where}.audio")
    if role == "assistant" and left_out.count > before and not parts and not calls:
        return None
    if item.get("content") is None and not calls and role != "assistant":
        raise bad(f"{where}.content", "没有填（is required）")
    shown = sum(isinstance(part, Pointer) for part in parts)
    if shown and role in ("system", "assistant"):
        raise bad(f"{where}.content", "里不能有图片，只有 user 和 tool 消息能带图片（must not hold images）")
    if shown > max_images:
        raise bad(f"{where}.content", f"里的图片太多，最多 {max_images} 张（has too many images）")
    call_id = item.get("tool_call_id")
    if call_id is not None and not isinstance(call_id, str):
        raise bad(f"{where}.tool_call_id", "应是字符串（must be a string）")
    return Draft(role, parts, calls, call_id if role == "tool" else None)


def _parts(content: Any, role: Role, where: str, left_out: LeftOut) -> tuple[TextPart | Pointer, ...]:
    content = mcp.unwrapped(content)
    if content is None:
        return ()
    if isinstance(content, str):
        return (TextPart(content),)
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise bad(where, "应是字符串或列表（must be a string or an array）")
    parts: list[TextPart | Pointer] = []
    for index, item in enumerate(content):
        at = f"{where}[{index}]"
        part = _part(item, at)
        parts += left_out.part(at, role) if part is None else (part,)
    return tuple(parts)


def _part(item: Any, where: str) -> TextPart | Pointer | None:
    """None: nothing that can be read here (a file, a sound, a kind that nobody knows yet)."""
    if isinstance(item, str):
        return TextPart(item)
    if not isinstance(item, dict):
        raise bad(where, "应是对象（must be an object）")
    kind = item.get("type")
    if not isinstance(kind, str | None):
        raise bad(f"{where}.type", "应是字符串（must be a string）")
    if kind in _TEXT_TYPES or (kind is None and "text" in item):
        text = item.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise bad(f"{where}.text", "应是字符串（must be a string）")
        return TextPart(text)
    if (told := mcp.block(item, where)) is not None:
        return told
    if kind in _IMAGE_TYPES or (kind is None and any(name in item for name in _IMAGE_TYPES)):
        # Files are uploaded to whoever the conversation was with before.
        return None if item.get("file_id") is not None else Pointer(_address(item, where), where)
    return None


def _address(item: dict[str, Any], where: str) -> str:
    """``image_url`` as an object or bare, ``image`` as Qwen's own examples have it, ``url`` as Transformers' have."""
    name = next((name for name in ("image_url", "image", "url", "input_image", "source") if name in item), "image_url")
    value = item.get(name)
    if isinstance(value, dict):
        value = value.get("url", value.get("data"))
        name += ".url"
    if not isinstance(value, str) or not value:
        raise bad(f"{where}.{name}", "应是图片地址或 data: URI（must be the URL of an image）")
    return value


def _calls(item: dict[str, Any], where: str, left_out: LeftOut) -> tuple[ToolCall, ...]:
    listed = item.get("tool_calls") or []
    where = f"{where}.tool_calls"
    if isinstance(item.get("function_call"), dict) and not listed:
        listed = [{"function": item["function_call"]}]
    if not isinstance(listed, list) or len(listed) > 128:
        raise bad(where, "应是列表，最多 128 项（must be an array of at most 128 items）")
    calls = []
    for index, given in enumerate(listed):
        call = _call(given, f"{where}[{index}]")
        if call is None:
            left_out.add(f"{where}[{index}]")
        else:
            calls.append(call)
    return tuple(calls)


def _call(call: Any, where: str) -> ToolCall | None:
    """None: of a kind that nobody knows yet. A custom tool's input is free text, told as a function's argument."""
    kind = call.get("type") if isinstance(call, dict) else None
    if kind == "custom" and isinstance(call.get("custom"), dict):
        custom = call["custom"]
        call = call | {"function": {"name": custom.get("name"), "arguments": {"input": custom.get("input")}}}
    elif isinstance(kind, str) and kind != "function" and "function" not in call:
        return None
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise bad(f"{where}.function", "应是对象（must be an object）")
    name, arguments, call_id = function.get("name"), function.get("arguments"), call.get("id")
    if not isinstance(name, str) or not name:
        raise bad(f"{where}.function.name", "应是字符串，不能为空（must be a non-empty string）")
    if isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    if not isinstance(arguments, str | None):
        raise bad(f"{where}.function.arguments", "应是字符串（must be a string）")
    if not isinstance(call_id, str | None):
        raise bad(f"{where}.id", "应是字符串（must be a string）")
    return ToolCall(call_id or f"call_{uuid.uuid4().hex[:24]}", name, arguments or "{}")
