"""The input of Responses, a text or a list of items, becomes drafts of the voice's messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from qqvl_server.api import mcp
from qqvl_server.api.drafts import Draft, Pointer, ordered
from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.validation import bad
from qqvl_server.generation.port import Role, TextPart, ToolCall

MAX_ITEMS: Final = 10_000
_ROLES: Final[dict[str, Role]] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXT_TYPES: Final = ("input_text", "output_text", "text")
_IMAGE_TYPES: Final = ("input_image", "image_url")
# What the caller has run: a custom tool's call is a function's but for the input, which is free text.
_CALLS: Final = ("function_call", "custom_tool_call")
_RESULTS: Final = ("function_call_output", "custom_tool_call_output")


def read(instructions: str | None, given: Any, max_images: int, left_out: LeftOut) -> tuple[Draft, ...]:
    """Instructions and all system messages as one at the front, then the rest in order.

    Items of other kinds are what OpenAI's servers have run or keep, and are left out.

    Raises:
        InvalidRequest: an unknown role, a wrong type, a picture where the model would not see it, too many, or nothing
            but what is left out.
    """
    drafts = [Draft("system", (TextPart(instructions or ""),))]
    if isinstance(given, str):
        drafts.append(Draft("user", (TextPart(given),)))
    elif isinstance(given, list) and 0 < len(given) <= MAX_ITEMS:
        for index, item in enumerate(given):
            _add(drafts, item, f"input[{index}]", max_images, left_out)
        if left_out.count and len(drafts) == 1:
            raise bad("input", "里没有这里能读的内容（holds nothing that can be read here）")
    else:
        raise bad("input", "应是字符串，或 1 到 10000 项的列表（must be a string or a non-empty array）")
    return ordered(drafts, "input", max_images)


def _add(drafts: list[Draft], item: Any, where: str, max_images: int, left_out: LeftOut) -> None:
    if not isinstance(item, dict):
        raise bad(where, "应是对象（must be an object）")
    kind = item.get("type", "message")
    if not isinstance(kind, str):
        raise bad(f"{where}.type", "应是字符串（must be a string）")
    match kind:
        case "message":
            drafts += _message(item, where, max_images, left_out)
        case _ if kind in _CALLS:
            # Each call is an item of its own here; to the model they are one turn, with what was said before them.
            call = _call(item, where)
            before = drafts.pop() if drafts[-1].role == "assistant" else Draft("assistant", ())
            drafts.append(Draft("assistant", before.parts, (*before.tool_calls, call)))
        case _ if kind in _RESULTS:
            parts = _parts(item.get("output"), "tool", f"{where}.output", left_out)
            drafts.append(
                _seen(Draft("tool", parts, (), _string(item, "call_id", where)), f"{where}.output", max_images)
            )
        case "reasoning":
            # Thoughts that another model handed out are not this one's to read.
            pass
        case _:
            left_out.add(where)


def _message(item: dict[str, Any], where: str, max_images: int, left_out: LeftOut) -> Iterator[Draft]:
    """Nothing for an answer of which nothing can be read here."""
    before = left_out.count
    name = item.get("role")
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise bad(f"{where}.role", "应是 user、assistant、system 或 developer（is not a known role）")
    where += ".content"
    draft = Draft(role, _parts(item.get("content"), role, where, left_out))
    if role == "assistant" and left_out.count > before and not draft.parts:
        return
    if draft.shown and role != "user":
        raise bad(where, "里不能有图片，只有 user 消息和函数的结果能带图片（must not hold images）")
    yield _seen(draft, where, max_images)


def _seen(draft: Draft, where: str, max_images: int) -> Draft:
    if draft.shown > max_images:
        raise bad(where, f"里的图片太多，最多 {max_images} 张（has too many images）")
    return draft


def _parts(content: Any, role: Role, where: str, left_out: LeftOut) -> tuple[TextPart | Pointer, ...]:
    content = mcp.unwrapped(content)
    if isinstance(content, str):
        return (TextPart(content),)
    if not isinstance(content, list):
        raise bad(where, "应是字符串或列表（must be a string or an array）")
    parts: list[TextPart | Pointer] = []
    for index, item in enumerate(content):
        at = f"{where}[{index}]"
        part = _part(item, at)
        parts += left_out.part(at, role) if part is None else (part,)
    return tuple(parts)


def _part(part: Any, where: str) -> TextPart | Pointer | None:
    """None: nothing that can be read here (a file, a sound, a kind that nobody knows yet)."""
    if not isinstance(part, dict):
        raise bad(where, "应是对象（must be an object）")
    kind = part.get("type")
    if kind in _TEXT_TYPES:
        return TextPart(_string(part, "text", where))
    if kind == "refusal":
        return TextPart(_string(part, "refusal", where))
    if not isinstance(kind, str):
        raise bad(f"{where}.type", "应是字符串（must be a string）")
    # Files are uploaded to whoever the conversation was with before.
    if kind not in _IMAGE_TYPES or part.get("file_id") is not None:
        return mcp.block(part, where)
    return Pointer(_address(part.get("image_url"), f"{where}.image_url"), where)


def _address(value: Any, where: str) -> str:
    """A bare text; an object with ``url``, as in chat completions, is taken as well."""
    if isinstance(value, dict):
        value = value.get("url")
        where += ".url"
    if not isinstance(value, str) or not value:
        raise bad(where, "应是图片地址或 data: URI（must be the URL of an image）")
    return value


def _call(item: dict[str, Any], where: str) -> ToolCall:
    name = _string(item, "name", where)
    if not name:
        raise bad(f"{where}.name", "不能为空（must not be empty）")
    if item["type"] == "custom_tool_call":
        arguments = json.dumps({"input": _string(item, "input", where)}, ensure_ascii=False)
    else:
        arguments = _string(item, "arguments", where) or "{}"
    return ToolCall(_string(item, "call_id", where), name, arguments)


def _string(item: dict[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise bad(f"{where}.{name}", "应是字符串（must be a string）")
    return value
