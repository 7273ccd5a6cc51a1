"""Messages and tools as OpenAI's protocol has them. Pictures are handed in; nothing here blocks.

Texts of a chat that spell a control token of some model family are bent a little: what encodes them is not in our
hands, and ``<|im_end|>`` must not end a message because a member of a group wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.port import (
    ChatMessage,
    GenerationRequest,
    ImagePart,
    TextPart,
    Tool,
    ToolChoice,
    ToolMode,
    Urgency,
)

# A picture's addresses, or words that stand in its place.
Show = Callable[[ImagePart], tuple[str, ...] | str]

_CONTROL: Final = re.compile(
    r"<(?=[|｜][^|｜<>]{1,40}[|｜]>|/?(?:s|bos|eos|think|tool_call|tool_response|start_of_turn|end_of_turn)>)"
    r"|\[(?=/?INST\])"
)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def told(request: GenerationRequest, show: Show, *, tool_pictures: bool) -> list[dict[str, Any]]:
    """``tool_pictures`` false shows a tool's pictures in a message of the user's behind it."""
    bend = request.urgency is not Urgency.API
    found: list[dict[str, Any]] = []
    for message in request.messages:
        if message.role == "tool" and not tool_pictures and any(isinstance(p, ImagePart) for p in message.parts):
            texts = tuple(part for part in message.parts if isinstance(part, TextPart))
            pictures = tuple(part for part in message.parts if isinstance(part, ImagePart))
            found.append(_message(ChatMessage("tool", texts, tool_call_id=message.tool_call_id), show, bend))
            found.append(_message(ChatMessage("user", pictures), show, bend))
        else:
            found.append(_message(message, show, bend))
    return found


def tools(offered: Sequence[Tool]) -> list[dict[str, Any]]:
    """Raises InvalidRequest: parameters that are no JSON object."""
    return [{"type": "function", "function": _function(tool)} for tool in offered]


def tool_choice(choice: ToolChoice) -> Any:
    """None where the upstream's default says it."""
    if choice.mode is not ToolMode.REQUIRED:
        return None
    return "required" if choice.named is None else {"type": "function", "function": {"name": choice.named}}


def _message(message: ChatMessage, show: Show, bend: bool) -> dict[str, Any]:
    bend = bend and message.role != "system"
    content: list[dict[str, Any]] = []
    for part in message.parts:
        shown = show(part) if isinstance(part, ImagePart) else _plain(part.text, bend)
        if not isinstance(shown, str):
            content += [{"type": "image_url", "image_url": {"url": address}} for address in shown]
        elif content and content[-1]["type"] == "text":
            content[-1] = {"type": "text", "text": content[-1]["text"] + shown}
        elif shown:
            content.append({"type": "text", "text": shown})
    only_text = all(entry["type"] == "text" for entry in content)
    # Some servers know but texts where there is no picture.
    told: dict[str, Any] = {
        "role": message.role,
        "content": "".join(e["text"] for e in content) if only_text else content,
    }
    if message.tool_calls:
        told["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.role == "tool":
        told["tool_call_id"] = message.tool_call_id or ""
    return told


def _plain(text: str, bend: bool) -> str:
    """Half of a surrogate pair is no letter that JSON's readers agree about."""
    if _SURROGATE.search(text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _CONTROL.sub(lambda found: found[0] + " ", text) if bend else text


def _function(tool: Tool) -> dict[str, Any]:
    try:
        parameters = json.loads(tool.parameters or "{}")
    except (ValueError, RecursionError):
        raise InvalidRequest("工具的参数说明不是有效的 JSON", param=tool.where or None) from None
    if not isinstance(parameters, dict):
        raise InvalidRequest("工具的参数说明必须是 JSON 对象", param=tool.where or None)
    described = {} if tool.description is None else {"description": tool.description}
    return {"name": tool.name, **described, "parameters": parameters or {"type": "object", "properties": {}}}
