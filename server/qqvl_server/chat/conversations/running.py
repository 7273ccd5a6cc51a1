"""An answer as it is made in the browser: it goes on when nobody looks, and whoever looks again misses nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from qqvl_server.chat.conversations.values import Said, Status
from qqvl_server.generation.port import (
    Finished,
    Reasoning,
    TextDelta,
    TextEvent,
    ToolCall,
    ToolCallArguments,
    ToolCallStarted,
)


@dataclass(frozen=True, slots=True)
class Ended:
    """The last of what is told: the message as it stays. ``code`` is of the error that broke it off."""

    said: Said
    code: str | None = None


Told = TextEvent | Ended


class Running:
    """``said`` is the answer so far; ``asked`` the message that it answers, where it came just now; ``owner`` whose
    conversation it is in."""

    def __init__(self, owner: str, said: Said, asked: Said | None, began: float) -> None:
        self.owner = owner
        self.asked = asked
        self.task: asyncio.Task[None] | None = None
        # How it was asked to end.
        self.ends: Status | None = None
        self._is_begun = False
        self._base = said
        self._began = began
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._first_s: float | None = None
        self._told: list[Told] = []
        self._news = asyncio.Event()

    @property
    def is_over(self) -> bool:
        return bool(self._told) and isinstance(self._told[-1], Ended)

    @property
    def said(self) -> Said:
        return replace(
            self._base,
            text="".join(self._text),
            reasoning="".join(self._thoughts),
            tool_calls=tuple(self._calls),
            first_token_s=self._first_s,
        )

    def begin(self) -> None:
        """Raises CancelledError: it was asked to end already."""
        self._is_begun = True
        if self.ends is not None:
            raise asyncio.CancelledError

    def end(self, status: Status) -> bool:
        """Ask it to end; whether there is anything to end. A task that is cancelled before it begins would keep
        nothing."""
        if self.task is None or self.ends is not None:
            return False
        self.ends = status
        return not self._is_begun or self.task.cancel()

    def take(self, event: TextEvent) -> None:
        """One more event of the voice's."""
        if self._first_s is None:
            self._first_s = time.monotonic() - self._began
        match event:
            case TextDelta(text):
                self._text.append(text)
            case Reasoning(text, retracts=retracts):
                if retracts:
                    self._thoughts += self._text
                    self._text.clear()
                self._thoughts.append(text)
            case ToolCallStarted(_, call_id, name):
                self._calls.append(ToolCall(call_id, name, ""))
            case ToolCallArguments(index, text):
                call = self._calls[index]
                self._calls[index] = replace(call, arguments=call.arguments + text)
            case Finished(reason, usage):
                self._base = replace(self._base, finish_reason=reason.value, usage=usage)
                return
        self._tell(event)

    def close(self, status: Status, error: str | None = None) -> Said:
        """The message as it stays; told by ``tell_end`` once it is kept."""
        took = time.monotonic() - self._began
        self._base = replace(self._base, status=status, error=error, seconds=took)
        return self.said

    def tell_end(self, code: str | None = None) -> None:
        self._tell(Ended(self.said, code))

    def watch(self) -> tuple[Said, AsyncGenerator[Told, None]]:
        """The answer so far, and all that is told after it, up to the end."""
        return self.said, self._follow(len(self._told) - self.is_over)

    async def _follow(self, place: int) -> AsyncGenerator[Told, None]:
        while True:
            while place < len(self._told):
                event = self._told[place]
                place += 1
                yield event
                if isinstance(event, Ended):
                    return
            await self._news.wait()

    def _tell(self, event: Told) -> None:
        self._told.append(event)
        # All who wait now are woken; the next wait is for the next.
        news, self._news = self._news, asyncio.Event()
        news.set()
