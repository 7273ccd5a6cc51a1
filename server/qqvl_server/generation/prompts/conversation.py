"""Messages and tools as the chat template reads them: plain values, in which no caller can write a control token.

``sanitize_control_tokens`` of Transformers encodes control tokens in strings as letters, but looks at each string
alone and at no dictionary's keys. So texts that the template would put side by side are joined here first, and keys
are looked at here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.port import ChatMessage, TextPart, Tool, ToolCall
from qqvl_server.media.image import ImageRef

# Deeper values could exhaust Python's stack in the template, and no real tool is like that.
_DEEPEST: Final = 64

Entry = dict[str, Any]


def template_message(message: ChatMessage, shown: Callable[[ImageRef], list[Entry]], control: re.Pattern[str]) -> Entry:
    """``shown`` gives the entries of one picture; ``control`` finds a control token in a text."""
    content: list[Entry] = []
    for part in message.parts:
        for entry in [{"type": "text", "text": part.text}] if isinstance(part, TextPart) else shown(part.image):
            if entry["type"] == "text" and content and content[-1]["type"] == "text":
                content[-1] = {"type": "text", "text": content[-1]["text"] + entry["text"]}
            elif entry != {"type": "text", "text": ""}:
                content.append(entry)
    rendered: Entry = {"role": message.role, "content": content}
    if message.tool_calls:
        rendered["tool_calls"] = [_call(call, control) for call in message.tool_calls]
    return rendered


def template_tool(tool: Tool, control: re.Pattern[str]) -> Entry:
    """Raises InvalidRequest: the parameters are no JSON object, too deep, or spell a control token in a name."""
    try:
        parameters = json.loads(tool.parameters or "{}")
    except (ValueError, RecursionError):
        raise InvalidRequest("工具的参数说明不是有效的 JSON") from None
    if not isinstance(parameters, dict):
        raise InvalidRequest("工具的参数说明必须是 JSON 对象")
    if not _is_tame(parameters, control):
        raise InvalidRequest("工具的参数说明嵌套太深，或参数名里有模型的控制符")
    described = {} if tool.description is None else {"description": tool.description}
    return {"type": "function", "function": {"name": tool.name, **described, "parameters": parameters}}


def mended(value: Any) -> Any:
    """The same value with lone surrogates, which no encoding can write, replaced by U+FFFD everywhere in it."""
    if isinstance(value, str):
        return (
            value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _SURROGATE.search(value) else value
        )
    if isinstance(value, dict):
        return {mended(key): mended(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mended(item) for item in value]
    return value


_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _call(call: ToolCall, control: re.Pattern[str]) -> Entry:
    return {"type": "function", "function": {"name": call.name, "arguments": _arguments(call.arguments, control)}}


def _arguments(text: str, control: re.Pattern[str]) -> Any:
    """An object where it is one: templates write it in their own way. Anything else stays as the model wrote it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) and _is_tame(value, control) else text


def _is_tame(value: Any, control: re.Pattern[str]) -> bool:
    """Neither too deep, nor with a control token in a key."""
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        if any(control.search(key) for item in level if isinstance(item, dict) for key in item):
            return False
        level = [child for item in level for child in _children(item)]
        if not level:
            return True
    return False


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
