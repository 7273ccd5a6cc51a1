"""What an upstream streams, as the events of the port: words, thoughts in three spellings, calls, ends.

Thoughts come as ``reasoning`` (vLLM, Ollama), ``reasoning_content`` (DeepSeek, SGLang, llama.cpp) or ``<think>`` in the
text; calls as ``tool_calls``, or as frames in the text where the server does not read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from qqvl_server.generation.engines.upstream.setbacks import torn
from qqvl_server.generation.events import SpeechEvent
from qqvl_server.generation.port import (
    Finished,
    FinishReason,
    GenerationRequest,
    Reasoning,
    TextDelta,
    TokenLogprob,
    ToolCallArguments,
    ToolCallStarted,
    Usage,
)
from qqvl_server.generation.replies.speech import Speech
from qqvl_server.generation.replies.stops import StopTexts
from qqvl_server.generation.replies.tool_frames import new_call_id


class Hearing:
    """All choices of one answer. ``prompt_tokens`` of its usage are 0 where the upstream does not tell them."""

    def __init__(self, request: GenerationRequest) -> None:
        self._choices = [_Choice(request, number) for number in range(request.choices)]
        self._usage: dict[str, Any] = {}

    @property
    def enough(self) -> bool:
        """Nothing that may still come is wanted."""
        if all(choice.is_cut for choice in self._choices):
            return True
        return bool(self._usage) and all(choice.reason for choice in self._choices)

    def take(self, chunk: dict[str, Any]) -> Iterator[SpeechEvent]:
        """Raises Setback: a shape that is nobody's."""
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        told = chunk.get("choices") or []
        if not isinstance(told, list):
            raise torn()
        for one in told:
            number = one.get("index", 0) if isinstance(one, dict) else None
            if not isinstance(number, int) or not 0 <= number < len(self._choices):
                raise torn()
            yield from self._choices[number].take(one)

    def finish(self) -> Iterator[SpeechEvent | Finished]:
        """Once the stream is over. Raises Setback: it broke off, for no choice ends without a reason."""
        if not all(choice.reason for choice in self._choices):
            raise torn()
        made = self._made()
        for choice in self._choices:
            yield from choice.finish()
            assert choice.reason is not None
            usage = Usage(
                _number(self._usage, "prompt_tokens"),
                made[choice.number],
                _number(self._usage.get("prompt_tokens_details"), "cached_tokens"),
                _number(self._usage.get("completion_tokens_details"), "reasoning_tokens") if not choice.number else 0,
            )
            yield Finished(choice.reason, usage, choice.number, choice.stopped_by)

    def _made(self) -> list[int]:
        """Tokens of each choice: the usage tells of all together, in the measure of the pieces that came."""
        pieces = [choice.pieces for choice in self._choices]
        total = _number(self._usage, "completion_tokens") or sum(pieces)
        shares = [total * count // max(sum(pieces), 1) for count in pieces]
        shares[-1] += total - sum(shares)
        return shares


class _Choice:
    def __init__(self, request: GenerationRequest, number: int) -> None:
        self.number = number
        self.reason: FinishReason | None = None
        self.stopped_by: str | int | None = None
        self.pieces = 0
        self.is_cut = False
        self._stop_ids = request.sampling.stop_token_ids
        self._stops = StopTexts(request.sampling.stop)
        self._speech = Speech(request, number) if request.raw is None else None
        self._calls = _Calls(number, parallel=request.tool_choice.parallel)
        # A thought has been told and nothing said since: white space parts them.
        self._parting = False

    def take(self, told: dict[str, Any]) -> Iterator[SpeechEvent]:
        if not self.is_cut:
            tokens = _tokens(told.get("logprobs"))
            delta = told.get("delta") if isinstance(told.get("delta"), dict) else {"content": told.get("text")}
            assert isinstance(delta, dict)
            self.pieces += len(tokens) or any(value for name, value in delta.items() if name != "role")
            yield from self._thought(delta, tokens)
            yield from self._said(_text(delta, "content"), tokens)
            for event in self._calls.take(delta.get("tool_calls")):
                yield from self._held()
                yield event
        if told.get("finish_reason"):
            self._end(told)

    def finish(self) -> Iterator[SpeechEvent]:
        yield from self._held()
        yield from self._calls.finish()
        if self._speech is not None:
            yield from self._speech.finish()

    def _thought(self, delta: dict[str, Any], tokens: list[TokenLogprob]) -> Iterator[SpeechEvent]:
        """Some send both spellings of one thought."""
        text = _text(delta, "reasoning") or _text(delta, "reasoning_content")
        if text:
            self._parting = True
            yield Reasoning(text, self.number, tuple(tokens))
            tokens.clear()

    def _said(self, text: str, tokens: list[TokenLogprob]) -> Iterator[SpeechEvent]:
        if self._parting:
            text = text.lstrip()
            self._parting = not text
        if not text and not tokens:
            return
        free, stop = self._stops.push(text)
        yield from self._spoken(free, tokens)
        if stop is not None:
            self.is_cut = True
            self.reason, self.stopped_by = FinishReason.STOP, stop

    def _spoken(self, text: str, tokens: list[TokenLogprob]) -> Iterator[SpeechEvent]:
        if self._speech is not None:
            yield from self._speech.push(text, tokens)
        elif text or tokens:
            yield TextDelta(text, self.number, tuple(tokens))

    def _held(self) -> Iterator[SpeechEvent]:
        """What waited for a stop text that has not come."""
        rest = self._stops.flush()
        if rest and not self.is_cut:
            yield from self._spoken(rest, [])

    def _end(self, told: dict[str, Any]) -> None:
        if self.is_cut:
            return
        self.reason = FinishReason.LENGTH if told["finish_reason"] == "length" else FinishReason.STOP
        stopped_by = told.get("stop_reason", told.get("matched_stop"))
        if isinstance(stopped_by, str) or (isinstance(stopped_by, int) and stopped_by in self._stop_ids):
            self.stopped_by = stopped_by


class _Calls:
    """Calls of one choice, from pieces that may come in any cut: some servers give all calls of a reply index 0."""

    def __init__(self, choice: int, *, parallel: bool) -> None:
        self._choice = choice
        self._parallel = parallel
        # Of each call that was begun: what the server calls it, and whether any arguments came.
        self._begun: list[tuple[tuple[Any, Any], bool]] = []

    def take(self, told: Any) -> Iterator[SpeechEvent]:
        for piece in told if isinstance(told, list) else ():
            function = piece.get("function") if isinstance(piece, dict) else None
            if not isinstance(function, dict):
                continue
            name, index, given = function.get("name"), piece.get("index", 0), piece.get("id")
            if isinstance(name, str) and name and self._is_new(index, given):
                self._begun.append(((index, given), False))
                if self._is_told:
                    yield ToolCallStarted(len(self._begun) - 1, new_call_id(), name, self._choice)
            yield from self._argued(function.get("arguments"))

    def finish(self) -> Iterator[SpeechEvent]:
        for number, (_, argued) in enumerate(self._begun[: None if self._parallel else 1]):
            if not argued:
                yield ToolCallArguments(number, "{}", self._choice)

    @property
    def _is_told(self) -> bool:
        return self._parallel or len(self._begun) == 1

    def _is_new(self, index: Any, given: Any) -> bool:
        if not self._begun:
            return True
        last = self._begun[-1][0]
        return index != last[0] or (bool(given) and given != last[1])

    def _argued(self, value: Any) -> Iterator[SpeechEvent]:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) if value else ""
        if text and self._begun and self._is_told:
            self._begun[-1] = (self._begun[-1][0], True)
            yield ToolCallArguments(len(self._begun) - 1, text, self._choice)


def _text(delta: dict[str, Any], name: str) -> str:
    value = delta.get(name)
    return value if isinstance(value, str) else ""


def _number(value: Any, name: str) -> int:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, int) and found > 0 else 0


def _tokens(told: Any) -> list[TokenLogprob]:
    """Of a chat's choice (``content``), or a completion's (``tokens``, ``token_logprobs``, ``top_logprobs``)."""
    if not isinstance(told, dict):
        return []
    if isinstance(told.get("content"), list):
        return [
            replace(_token(entry), top=tuple(_token(top) for top in entry.get("top_logprobs") or ()))
            for entry in told["content"]
            if isinstance(entry, dict)
        ]
    names, values = told.get("tokens") or (), told.get("token_logprobs") or ()
    tops = told.get("top_logprobs") or [None] * len(names)
    return [
        TokenLogprob(-1, str(name).encode(), _logprob(value), tuple(
            TokenLogprob(-1, str(text).encode(), _logprob(logprob)) for text, logprob in (top or {}).items()
        ))
        for name, value, top in zip(names, values, tops, strict=False)
    ]  # fmt: skip


def _token(entry: dict[str, Any]) -> TokenLogprob:
    data = entry.get("bytes")
    raw = bytes(data) if isinstance(data, list) else str(entry.get("token", "")).encode("utf-8", "replace")
    token = entry.get("id")
    return TokenLogprob(token if isinstance(token, int) else -1, raw, _logprob(entry.get("logprob")))


def _logprob(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
