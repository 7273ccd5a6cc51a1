"""How many tokens messages take, by the best measure at hand: the upstream's own, a tokenizer beside us, or a bound.

Each message is measured once and remembered: a chat is counted again on each of its turns.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from qqvl_server.generation.port import ChatMessage, GenerationRequest, ImagePart, TextPart
from qqvl_server.media.image import ImageRef

_REMEMBERED: Final = 8192
# A header that stands before an answer, where nobody knows better.
_HEADER: Final = 8
# What a template says about tools, beside their JSON.
_OF_TOOLS: Final = 256
# Answers that a bound is corrected by, and how far it stays above the worst of them.
_LOOKED_AT: Final = 32
_ABOVE: Final = 1.15
# A shorter prompt is mostly frame.
_LEAST: Final = 200


class Ruler(Protocol):
    """``exact``: it measures as the upstream's model does; else never less, and answers correct it.

    ``frame`` is what a message takes beside its texts and pictures, ``header`` what stands before an answer.
    """

    @property
    def exact(self) -> bool: ...
    @property
    def frame(self) -> int: ...
    @property
    def header(self) -> int: ...
    async def text(self, text: str) -> int: ...
    async def picture(self, width: int, height: int) -> int:
        """Of one frame, as it is sent."""


class Bytes:
    """A bound: no tokenizer makes more tokens than a text has bytes, and no usual model more of a picture."""

    exact = False
    frame = 8
    header = _HEADER

    async def text(self, text: str) -> int:
        return len(text.encode("utf-8", "replace"))

    async def picture(self, width: int, height: int) -> int:
        return picture_bound(width, height)


def picture_bound(width: int, height: int) -> int:
    """Of models whose tokens follow a picture's size Qwen2.5-VL has the smallest: 28 pixels. Others take a number."""
    return max(-(-width // 28) * -(-height // 28), 300)


class Counting:
    """``size`` tells how large a picture is sent; ``rule`` gives the ruler that holds now."""

    def __init__(self, rule: Callable[[], Ruler], size: Callable[[ImageRef], tuple[int, int]]) -> None:
        self._rule = rule
        self._size = size
        self._last: Ruler | None = None
        self._known: OrderedDict[bytes, int] = OrderedDict()
        self._ratios: deque[float] = deque(maxlen=_LOOKED_AT)

    async def messages(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        ruler = self._ruler()
        return tuple([self._corrected(await self._raw(message, ruler), ruler) for message in messages])

    async def request(self, request: GenerationRequest) -> int:
        """Of the whole prompt."""
        ruler = self._ruler()
        return self._corrected(await self._raw_request(request, ruler), ruler)

    def bound(self, request: GenerationRequest) -> int:
        """More than it can be, at once: for prompts that fit so easily that nobody need count."""
        pictures = 0
        length = len(request.raw) * 4 if request.raw is not None else 4 * len(request.opening) + 256
        for message in request.messages:
            length += 16
            for part in message.parts:
                if isinstance(part, TextPart):
                    length += 4 * len(part.text)
                else:
                    pictures += picture_bound(*self._size(part.image)) * len(part.image.frames)
            length += sum(4 * len(call.arguments) + 4 * len(call.name) + 32 for call in message.tool_calls)
        tools = sum(4 * len(tool.parameters) + 4 * len(tool.description or "") + 64 for tool in request.shown_tools)
        return length + pictures + tools + (_OF_TOOLS if request.shown_tools else 0)

    async def learn(self, request: GenerationRequest, prompt_tokens: int) -> None:
        """An answer told how long its prompt really was."""
        ruler = self._ruler()
        if ruler.exact or not prompt_tokens:
            return
        raw = await self._raw_request(request, ruler)
        if raw >= _LEAST:
            self._ratios.append(prompt_tokens / raw)

    def unlearn(self) -> None:
        """A prompt was longer than thought: back to the bound."""
        self._ratios.clear()

    def _ruler(self) -> Ruler:
        """What was measured by another one is forgotten."""
        ruler = self._rule()
        if ruler is not self._last:
            self._last = ruler
            self._known.clear()
        return ruler

    def _corrected(self, raw: int, ruler: Ruler) -> int:
        if ruler.exact or not self._ratios:
            return raw
        return -int(-raw * min(max(self._ratios) * _ABOVE, 1.0) // 1)

    async def _raw_request(self, request: GenerationRequest, ruler: Ruler) -> int:
        if request.raw is not None:
            return await ruler.text(request.raw) if isinstance(request.raw, str) else len(request.raw)
        found = sum([await self._raw(message, ruler) for message in request.messages]) + ruler.header
        if request.opening:
            found += await ruler.text(request.opening)
        for tool in request.shown_tools:
            found += await ruler.text(f"{tool.name}{tool.description or ''}{tool.parameters}") + ruler.frame + 16
        return found + (_OF_TOOLS if request.shown_tools else 0)

    async def _raw(self, message: ChatMessage, ruler: Ruler) -> int:
        name = hashlib.blake2b(repr(message).encode("utf-8", "replace"), digest_size=16).digest()
        if name in self._known:
            self._known.move_to_end(name)
            return self._known[name]
        text = "".join(part.text for part in message.parts if isinstance(part, TextPart))
        pictures = [part.image for part in message.parts if isinstance(part, ImagePart)]
        calls = "".join(call.name + call.arguments for call in message.tool_calls)
        sizes = [self._size(image) for image in pictures for _ in image.frames]
        costs = await asyncio.gather(*(ruler.picture(*size) for size in sizes))
        found = ruler.frame + await ruler.text(text + calls) + sum(costs) + 32 * len(message.tool_calls)
        self._known[name] = found
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found
