"""OpenAI's messages, in every spelling people send, become drafts of the voice's."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any, Final

from qqvl_server.api.drafts import Draft, Pointer, ordered
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


def read(items: Sequence[dict[str, Any]], max_images: int) -> tuple[Draft, ...]:
    """All system messages as one at the front, then the rest in order.

    Raises:
        InvalidRequest: an unknown role or part, a wrong type, a picture where the model would not see it, too many.
    """
    drafts = [_draft(item, f"messages[{index}]", max_images) for index, item in enumerate(items)]
    return ordered(drafts, "messages", max_images)


def _draft(item: dict[str, Any], where: str, max_images: int) -> Draft:
    name = item.get("role")
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise bad(f"{where}.role", "应是 system、developer、user、assistant 或 tool（is not a known role）")
    parts = _parts(item.get("content"), f"{where}.content")
    calls = _calls(item, where) if role == "assistant" else ()
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


def _parts(content: Any, where: str) -> tuple[TextPart | Pointer, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (TextPart(content),)
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise bad(where, "应是字符串或列表（must be a string or an array）")
    return tuple(_part(item, f"{where}[{index}]") for index, item in enumerate(content))


def _part(item: Any, where: str) -> TextPart | Pointer:
    if isinstance(item, str):
        return TextPart(item)
    if not isinstance(item, dict):
        raise bad(where, "应是对象（must be an object）")
    kind = item.get("type")
    if kind in _TEXT_TYPES or (kind is None and "text" in item):
        text = item.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise bad(f"{where}.text", "应是字符串（must be a string）")
        return TextPart(text)
    if kind in _IMAGE_TYPES or (kind is None and any(name in item for name in _IMAGE_TYPES)):
        return Pointer(_address(item, where), where)
    raise bad(f"{where}.type", "只支持文字和图片：text、image_url（only text and image_url parts are supported）")


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


def _calls(item: dict[str, Any], where: str) -> tuple[ToolCall, ...]:
    listed = item.get("tool_calls") or []
    where = f"{where}.tool_calls"
    if isinstance(item.get("function_call"), dict) and not listed:
        listed = [{"function": item["function_call"]}]
    if not isinstance(listed, list) or len(listed) > 128:
        raise bad(where, "应是列表，最多 128 项（must be an array of at most 128 items）")
    return tuple(_call(call, f"{where}[{index}]") for index, call in enumerate(listed))


def _call(call: Any, where: str) -> ToolCall:
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
