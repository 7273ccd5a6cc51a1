"""A reply's text as what it means: thoughts, words and calls of tools. The one place that drives their parsers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from qqvl_server.generation.events import SpeechEvent
from qqvl_server.generation.port import GenerationRequest, Reasoning, TextDelta, TokenLogprob
from qqvl_server.generation.replies.thoughts import Thoughts
from qqvl_server.generation.replies.tool_frames import ToolCallParser


class Speech:
    """One choice of one reply; what is read does not depend on how its text was cut into pieces.

    Args:
        inside: the prompt opened a thought.
    """

    def __init__(self, request: GenerationRequest, choice: int = 0, *, inside: bool = False) -> None:
        self._choice = choice
        self._thoughts: Thoughts | None = Thoughts(inside=inside, anywhere=request.thinking.anywhere)
        names = [tool.name for tool in request.callable_tools]
        parallel = request.tool_choice.parallel
        self._calls = ToolCallParser(names, parallel=parallel) if request.shown_tools else None
        # Tokens whose text has made no event yet.
        self._tokens: list[TokenLogprob] = []
        self._thought = False
        if request.opening:
            self._thoughts.skip(request.opening)

    @property
    def thinking(self) -> bool:
        return self._thoughts is not None and self._thoughts.inside

    @property
    def has_thought(self) -> bool:
        return self._thought if self._thoughts is None else self._thoughts.any

    @property
    def plain(self) -> bool:
        """What follows is words, as they are written, and needs no reading."""
        return self._thoughts is None and self._calls is None and not self._tokens

    def push(self, text: str, tokens: Sequence[TokenLogprob] = ()) -> Iterator[SpeechEvent]:
        self._tokens += tokens
        if self._thoughts is None:
            return self._told([TextDelta(text)] if text else [])
        thought = self._thoughts.inside
        pieces: list[TextDelta | Reasoning] = self._thoughts.push(text)
        if not pieces and self._tokens and (thought or self._thoughts.inside or self._thoughts.parting):
            # The tokens of marks, and of the white space around them, are the thought's.
            pieces = [Reasoning("")]
        if self._thoughts.settled:
            self._thought, self._thoughts = self._thoughts.any, None
        return self._told(pieces)

    def finish(self) -> Iterator[SpeechEvent]:
        """The rest, when no more text will come."""
        if self._thoughts is not None:
            yield from self._told(self._thoughts.finish())
        if self._calls is not None:
            yield from self._placed(self._calls.finish())
        if self._tokens:
            # Those of half a character, or of a frame's end.
            yield from self._placed([TextDelta("")])

    def _told(self, pieces: Sequence[TextDelta | Reasoning]) -> Iterator[SpeechEvent]:
        for piece in pieces:
            if self._calls is None or isinstance(piece, Reasoning):
                yield from self._placed([piece])
            else:
                yield from self._placed(self._calls.push(piece.text))

    def _placed(self, events: Sequence[SpeechEvent]) -> Iterator[SpeechEvent]:
        """Each with its choice, and the first with the tokens that have come."""
        for event in events:
            if self._choice or self._tokens:
                event = replace(event, choice=self._choice, tokens=tuple(self._tokens))
                self._tokens.clear()
            yield event
