"""One reply as it grows: the voice's events in, Anthropic's stream events out; and these put together as a message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final

from qqvl_server.api.anthropic import render
from qqvl_server.generation.port import (
    Finished,
    FinishReason,
    Reasoning,
    TextDelta,
    TextEvent,
    ToolCallArguments,
    ToolCallStarted,
)
from qqvl_server.generation.replies.json_mender import JsonMender

# Blocks that come back are not read, so that there is nothing to sign; clients drop thoughts without a signature.
_SIGNATURE: Final = "qqvl"


class Thoughts(StrEnum):
    """How thoughts are told: their text, that there were some, or not at all."""

    TOLD = "summarized"
    OMITTED = "omitted"
    HIDDEN = "hidden"


class MessageReply:
    def __init__(self, thoughts: Thoughts = Thoughts.TOLD) -> None:
        self._thoughts = thoughts
        self._blocks = 0
        self._open = ""
        self._called = False

    def take(self, event: TextEvent) -> Iterator[dict[str, Any]]:
        match event:
            case TextDelta(text):
                yield from self._text(text)
            case Reasoning(text):
                yield from self._thought(text)
            case ToolCallStarted(_, call_id, name):
                self._called = True
                call_id = f"toolu_{call_id.removeprefix('call_')}"
                yield from self._opened("tool_use", {"id": call_id, "name": name, "input": {}})
            case ToolCallArguments(_, piece):
                yield self._delta({"type": "input_json_delta", "partial_json": piece})
            case Finished():
                yield from self._finish(event)

    def _finish(self, event: Finished) -> Iterator[dict[str, Any]]:
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

    def _thought(self, text: str) -> Iterator[dict[str, Any]]:
        if not text or self._thoughts is Thoughts.HIDDEN:
            return
        if self._open != "thinking":
            yield from self._opened("thinking", {"thinking": "", "signature": ""})
        if self._thoughts is Thoughts.TOLD:
            yield self._delta({"type": "thinking_delta", "thinking": text})

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
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": _SIGNATURE})
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
                self._add(event["delta"])
            case "content_block_stop":
                self._settle(self._message["content"][-1], "".join(self._written))
            case "message_delta":
                self._message |= event["delta"]
                self._message["usage"] |= event["usage"]

    def whole(self) -> dict[str, Any]:
        return self._message

    def _add(self, delta: dict[str, Any]) -> None:
        match delta:
            case {"signature": signature}:
                self._message["content"][-1]["signature"] = signature
            case {"text": piece} | {"thinking": piece} | {"partial_json": piece}:
                self._written.append(piece)

    @staticmethod
    def _settle(block: dict[str, Any], written: str) -> None:
        if block["type"] in ("text", "thinking"):
            block[block["type"]] = written
        else:
            block["input"] = _object(written) or _object(JsonMender.mended(written)) or {}


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
