"""A whole reply as its text and its calls, read by the product's own parser."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from qqvl_server.generation.port import TextDelta, TextEvent, ToolCall, ToolCallArguments, ToolCallStarted
from qqvl_server.generation.replies.tool_frames import ToolCallParser, new_call_id


def collected(events: Iterable[TextEvent]) -> tuple[str, tuple[ToolCall, ...]]:
    content: list[str] = []
    calls: list[ToolCall] = []
    for event in events:
        match event:
            case TextDelta(text):
                content.append(text)
            case ToolCallStarted(_, call_id, name):
                calls.append(ToolCall(call_id, name, ""))
            case ToolCallArguments(index, text):
                calls[index] = ToolCall(calls[index].id, calls[index].name, calls[index].arguments + text)
    return "".join(content), tuple(calls)


def read_reply(
    text: str, names: Collection[str] | None = None, ids: Callable[[], str] = new_call_id
) -> tuple[str, tuple[ToolCall, ...]]:
    parser = ToolCallParser(names, ids)
    return collected([*parser.push(text), *parser.finish()])
