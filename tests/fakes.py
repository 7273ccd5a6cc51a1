"""Small fakes with behaviour, for what a test must control: a voice, and a picture book without a disk."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence

from qqvl_server.errors import ImageRejected, InvalidRequest, QqvlError
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    FinishReason,
    GenerationRequest,
    ImagePart,
    TextDelta,
    TextEvent,
    TextPart,
    Usage,
    VoiceStatus,
)
from qqvl_server.generation.replies.speech import Speech
from qqvl_server.media.image import ImageRef

Script = Callable[[GenerationRequest], str | QqvlError]


class ScriptedVoice:
    """Answers by a function of the request; one token is one character, a picture is ten.

    ``gate`` holds every answer back until it is set, and ``asked`` is what reached the model so far.
    """

    def __init__(self, script: Script, context_tokens: int = 1000) -> None:
        self._script = script
        self._context_tokens = context_tokens
        self.asked: list[GenerationRequest] = []
        self.warmed: list[GenerationRequest] = []
        self.gate = asyncio.Event()
        self.gate.set()
        # Why pictures of the history are not shown.
        self.unseen: tuple[str, ...] = ()
        self.running = 0
        self.most_running = 0
        # What each reply costs, and what is owed for them.
        self.seconds = 0.0
        self.owed: dict[str, float] = {}

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    def status(self) -> VoiceStatus:
        return VoiceStatus(True, True, True, "cpu")

    @property
    def shares_steps(self) -> bool:
        return True

    def take_seconds(self, owner: str) -> float:
        return self.owed.pop(owner, 0.0)

    async def count(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        return tuple(count(message) for message in messages)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextEvent, None]:
        self.asked.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.owed[request.owner] = self.owed.get(request.owner, 0.0) + self.seconds
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            said = self._script(request)
            if isinstance(said, QqvlError):
                yield TextDelta("half of a rep")
                raise said
            for choice in range(request.choices):
                speech = Speech(request, choice)
                for event in (*speech.push(said), *speech.finish()):
                    yield event
                usage = Usage(sum(count(m) for m in request.messages), len(said))
                yield Finished(FinishReason.STOP, usage, choice, unseen=self.unseen)
        finally:
            self.running -= 1

    def given_up(self, request: GenerationRequest) -> tuple[str, ...]:
        return request.grammar.given_up if request.grammar else ()

    async def score(self, request: GenerationRequest, candidates: Sequence[str]) -> tuple[float, ...]:
        """Certain of what the script would begin with, and nearly sure that it is nothing else."""
        self.asked.append(request)
        said = self._script(request)
        if isinstance(said, QqvlError):
            raise said
        if not candidates or not all(candidates):
            raise InvalidRequest("要比较的候选不能为空")
        return tuple(0.0 if said.startswith(candidate) else -10.0 for candidate in candidates)

    async def warm(self, request: GenerationRequest) -> None:
        self.warmed.append(request)

    async def watch(self) -> None:
        await asyncio.Event().wait()

    async def length(self, request: GenerationRequest) -> int:
        return len(await self.tokenize(request))

    async def tokenize(self, request: GenerationRequest) -> tuple[int, ...]:
        if isinstance(request.raw, tuple):
            return request.raw
        text = request.raw if request.raw is not None else "".join(text_of(m) for m in request.messages)
        return tuple(map(ord, text))

    async def detokenize(self, ids: Sequence[int]) -> str:
        if not all(0 <= token < 0x110000 for token in ids):
            raise InvalidRequest("token 编号超出词表")
        return "".join(map(chr, ids))

    async def aclose(self) -> None:
        pass


def count(message: ChatMessage) -> int:
    return sum(len(part.text) if isinstance(part, TextPart) else 10 for part in message.parts)


def text_of(message: ChatMessage) -> str:
    return "".join(part.text if isinstance(part, TextPart) else "<image>" for part in message.parts)


def images_of(message: ChatMessage) -> list[str]:
    return [part.image.sha256 for part in message.parts if isinstance(part, ImagePart)]


class PictureShelf:
    """Takes any word but ``bad`` for a picture."""

    def __init__(self) -> None:
        self.lost: set[str] = set()

    def add_base64(self, text: str) -> ImageRef:
        if text == "bad":
            raise ImageRejected("图片已损坏，打不开")
        return ImageRef(hashlib.sha256(text.encode()).hexdigest(), "png", 64, 64, (0,), len(text))

    def holds(self, ref: ImageRef) -> bool:
        return ref.sha256 not in self.lost
