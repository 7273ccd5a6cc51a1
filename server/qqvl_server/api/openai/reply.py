"""One reply to a chat as it grows: the voice's events in, deltas of OpenAI's message out."""

from __future__ import annotations

from typing import Any

from qqvl_server.api.openai import render
from qqvl_server.generation.events import SpeechEvent
from qqvl_server.generation.port import (
    Finished,
    FinishReason,
    Reasoning,
    TextDelta,
    TextEvent,
    TokenLogprob,
    ToolCallArguments,
    ToolCallStarted,
    Usage,
)


class ChatReply:
    """Makes choices of chunks. ``thoughts`` false keeps them back. ``usage`` is set once the reply has finished."""

    def __init__(self, index: int, *, thoughts: bool = True) -> None:
        self._index = index
        self._thoughts = thoughts
        self._tokens: list[TokenLogprob] = []
        self._calls = 0
        self.usage: Usage | None = None

    def opening(self) -> dict[str, Any]:
        return self._choice({"role": "assistant", "content": ""})

    def take(self, event: TextEvent) -> dict[str, Any] | None:
        """None where nothing is to be told."""
        if isinstance(event, Finished):
            return self._finish(event)
        self._tokens += event.tokens
        delta = self._delta(event)
        return None if delta is None else self._choice(delta)

    def _finish(self, event: Finished) -> dict[str, Any]:
        self.usage = event.usage
        called = self._calls and event.reason is FinishReason.STOP
        last = self._choice({}, "tool_calls" if called else event.reason.value)
        return last | {"stop_reason": event.stopped_by}

    def _delta(self, event: SpeechEvent) -> dict[str, Any] | None:
        match event:
            case TextDelta(text):
                return {"content": text}
            case Reasoning(text):
                return {"reasoning_content": text} if text and self._thoughts else None
            case ToolCallStarted(index, call_id, name):
                self._calls += 1
                function = {"name": name, "arguments": ""}
                return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
            case ToolCallArguments(index, piece):
                return {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    def _choice(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": reason}
        if self._tokens:
            choice["logprobs"] = render.chat_logprobs(self._tokens)
            self._tokens.clear()
        return choice


class ChatMessageFold:
    """Chunks put together again as the whole choice, so that a stream and a plain answer cannot differ."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._content: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._logprobs: list[dict[str, Any]] = []
        self._last: dict[str, Any] = {}

    def add(self, choice: dict[str, Any]) -> None:
        delta = choice["delta"]
        self._content.append(delta.get("content") or "")
        self._thoughts.append(delta.get("reasoning_content") or "")
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                self._calls.append({"id": call["id"], "type": "function", "function": dict(call["function"])})
            else:
                self._calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        if choice["logprobs"]:
            self._logprobs += choice["logprobs"]["content"]
        self._last = choice

    def whole(self, *, logprobs: bool) -> dict[str, Any]:
        content = "".join(self._content)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if self._calls and not content.strip() else content,
        }
        message["refusal"] = None
        if thoughts := "".join(self._thoughts):
            message["reasoning_content"] = thoughts
        if self._calls:
            message["tool_calls"] = self._calls
        return {
            "index": self._index,
            "message": message,
            "logprobs": {"content": self._logprobs, "refusal": None} if logprobs else None,
            "finish_reason": self._last["finish_reason"],
            "stop_reason": self._last["stop_reason"],
        }
