"""Anthropic's messages and their blocks become drafts of the voice's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from qqvl_server.api import mcp
from qqvl_server.api.drafts import Draft, Pointer, ordered
from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.validation import bad
from qqvl_server.generation.port import Role, TextPart, ToolCall

# A new number in each request: were it read, no prompt of Claude Code would begin like its last one.
_BILLING: Final = "x-anthropic-billing-header:"
_THOUGHTS: Final = ("thinking", "redacted_thinking")
Parts = list[TextPart | Pointer]


def read(system: Any, messages: Sequence[dict[str, Any]], max_images: int, left_out: LeftOut) -> tuple[Draft, ...]:
    """The system texts as one message at the front, then the rest in order, with late ones told where they stand.

    Blocks of other kinds are what Anthropic's servers have run or keep, and are left out.

    Raises:
        InvalidRequest: an unknown role, a wrong type, a picture where the model would not see it, too many of them.
    """
    rules = _rules(system, "system", left_out)
    drafts: list[Draft] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        match message.get("role"):
            case "user":
                drafts += _user(message.get("content"), f"{where}.content", left_out)
            case "assistant":
                drafts += _assistant(message.get("content"), f"{where}.content", left_out)
            case "system" if drafts:
                _remind(drafts, _rules(message.get("content"), f"{where}.content", left_out))
            case "system":
                rules += _rules(message.get("content"), f"{where}.content", left_out)
            case _:
                raise bad(f"{where}.role", "应是 user 或 assistant（must be user or assistant）")
    if any(draft.shown > max_images for draft in drafts):
        raise bad("messages", f"里一条消息的图片太多，最多 {max_images} 张（has too many images in one message）")
    return ordered((Draft("system", (TextPart("\n\n".join(rules)),)), *drafts), "messages", max_images)


def _rules(content: Any, where: str, left_out: LeftOut) -> list[str]:
    texts = [] if content is None else _texts(content, "system", where, left_out)
    return [text for text in texts if text and not text.startswith(_BILLING)]


def _remind(drafts: list[Draft], rules: list[str]) -> None:
    """Late rules stay in their place: moved to the front, they would make every prompt's beginning a new one.

    The template has no system messages there, so they are told as Claude Code tells them where there are none.
    """
    if not rules:
        return
    said = (*drafts.pop().parts, TextPart("\n")) if drafts[-1].role == "user" else ()
    text = "\n\n".join(rules)
    drafts.append(Draft("user", (*said, TextPart(f"<system-reminder>\n{text}\n</system-reminder>"))))


def _user(content: Any, where: str, left_out: LeftOut) -> Iterator[Draft]:
    """Tool results are messages of their own, in their place among the rest."""
    parts: Parts = []
    for block, at in _blocks(content, where):
        if block["type"] != "tool_result":
            _show(parts, block, "user", at, left_out)
            continue
        if parts:
            yield Draft("user", tuple(parts))
            parts = []
        yield _result(block, at, left_out)
    if parts or not content:
        yield Draft("user", tuple(parts))


def _assistant(content: Any, where: str, left_out: LeftOut) -> Iterator[Draft]:
    """Nothing for an answer of which nothing can be read here."""
    before = left_out.count
    parts: Parts = []
    calls: list[ToolCall] = []
    for block, at in _blocks(content, where):
        match block["type"]:
            case "tool_use":
                calls.append(_call(block, at))
            case "compaction" if isinstance(block.get("content"), str):
                # What was said before it, told shortly.
                _add(parts, TextPart(block["content"]))
            case "image":
                raise bad(f"{at}.type", "不能是图片，只有 user 消息和工具的结果能带图片（must not hold images）")
            case kind if kind not in _THOUGHTS:
                _show(parts, block, "assistant", at, left_out)
    if parts or calls or left_out.count == before:
        yield Draft("assistant", tuple(parts), tuple(calls))


def _blocks(content: Any, where: str) -> Iterator[tuple[dict[str, Any], str]]:
    if isinstance(content, str):
        yield {"type": "text", "text": content}, where
    elif isinstance(content, list):
        for index, block in enumerate(content):
            at = f"{where}[{index}]"
            if not isinstance(block, dict):
                raise bad(at, "应是对象（must be an object）")
            if not isinstance(block.get("type"), str):
                raise bad(f"{at}.type", "应是字符串（must be a string）")
            yield block, at
    else:
        raise bad(where, "应是字符串或列表（must be a string or an array）")


def _show(parts: Parts, block: dict[str, Any], role: Role, where: str, left_out: LeftOut) -> None:
    part = _part(block, role, where, left_out)
    for shown in left_out.part(where, role) if part is None else (part,):
        _add(parts, shown)


def _add(parts: Parts, part: TextPart | Pointer) -> None:
    """Blocks of text are paragraphs: put end to end, their words would run together."""
    if isinstance(part, TextPart) and parts and isinstance(parts[-1], TextPart) and parts[-1].text and part.text:
        part = TextPart("\n" + part.text)
    parts.append(part)


def _part(block: dict[str, Any], role: Role, where: str, left_out: LeftOut) -> TextPart | Pointer | None:
    """None: nothing that can be read here (a PDF, an uploaded file, a kind that nobody knows yet)."""
    match block["type"]:
        case "text":
            return TextPart(_string(block, "text", where))
        case "image" if "data" not in block:
            return _picture(block.get("source"), f"{where}.source")
        case "document":
            return _document(block, role, where, left_out)
        case "search_result":
            found = "\n".join(_texts(block.get("content"), role, f"{where}.content", left_out))
            return TextPart(f"{block.get('title', '')}\n{found}")
    return mcp.block(block, where)


def _texts(content: Any, role: Role, where: str, left_out: LeftOut) -> list[str]:
    """Where only texts may stand; a picture is refused, because nobody would see it."""
    texts = []
    for block, at in _blocks(content, where):
        if block["type"] == "image":
            raise bad(f"{at}.type", "这里不能有图片（must not hold images）")
        if block["type"] == "text":
            texts.append(_string(block, "text", at))
        else:
            texts += [part.text for part in left_out.part(at, role)]
    return texts


def _picture(source: Any, where: str) -> Pointer | None:
    if not isinstance(source, dict):
        raise bad(where, "应是对象（must be an object）")
    match source.get("type"):
        case "base64":
            return Pointer(_string(source, "data", where), where, is_base64=True)
        case "url":
            return Pointer(_string(source, "url", where), where)
        case str():
            # Uploaded to whoever the conversation was with before.
            return None
    raise bad(f"{where}.type", "应是字符串（must be a string）")


def _document(block: dict[str, Any], role: Role, where: str, left_out: LeftOut) -> TextPart | None:
    source = block.get("source")
    if not isinstance(source, dict):
        raise bad(f"{where}.source", "应是对象（must be an object）")
    match source.get("type"):
        case "text":
            text = _string(source, "data", f"{where}.source")
        case "content":
            text = "\n".join(_texts(source.get("content"), role, f"{where}.source.content", left_out))
        case str():
            return None
        case _:
            raise bad(f"{where}.source.type", "应是字符串（must be a string）")
    title = block.get("title")
    return TextPart(f"{title}\n{text}" if isinstance(title, str) and title else text)


def _result(block: dict[str, Any], where: str, left_out: LeftOut) -> Draft:
    parts: Parts = [TextPart("Error:")] if block.get("is_error") is True else []
    for inner, at in _blocks(mcp.unwrapped(block.get("content")) or "", f"{where}.content"):
        _show(parts, inner, "tool", at, left_out)
    return Draft("tool", tuple(parts), tool_call_id=_string(block, "tool_use_id", where))


def _call(block: dict[str, Any], where: str) -> ToolCall:
    given = block.get("input")
    if not isinstance(given, dict):
        raise bad(f"{where}.input", "应是对象（must be an object）")
    call_id, name = _string(block, "id", where), _string(block, "name", where)
    if not name:
        raise bad(f"{where}.name", "不能为空（must not be empty）")
    return ToolCall(call_id, name, json.dumps(given, ensure_ascii=False))


def _string(block: dict[str, Any], name: str, where: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise bad(f"{where}.{name}", "应是字符串（must be a string）")
    return value
