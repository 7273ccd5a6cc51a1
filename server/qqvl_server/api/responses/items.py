"""The input of Responses, a text or a list of items, becomes drafts of the voice's messages."""

from __future__ import annotations

from typing import Any, Final

from qqvl_server.api.drafts import Draft, Pointer, ordered
from qqvl_server.api.validation import bad
from qqvl_server.generation.port import Role, TextPart, ToolCall

MAX_ITEMS: Final = 10_000
_ROLES: Final[dict[str, Role]] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXT_TYPES: Final = ("input_text", "output_text", "text")
_IMAGE_TYPES: Final = ("input_image", "image_url")


def read(instructions: str | None, given: Any, max_images: int) -> tuple[Draft, ...]:
    """Instructions and all system messages as one at the front, then the rest in order.

    Raises:
        InvalidRequest: an unknown item, role or part, a wrong type, a picture where the model would not see it, too
            many.
    """
    drafts = [Draft("system", (TextPart(instructions or ""),))]
    if isinstance(given, str):
        drafts.append(Draft("user", (TextPart(given),)))
    elif isinstance(given, list) and 0 < len(given) <= MAX_ITEMS:
        for index, item in enumerate(given):
            _add(drafts, item, f"input[{index}]", max_images)
    else:
        raise bad("input", "应是字符串，或 1 到 10000 项的列表（must be a string or a non-empty array）")
    return ordered(drafts, "input", max_images)


def _add(drafts: list[Draft], item: Any, where: str, max_images: int) -> None:
    if not isinstance(item, dict):
        raise bad(where, "应是对象（must be an object）")
    match item.get("type", "message"):
        case "message":
            drafts.append(_message(item, where, max_images))
        case "function_call":
            # Each call is an item of its own here; to the model they are one turn, with what was said before them.
            call = _call(item, where)
            before = drafts.pop() if drafts[-1].role == "assistant" else Draft("assistant", ())
            drafts.append(Draft("assistant", before.parts, (*before.tool_calls, call)))
        case "function_call_output":
            parts = _parts(item.get("output"), f"{where}.output")
            drafts.append(
                _seen(Draft("tool", parts, (), _string(item, "call_id", where)), f"{where}.output", max_images)
            )
        case "reasoning":
            # Thoughts that another model handed out are not this one's to read.
            pass
        case _:
            raise bad(
                f"{where}.type",
                "只支持 message、function_call 和 function_call_output（is an item that is not supported here）",
            )


def _message(item: dict[str, Any], where: str, max_images: int) -> Draft:
    name = item.get("role")
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise bad(f"{where}.role", "应是 user、assistant、system 或 developer（is not a known role）")
    where += ".content"
    draft = Draft(role, _parts(item.get("content"), where))
    if draft.shown and role != "user":
        raise bad(where, "里不能有图片，只有 user 消息和函数的结果能带图片（must not hold images）")
    return _seen(draft, where, max_images)


def _seen(draft: Draft, where: str, max_images: int) -> Draft:
    if draft.shown > max_images:
        raise bad(where, f"里的图片太多，最多 {max_images} 张（has too many images）")
    return draft


def _parts(content: Any, where: str) -> tuple[TextPart | Pointer, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    if not isinstance(content, list):
        raise bad(where, "应是字符串或列表（must be a string or an array）")
    return tuple(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: Any, where: str) -> TextPart | Pointer:
    if not isinstance(part, dict):
        raise bad(where, "应是对象（must be an object）")
    kind = part.get("type")
    if kind in _TEXT_TYPES:
        return TextPart(_string(part, "text", where))
    if kind == "refusal":
        return TextPart(_string(part, "refusal", where))
    if kind not in _IMAGE_TYPES:
        raise bad(
            f"{where}.type", "只支持文字和图片：input_text、input_image（only text and image parts are supported）"
        )
    if part.get("file_id") is not None:
        raise bad(f"{where}.file_id", "不支持，请用 image_url（is not supported, use image_url）")
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
    return ToolCall(_string(item, "call_id", where), name, _string(item, "arguments", where) or "{}")


def _string(item: dict[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise bad(f"{where}.{name}", "应是字符串（must be a string）")
    return value
