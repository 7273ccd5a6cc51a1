"""One reply as it grows: the voice's events in, the stream events of Responses out; the last of them holds it whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from qqvl_server.api import error_bodies, logprobs
from qqvl_server.api.responses import render
from qqvl_server.errors import QqvlError
from qqvl_server.generation.port import (
    Finished,
    FinishReason,
    Reasoning,
    TextDelta,
    TextEvent,
    TokenLogprob,
    ToolCallArguments,
    ToolCallStarted,
)

Event = dict[str, Any]


class ResponseReply:
    """``frame`` is the response with nothing said yet; ``response`` the reply so far, whole once its end is through."""

    def __init__(self, frame: dict[str, Any]) -> None:
        self.response = frame
        self._events = 0
        # The item that grows now, what of it was told, and with which log-probabilities.
        self._item: dict[str, Any] | None = None
        self._written: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._tokens: list[TokenLogprob] = []

    def opening(self) -> Iterator[Event]:
        yield self._event("response.created", response=self.response)
        yield self._event("response.in_progress", response=self.response)

    def take(self, event: TextEvent) -> Iterator[Event]:
        match event:
            case TextDelta(text):
                self._tokens += event.tokens
                yield from self._text(text)
            case Reasoning(text):
                yield from self._thought(text)
            case ToolCallStarted(_, call_id, name):
                yield from self._opened(render.function_call(call_id, name))
            case ToolCallArguments(_, piece):
                self._written.append(piece)
                yield self._of_item("response.function_call_arguments.delta", delta=piece)
            case Finished():
                yield from self._finish(event)

    def _finish(self, event: Finished) -> Iterator[Event]:
        if self._item is None and not self.response["output"]:
            # Clients read the first item without looking whether there is one.
            yield from self._opened_text()
        # Those of half a character, which is left out of the text.
        self._logprobs += logprobs.entries(self._tokens)
        status = "incomplete" if event.reason is FinishReason.LENGTH else "completed"
        yield from self._closed(status)
        if status == "incomplete":
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        self.response |= {
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "usage": render.usage(event.usage),
        }
        yield self._event(f"response.{status}", response=self.response)

    def failure(self, error: QqvlError) -> str:
        """The last events of a stream whose status is out already; SDKs raise the very last."""
        events = [] if self._events else list(self.opening())
        self.response |= {"status": "failed", "error": render.error(error)}
        events.append(self._event("response.failed", response=self.response))
        # The reference has the error's fields at the top, OpenAI's servers send them inside ``error`` as well.
        told = error_bodies.openai(error)
        events.append(self._event("error", **told["error"] | told | {"type": "error"}))
        return "".join(map(render.event, events))

    def _thought(self, text: str) -> Iterator[Event]:
        if not text:
            return
        if self._item is None or self._item["type"] != "reasoning":
            yield from self._opened(render.reasoning())
            yield self._of_item("response.content_part.added", content_index=0, part=render.reasoning_part(""))
        self._written.append(text)
        yield self._of_item("response.reasoning_text.delta", content_index=0, delta=text)

    def _text(self, text: str) -> Iterator[Event]:
        if not text:
            return
        if self._item is None or self._item["type"] != "message":
            yield from self._opened_text()
        told = logprobs.entries(self._tokens)
        self._tokens.clear()
        self._written.append(text)
        self._logprobs += told
        yield self._of_item("response.output_text.delta", content_index=0, delta=text, logprobs=told)

    def _opened_text(self) -> Iterator[Event]:
        yield from self._opened(render.message())
        yield self._of_item("response.content_part.added", content_index=0, part=render.text_part("", ()))

    def _opened(self, item: dict[str, Any]) -> Iterator[Event]:
        yield from self._closed("completed")
        self._item = item
        self._written = []
        self._logprobs = []
        yield self._event("response.output_item.added", output_index=len(self.response["output"]), item=dict(item))

    def _closed(self, status: str) -> Iterator[Event]:
        if self._item is None:
            return
        text = "".join(self._written)
        kind = self._item["type"]
        if kind == "function_call":
            name = self._item["name"]
            yield self._of_item("response.function_call_arguments.done", name=name, arguments=text)
            whole = self._item | {"arguments": text, "status": status}
        else:
            part = render.reasoning_part(text)
            if kind == "reasoning":
                yield self._of_item("response.reasoning_text.done", content_index=0, text=text)
            else:
                part = render.text_part(text, self._logprobs)
                told = {"content_index": 0, "text": text, "logprobs": self._logprobs}
                yield self._of_item("response.output_text.done", **told)
            yield self._of_item("response.content_part.done", content_index=0, part=part)
            whole = self._item | {"content": [part], "status": status}
        # What is still to be told of a text is told with it.
        self._tokens.clear()
        self._item = None
        index = len(self.response["output"])
        self.response["output"].append(whole)
        yield self._event("response.output_item.done", output_index=index, item=whole)

    def _of_item(self, kind: str, **fields: Any) -> Event:
        assert self._item is not None
        return self._event(kind, item_id=self._item["id"], output_index=len(self.response["output"]), **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._events, **fields}
        self._events += 1
        return event
