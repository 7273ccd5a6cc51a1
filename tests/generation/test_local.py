"""The local voice: order, cancel, deadline, failure, with an engine the test controls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from qqvl_server.engine.request import TokenMask
from qqvl_server.errors import DeadlineExceeded, EngineDead, GenerationFailed, PromptTooLong
from qqvl_server.generation.channel import End, LikelyToken
from qqvl_server.generation.local import LocalVoice
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    FinishReason,
    GenerationRequest,
    Sampling,
    TextDelta,
    TextPart,
    Usage,
)
from qqvl_server.generation.serial import SerialEngine
from qqvl_server.observe.metrics import Metrics

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Letters:
    text: str

    @property
    def tokens(self) -> int:
        return len(self.text)


class LetterPrompts:
    """One letter is one token, both ways; refuses to be used on the event loop."""

    def count(self, message: ChatMessage) -> int:
        return sum(len(part.text) for part in message.parts if isinstance(part, TextPart))

    def prepare(self, request: GenerationRequest) -> Letters:
        assert threading.current_thread() is not threading.main_thread()
        return Letters("".join(p.text for m in request.messages for p in m.parts if isinstance(p, TextPart)))

    def tokenize(self, request: GenerationRequest) -> tuple[int, ...]:
        return self.encode(self.prepare(request).text)

    def detokenize(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def decoder(self) -> LetterDecoder:
        return LetterDecoder()

    def spell(self, token: int) -> bytes:
        return chr(token).encode()


class LetterDecoder:
    def push(self, token: int) -> str:
        return chr(token)


class StepEngine:
    """Echoes the prompt letter by letter; waits for ``step`` before each when told to."""

    def __init__(self) -> None:
        self.step = threading.Semaphore(10_000)
        self.made = 0
        self.error: Exception | None = None
        self.together = 0
        self.most_together = 0
        self.stopped = threading.Event()

    def run(
        self,
        prompt: Letters,
        sampling: Sampling,
        on_token: Callable[[int | LikelyToken], None],
        stop: Callable[[], bool],
        mask: TokenMask | None = None,
    ) -> End:
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        try:
            for letter in prompt.text[: sampling.max_new_tokens]:
                self.step.acquire(timeout=5)
                if stop():
                    self.stopped.set()
                    break
                if self.error is not None:
                    raise self.error
                self.made += 1
                on_token(ord(letter))
        finally:
            self.together -= 1
        return End(FinishReason.STOP)

    def score(self, prompt: Letters, candidates: Sequence[Sequence[int]]) -> tuple[float, ...]:
        return tuple(-float(len(candidate)) for candidate in candidates)


def voice_of(engine: StepEngine, context_tokens: int = 100) -> LocalVoice[Letters]:
    metrics = Metrics()
    serial: SerialEngine[Letters] = SerialEngine(engine, metrics)
    return LocalVoice(LetterPrompts(), serial, device="cpu", context_tokens=context_tokens, metrics=metrics)


def ask(text: str, *, seconds: float = 30, max_new_tokens: int = 50) -> GenerationRequest:
    messages = (ChatMessage("user", (TextPart(text),)),)
    return GenerationRequest("r", messages, Sampling(max_new_tokens), time.monotonic() + seconds)


async def said(voice: LocalVoice[Letters], request: GenerationRequest) -> str:
    return "".join([e.text async for e in voice.generate(request) if isinstance(e, TextDelta)])


async def test_text_streams_and_ends_with_true_usage() -> None:
    voice = voice_of(StepEngine())
    events = [event async for event in voice.generate(ask("你好吗"))]
    assert events == [TextDelta("你"), TextDelta("好"), TextDelta("吗"), Finished(FinishReason.STOP, Usage(3, 3))]
    await voice.aclose()


async def test_closing_the_stream_stops_the_model_at_the_next_token() -> None:
    engine = StepEngine()
    engine.step = threading.Semaphore(2)
    voice = voice_of(engine)
    async with aclosing(voice.generate(ask("a" * 40))) as events:
        async for _ in events:
            break
    engine.step.release(38)
    assert engine.stopped.wait(5)
    assert engine.made <= 3
    assert await said(voice, ask("后来")) == "后来"
    await voice.aclose()


async def test_the_deadline_ends_a_request_and_its_work() -> None:
    engine = StepEngine()
    engine.step = threading.Semaphore(1)
    voice = voice_of(engine)
    with pytest.raises(DeadlineExceeded):
        await said(voice, ask("abc", seconds=0.05))
    engine.step.release(100)
    assert engine.stopped.wait(5)
    assert await said(voice, ask("ok")) == "ok"
    await voice.aclose()


async def test_one_failure_is_one_request_and_words_of_ours() -> None:
    engine = StepEngine()
    voice = voice_of(engine)
    engine.error = RuntimeError("secret /path 0x7f")
    with pytest.raises(GenerationFailed) as failed:
        await said(voice, ask("x"))
    assert "secret" not in failed.value.message
    engine.error = None
    assert voice.status().alive
    assert await said(voice, ask("y")) == "y"
    await voice.aclose()


async def test_a_dead_engine_is_dead_for_everybody() -> None:
    engine = StepEngine()
    voice = voice_of(engine)
    engine.error = EngineDead("显卡出错")
    for _ in range(2):
        with pytest.raises(EngineDead):
            await said(voice, ask("x"))
    assert not voice.status().alive
    await voice.aclose()


async def test_a_prompt_over_the_context_is_refused_and_a_reply_is_cut_to_what_is_left() -> None:
    voice = voice_of(StepEngine(), context_tokens=10)
    with pytest.raises(PromptTooLong):
        await said(voice, ask("a" * 10))
    assert await said(voice, ask("a" * 7)) == "a" * 3
    await voice.aclose()
