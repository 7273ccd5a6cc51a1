"""Qwen's tool-call frame, read out of a reply as it grows; ``grammar.tool_grammar`` writes the same frame.

``<tool_call>\\n{"name": …, "arguments": {…}}\\n</tool_call>``, as the checkpoint's chat template asks for it. What is
read does not depend on how the text was cut into deltas.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Collection
from typing import Any, Final

from qqvl_server.generation.port import TextDelta, ToolCallArguments, ToolCallStarted
from qqvl_server.generation.replies.json_mender import JsonMender

OPENING: Final = "<tool_call>"
CLOSING: Final = "</tool_call>"
_KEYS: Final = ("arguments", "parameters")
# Up to the arguments' first character. Names hold no "<", so that no frame's end can hide in one.
_HEAD: Final = re.compile(
    r'\s*\{\s*"name"\s*:\s*"((?:\\.|[^"\\<]){1,256})"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\S)'
)


CallEvent = TextDelta | ToolCallStarted | ToolCallArguments


def new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


class ToolCallParser:
    """Text in, what to tell the caller out; never raises.

    Small faults in the JSON are mended. A frame that is none, or calls an unknown function, is content, word for word,
    unless its call has already been told. White space around frames is dropped.

    Args:
        names: the functions on offer; None takes any.
        ids: makes the calls' ids.
        parallel: false tells of the first call only.
    """

    def __init__(
        self, names: Collection[str] | None = None, ids: Callable[[], str] = new_call_id, *, parallel: bool = True
    ) -> None:
        self._names = names
        self._ids = ids
        self._parallel = parallel
        self._read: Callable[[], bool] = self._text
        self._buffer = ""
        # White space before the frame, which belongs to the content if the frame turns out to be none.
        self._gap = ""
        self._after_call = False
        self._calls = 0
        self._arguments = JsonMender()
        self._events: list[CallEvent] = []

    def push(self, text: str) -> list[CallEvent]:
        if self._read == self._text and not self._buffer and not self._after_call and _is_plain(text):
            return [TextDelta(text)]
        self._buffer += text
        while self._read():
            pass
        return self._told()

    def finish(self) -> list[CallEvent]:
        """The rest, when no more text will come; a call cut short keeps what came of it."""
        if self._read == self._text:
            self._say(self._buffer)
        elif self._read == self._head:
            self._whole(self._buffer, "", mend=False)
        elif self._read == self._in_arguments:
            self._argue(self._arguments.rest())
        self._buffer = ""
        self._read = self._text
        return self._told()

    def _told(self) -> list[CallEvent]:
        events, self._events = self._events, []
        return events

    def _text(self) -> bool:
        before, opening, after = self._buffer.partition(OPENING)
        if opening:
            content = before.rstrip()
            self._gap = before[len(content) :]
            self._say(content)
            self._buffer = after
            self._read = self._head
            return True
        held = _held_back(self._buffer)
        self._say(self._buffer[: len(self._buffer) - held])
        self._buffer = self._buffer[len(self._buffer) - held :]
        return False

    def _head(self) -> bool:
        found = _HEAD.match(self._buffer)
        name = _name(found[1]) if found else None
        if found and name is not None and self._is_known(name) and self._buffer[found.end()] == "{":
            self._start(name)
            self._arguments = JsonMender()
            self._buffer = self._buffer[found.end() :]
            self._read = self._in_arguments
            return True
        body, closing, after = self._buffer.partition(CLOSING)
        if closing:
            self._whole(body, CLOSING, mend=True)
            self._buffer = after
            self._read = self._text
        return bool(closing)

    def _in_arguments(self) -> bool:
        pieces: list[str] = []
        mender, buffer = self._arguments, self._buffer
        at = 0
        waiting = False
        while at < len(buffer) and not mender.done and not waiting:
            ending = _ending(buffer, at, mender.in_string)
            if ending is None:
                pieces.append(mender.feed(buffer[at]))
                at += 1
            elif ending:
                pieces.append(mender.close())
            else:
                waiting = True
        self._argue("".join(pieces))
        self._buffer = buffer[at:]
        if mender.done:
            self._read = self._after_arguments
        return mender.done

    def _after_arguments(self) -> bool:
        """The frame's own brace and its end, both of which models forget."""
        rest = self._buffer.lstrip("} \t\r\n")
        if rest.startswith(",") and "}" not in self._buffer.partition(",")[0]:
            # Further members of the frame say nothing to us.
            _, closing, rest = rest.partition(CLOSING)
            if not closing:
                return False
        elif rest == "" or (CLOSING.startswith(rest) and rest != CLOSING):
            return False
        else:
            rest = rest.removeprefix(CLOSING)
        self._buffer = rest
        self._read = self._text
        return True

    def _whole(self, body: str, closing: str, *, mend: bool) -> None:
        """A frame whose name or arguments could not be told before its end."""
        call = _call(body) or (_call(JsonMender.mended(body)) if mend else None)
        if call is not None and self._is_known(call[0]):
            self._start(call[0])
            self._argue(call[1])
        else:
            self._say(self._gap + OPENING + body + closing)

    def _is_known(self, name: str) -> bool:
        return self._names is None or name in self._names

    def _say(self, text: str) -> None:
        if self._after_call:
            text = text.lstrip()
        if text:
            self._events.append(TextDelta(text))
            self._after_call = False

    def _start(self, name: str) -> None:
        if self._is_told(self._calls):
            self._events.append(ToolCallStarted(self._calls, self._ids(), name))
        self._calls += 1
        self._after_call = True

    def _argue(self, text: str) -> None:
        if text and self._is_told(self._calls - 1):
            self._events.append(ToolCallArguments(self._calls - 1, text))

    def _is_told(self, index: int) -> bool:
        return self._parallel or index == 0


def _is_plain(text: str) -> bool:
    """Whether none of it can belong to a frame."""
    return bool(text) and "<" not in text and not text[-1].isspace()


def _held_back(text: str) -> int:
    """How much of the end may belong to a frame: the beginning of its mark, and white space before it."""
    longest = min(len(OPENING) - 1, len(text))
    mark = next((size for size in range(longest, 0, -1) if OPENING.startswith(text[len(text) - size :])), 0)
    return len(text) - len(text[: len(text) - mark].rstrip())


def _ending(buffer: str, at: int, in_string: bool) -> bool | None:
    """Whether the frame ends here in the middle of the arguments: None for no, False for not known yet."""
    # A string never holds a bare line break, so this one is the frame's even where a quote was forgotten.
    mark = "\n" + CLOSING if in_string else CLOSING
    if buffer[at] != mark[0]:
        return None
    here = buffer[at : at + len(mark)]
    if here == mark:
        return True
    return False if mark.startswith(here) and at + len(here) == len(buffer) else None


def _name(quoted: str) -> str | None:
    try:
        name = json.loads(f'"{quoted}"')
    except ValueError:
        return None
    return str(name)


def _call(body: str) -> tuple[str, str] | None:
    """Name and arguments (JSON text) of a frame's content, if it is a call."""
    value = _parsed(body)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments: Any = next((value[key] for key in _KEYS if value.get(key) is not None), {})
    if isinstance(arguments, str):
        # Written as a text that holds JSON.
        arguments = _parsed(arguments) if arguments.strip() else {}
    if not isinstance(arguments, dict):
        return None
    return value["name"], json.dumps(arguments, ensure_ascii=False)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
