"""Anthropic's messages and their blocks become drafts of the voice's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from qqvl_server.api.drafts import Draft, Pointer, ordered
from qqvl_server.api.validation import bad
from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.port import TextPart, ToolCall

# A new number in each request: were it read, no prompt of Claude Code would begin like its last one.
_BILLING: Final = "x-anthropic-billing-header:"
_THOUGHTS: Final = ("thinking", "redacted_thinking")


def read(system: Any, messages: Sequence[dict[str, Any]], max_images: int) -> tuple[Draft, ...]:
    """The system texts as one message at the front, then the rest in order, with late ones told where they stand.

    Raises:
        InvalidRequest: an unknown role or block, a wrong type, too many pictures.
    """
    rules = _rules(system, "system")
    drafts: list[Draft] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        match message.get("role"):
            case "user":
                drafts += _user(message.get("content"), f"{where}.content")
            case "assistant":
                drafts.append(_assistant(message.get("content"), f"{where}.content"))
            case "system" if drafts:
                _remind(drafts, _rules(message.get("content"), f"{where}.content"))
            case "system":
                rules += _rules(message.get("content"), f"{where}.content")
            case _:
                raise bad(f"{where}.role", "应是 user 或 assistant（must be user or assistant）")
    if any(draft.shown > max_images for draft in drafts):
        raise bad("messages", f"里一条消息的图片太多，最多 {max_images} 张（has too many images in one message）")
    return ordered((Draft("system", (TextPart("\n\n".join(rules)),)), *drafts), "messages", max_images)


def _rules(content: Any, where: str) -> list[str]:
    texts = [] if content is None else [_text(block, at) for block, at in _blocks(content, where)]
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


def _user(content: Any, where: str) -> Iterator[Draft]:
    """Tool results are messages of their own, in their place among the rest."""
    parts: list[TextPart | Pointer] = []
    for block, at in _blocks(content, where):
        if block.get("type") != "tool_result":
            _add(parts, _part(block, at))
            continue
        if parts:
            yield Draft("user", tuple(parts))
            parts = []
        yield _result(block, at)
    if parts or not content:
        yield Draft("user", tuple(parts))


def _assistant(content: Any, where: str) -> Draft:
    parts: list[TextPart | Pointer] = []
    calls: list[ToolCall] = []
    for block, at in _blocks(content, where):
        kind = block.get("type")
        if kind == "tool_use":
            calls.append(_call(block, at))
        elif kind not in _THOUGHTS:
            _add(parts, TextPart(_text(block, at)))
    return Draft("assistant", tuple(parts), tuple(calls))


def _blocks(content: Any, where: str) -> Iterator[tuple[dict[str, Any], str]]:
    if isinstance(content, str):
        yield {"type": "text", "text": content}, where
    elif isinstance(content, list):
        for index, block in enumerate(content):
            at = f"{where}[{index}]"
            if not isinstance(block, dict):
                raise bad(at, "应是对象（must be an object）")
            yield block, at
    else:
        raise bad(where, "应是字符串或列表（must be a string or an array）")


def _add(parts: list[TextPart | Pointer], part: TextPart | Pointer) -> None:
    """Blocks of text are paragraphs: put end to end, their words would run together."""
    if isinstance(part, TextPart) and parts and isinstance(parts[-1], TextPart) and parts[-1].text and part.text:
        part = TextPart("\n" + part.text)
    parts.append(part)


def _part(block: dict[str, Any], where: str) -> TextPart | Pointer:
    match block.get("type"):
        case "image":
            return _picture(block.get("source"), f"{where}.source")
        case "document":
            return TextPart(_document(block, where))
        case "search_result":
            found = "\n".join(_text(inner, at) for inner, at in _blocks(block.get("content"), f"{where}.content"))
            return TextPart(f"{block.get('title', '')}\n{found}")
    return TextPart(_text(block, where))


def _text(block: dict[str, Any], where: str) -> str:
    if block.get("type") != "text":
        raise _unknown(where)
    return _string(block, "text", where)


def _picture(source: Any, where: str) -> Pointer:
    if not isinstance(source, dict):
        raise bad(where, "应是对象（must be an object）")
    kind = source.get("type")
    if kind == "base64":
        return Pointer(_string(source, "data", where), where, is_base64=True)
    if kind == "url":
        return Pointer(_string(source, "url", where), where)
    raise bad(f"{where}.type", "只支持 base64 和 url（only base64 and url are supported）")


def _document(block: dict[str, Any], where: str) -> str:
    source = block.get("source")
    if not isinstance(source, dict):
        raise bad(f"{where}.source", "应是对象（must be an object）")
    kind = source.get("type")
    if kind == "text":
        text = _string(source, "data", f"{where}.source")
    elif kind == "content":
        inner = _blocks(source.get("content"), f"{where}.source.content")
        text = "\n".join(_text(part, at) for part, at in inner)
    else:
        raise bad(f"{where}.source.type", "只支持纯文本文档，不支持 PDF（only plain text documents are supported）")
    title = block.get("title")
    return f"{title}\n{text}" if isinstance(title, str) and title else text


def _result(block: dict[str, Any], where: str) -> Draft:
    parts: list[TextPart | Pointer] = [TextPart("Error:")] if block.get("is_error") is True else []
    for inner, at in _blocks(block.get("content") or "", f"{where}.content"):
        _add(parts, _part(inner, at))
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


def _unknown(where: str) -> InvalidRequest:
    return bad(f"{where}.type", "是这里不支持的内容块（is a block that is not supported here）")
