"""One reply as it grows: text events in, Anthropic's stream events out; and these put together again as a message."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from qqvl_server.api.anthropic import render
from qqvl_server.generation.port import Finished, FinishReason, TextDelta
from qqvl_server.generation.replies.json_mender import JsonMender
from qqvl_server.generation.replies.tool_frames import CallArguments, CallStarted, Content, ToolCallParser, ToolEvent


def new_call_id() -> str:
    return f"toolu_{uuid.uuid4().hex[:24]}"


class MessageReply:
    """``parser`` is given where the model may call tools. ``parallel`` false lets only the first call through."""

    def __init__(self, parser: ToolCallParser | None, *, parallel: bool) -> None:
        self._parser = parser
        self._parallel = parallel
        self._blocks = 0
        self._open = ""
        self._called = False

    def push(self, delta: TextDelta) -> Iterator[dict[str, Any]]:
        if self._parser is None:
            yield from self._text(delta.text)
        else:
            yield from self._told(self._parser.push(delta.text))

    def finish(self, event: Finished) -> Iterator[dict[str, Any]]:
        if self._parser is not None:
            yield from self._told(self._parser.finish())
        if not self._blocks:
            # Clients read the first block without looking whether there is one.
            yield from self._opened("text", {"text": ""})
        yield from self._closed()
        stop = {"stop_reason": self._reason(event), "stop_sequence": None}
        if stop["stop_reason"] == "stop_sequence":
            stop["stop_sequence"] = str(event.stopped_by)
        yield {"type": "message_delta", "delta": stop, "usage": render.usage(event.usage)}
        yield {"type": "message_stop"}

    def _reason(self, event: Finished) -> str:
        if event.reason is FinishReason.LENGTH:
            return "max_tokens"
        if isinstance(event.stopped_by, str):
            return "stop_sequence"
        return "tool_use" if self._called else "end_turn"

    def _told(self, events: list[ToolEvent]) -> Iterator[dict[str, Any]]:
        for event in events:
            match event:
                case Content(text):
                    yield from self._text(text)
                case CallStarted(index, call_id, name) if self._parallel or index == 0:
                    self._called = True
                    yield from self._opened("tool_use", {"id": call_id, "name": name, "input": {}})
                case CallArguments(index, piece) if self._parallel or index == 0:
                    yield self._delta({"type": "input_json_delta", "partial_json": piece})

    def _text(self, text: str) -> Iterator[dict[str, Any]]:
        if text:
            if self._open != "text":
                yield from self._opened("text", {"text": ""})
            yield self._delta({"type": "text_delta", "text": text})

    def _opened(self, kind: str, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self._closed()
        self._open = kind
        yield {"type": "content_block_start", "index": self._blocks, "content_block": {"type": kind, **block}}
        self._blocks += 1
        if self._blocks == 1:
            yield {"type": "ping"}

    def _closed(self) -> Iterator[dict[str, Any]]:
        if self._open:
            self._open = ""
            yield {"type": "content_block_stop", "index": self._blocks - 1}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._blocks - 1, "delta": delta}


class MessageFold:
    """Stream events put together as the whole message, so that a stream and a plain answer cannot differ."""

    def __init__(self, model: str) -> None:
        self._message = render.message(model)
        self._written: list[str] = []

    def add(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "content_block_start":
                self._message["content"].append(dict(event["content_block"]))
                self._written = []
            case "content_block_delta":
                delta = event["delta"]
                self._written.append(delta["text"] if delta["type"] == "text_delta" else delta["partial_json"])
            case "content_block_stop":
                self._settle(self._message["content"][-1], "".join(self._written))
            case "message_delta":
                self._message |= event["delta"]
                self._message["usage"] |= event["usage"]

    def whole(self) -> dict[str, Any]:
        return self._message

    @staticmethod
    def _settle(block: dict[str, Any], written: str) -> None:
        if block["type"] == "text":
            block["text"] = written
        else:
            block["input"] = _object(written) or _object(JsonMender.mended(written)) or {}


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
