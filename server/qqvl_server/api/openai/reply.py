"""One reply to a chat as it grows: text events in, deltas of OpenAI's message out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qqvl_server.api.openai import render
from qqvl_server.generation.port import Finished, FinishReason, TextDelta, TokenLogprob, Usage
from qqvl_server.generation.replies.tool_frames import CallArguments, CallStarted, Content, ToolCallParser, ToolEvent


class ChatReply:
    """Yields choices of chunks. ``parser`` is given where the model may call functions.

    ``parallel`` false lets only the first call through. ``usage`` is set once the reply has finished.
    """

    def __init__(self, index: int, parser: ToolCallParser | None, *, parallel: bool) -> None:
        self._index = index
        self._parser = parser
        self._parallel = parallel
        self._tokens: list[TokenLogprob] = []
        self._calls = 0
        self.usage: Usage | None = None

    def opening(self) -> dict[str, Any]:
        return self._choice({"role": "assistant", "content": ""})

    def push(self, delta: TextDelta) -> Iterator[dict[str, Any]]:
        self._tokens += delta.tokens
        if self._parser is None:
            yield self._choice({"content": delta.text})
        else:
            yield from self._told(self._parser.push(delta.text))

    def finish(self, event: Finished) -> Iterator[dict[str, Any]]:
        if self._parser is not None:
            yield from self._told(self._parser.finish())
        self.usage = event.usage
        called = self._calls and event.reason is FinishReason.STOP
        last = self._choice({}, "tool_calls" if called else event.reason.value)
        yield last | {"stop_reason": event.stopped_by}

    def _told(self, events: list[ToolEvent]) -> Iterator[dict[str, Any]]:
        for event in events:
            delta = self._delta(event)
            if delta is not None:
                yield self._choice(delta)

    def _delta(self, event: ToolEvent) -> dict[str, Any] | None:
        match event:
            case Content(text):
                return {"content": text}
            case CallStarted(index, call_id, name):
                if index and not self._parallel:
                    return None
                self._calls += 1
                function = {"name": name, "arguments": ""}
                return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
            case CallArguments(index, piece):
                if index and not self._parallel:
                    return None
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
        self._calls: list[dict[str, Any]] = []
        self._logprobs: list[dict[str, Any]] = []
        self._last: dict[str, Any] = {}

    def add(self, choice: dict[str, Any]) -> None:
        delta = choice["delta"]
        self._content.append(delta.get("content") or "")
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
        if self._calls:
            message["tool_calls"] = self._calls
        return {
            "index": self._index,
            "message": message,
            "logprobs": {"content": self._logprobs, "refusal": None} if logprobs else None,
            "finish_reason": self._last["finish_reason"],
            "stop_reason": self._last["stop_reason"],
        }
