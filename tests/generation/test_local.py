"""The local voice: order, cancel, deadline, failure, with an engine the test controls."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import pytest

from qqvl_server.engine.steps.meter import Meter
from qqvl_server.engine.steps.request import TokenMask
from qqvl_server.errors import Busy, DeadlineExceeded, EngineDead, GenerationFailed, InvalidRequest, PromptTooLong
from qqvl_server.generation.engines.serial import SerialEngine
from qqvl_server.generation.local import LocalVoice
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    FinishReason,
    GenerationRequest,
    Grammar,
    GrammarKind,
    ImagePart,
    Sampling,
    TextDelta,
    TextEvent,
    TextPart,
    Thinking,
    Tool,
    Urgency,
    Usage,
)
from qqvl_server.generation.replies.channel import End, LikelyToken, TokenChannel
from qqvl_server.generation.replies.thoughts import opens_thought
from qqvl_server.media.image import ImageRef
from qqvl_server.observe.metrics import Metrics

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Letters:
    text: str
    unseen: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return len(self.text)

    @property
    def opens_thought(self) -> bool:
        return opens_thought(self.text)

    @property
    def thinks(self) -> bool:
        return False


class LetterPrompts:
    """One letter is one token, both ways; refuses to be used on the event loop."""

    def count(self, message: ChatMessage) -> int:
        return sum(len(part.text) for part in message.parts if isinstance(part, TextPart))

    def prepare(self, request: GenerationRequest) -> Letters:
        assert threading.current_thread() is not threading.main_thread()
        texts = (p.text for m in request.messages for p in m.parts if isinstance(p, TextPart))
        return Letters("".join(texts) + request.opening)

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

    def spellings(self) -> Sequence[bytes]:
        return [chr(token).encode() for token in range(128)]


class LetterDecoder:
    def push(self, token: int) -> str:
        return chr(token)


class StepEngine:
    """Echoes the prompt letter by letter; waits for ``step`` before each when told to."""

    def __init__(self) -> None:
        self.step = threading.Semaphore(10_000)
        self.made = 0
        self.scored: list[str] = []
        self.error: Exception | None = None
        self.together = 0
        self.most_together = 0
        self.stopped = threading.Event()
        self.asked: list[Sampling] = []
        self.masks: list[TokenMask | None] = []

    def run(
        self,
        prompt: Letters,
        sampling: Sampling,
        on_token: Callable[[int | LikelyToken], None],
        stop: Callable[[], bool],
        mask: TokenMask | None = None,
    ) -> End:
        self.asked.append(sampling)
        self.masks.append(mask)
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        try:
            for letter in prompt.text[: sampling.max_new_tokens]:
                self.step.acquire(timeout=30)
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
        self.scored.append(prompt.text)
        return tuple(-float(len(candidate)) for candidate in candidates)


class AnyToken:
    def allowed(self) -> Sequence[int]:
        return [-1]

    def accept(self, token: int) -> None:
        pass


class Grammars:
    unended = (-1,)

    async def compile(self, grammar: Grammar) -> Callable[[int], TokenMask]:
        if grammar.text == "(":
            raise InvalidRequest("正则表达式写错了")
        return lambda _budget: AnyToken()

    async def while_calling(self, tools: Sequence[Tool], *, strict: bool) -> Callable[[int], TokenMask] | None:
        return lambda _budget: AnyToken()


def voice_of(engine: StepEngine, context_tokens: int = 100, **more: Any) -> LocalVoice[Letters]:
    metrics = Metrics()
    serial: SerialEngine[Letters] = SerialEngine(engine, metrics)
    return LocalVoice(LetterPrompts(), serial, device="cpu", context_tokens=context_tokens, metrics=metrics, **more)


def ask(text: str, *, seconds: float = 30, max_new_tokens: int = 50, **more: Any) -> GenerationRequest:
    messages = (ChatMessage("user", (TextPart(text),)),)
    sampling = Sampling(max_new_tokens, seed=more.pop("seed", None), stop=more.pop("stop", ()))
    return GenerationRequest("r", messages, sampling, time.monotonic() + seconds, **more)


async def said(voice: LocalVoice[Letters], request: GenerationRequest) -> str:
    return "".join([e.text async for e in voice.generate(request) if isinstance(e, TextDelta)])


async def test_pictures_that_were_not_shown_are_told_at_the_end() -> None:
    class Half(LetterPrompts):
        def prepare(self, request: GenerationRequest) -> Letters:
            return replace(super().prepare(request), unseen=("图片已过期",))

    voice = LocalVoice(
        Half(), SerialEngine(StepEngine(), Metrics()), device="cpu", context_tokens=100, metrics=Metrics()
    )
    events = [event async for event in voice.generate(ask("你好"))]
    assert events[-1] == Finished(FinishReason.STOP, Usage(2, 2), unseen=("图片已过期",))
    await voice.aclose()


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
    assert engine.stopped.wait(30)
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
    assert engine.stopped.wait(30)
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


async def test_choices_are_told_apart_and_each_has_a_seed_of_its_own() -> None:
    engine = StepEngine()
    voice = voice_of(engine)
    events = [event async for event in voice.generate(ask("好啊", choices=3, seed=40))]
    for choice in range(3):
        assert "".join(e.text for e in events if isinstance(e, TextDelta) and e.choice == choice) == "好啊"
        assert Finished(FinishReason.STOP, Usage(2, 2), choice) in events
    assert len(events) == 9
    assert [sampling.seed for sampling in engine.asked] == [40, 41, 42]
    await voice.aclose()


async def test_closing_abandons_every_choice_and_one_failure_fails_them_all() -> None:
    engine = StepEngine()
    engine.step = threading.Semaphore(1)
    voice = voice_of(engine)
    async with aclosing(voice.generate(ask("a" * 20, choices=4))) as events:
        async for _ in events:
            break
    engine.step.release(100)
    assert await said(voice, ask("ok")) == "ok"
    assert len(engine.asked) <= 3
    engine.error = GenerationFailed("显存不够")
    with pytest.raises(GenerationFailed):
        await said(voice, ask("x", choices=2))
    await voice.aclose()


async def test_a_stop_text_ends_the_reply_and_the_work() -> None:
    engine = StepEngine()
    engine.step = threading.Semaphore(5)
    voice = voice_of(engine)
    events = [event async for event in voice.generate(ask("你好END再说" + "x" * 30, stop=("END",)))]
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "你好"
    assert events[-1] == Finished(FinishReason.STOP, Usage(37, 5), 0, "END")
    engine.step.release(100)
    assert engine.stopped.wait(30)
    await voice.aclose()


async def test_more_than_may_wait_are_told_to_come_back() -> None:
    engine = StepEngine()
    engine.step = threading.Semaphore(0)
    voice = voice_of(engine, max_pending=2)
    waiting = [asyncio.create_task(said(voice, ask("ab"))) for _ in range(2)]
    await asyncio.sleep(0)
    for refused in (said(voice, ask("c")), voice.score(ask("c"), ["x"])):
        with pytest.raises(Busy) as busy:
            await refused
        assert busy.value.retry_after >= 1
    engine.step.release(100)
    assert await asyncio.gather(*waiting) == ["ab", "ab"]
    assert await said(voice, ask("d")) == "d"
    await voice.aclose()


async def test_one_owner_that_floods_keeps_no_other_out() -> None:
    engine = StepEngine()
    engine.step = threading.Semaphore(0)
    voice = voice_of(engine, max_pending=4)
    api: dict[str, Any] = {"owner": "api:key", "urgency": Urgency.API}
    flood = [asyncio.create_task(said(voice, ask("ab", **api))) for _ in range(4)]
    await asyncio.sleep(0)
    others = [asyncio.create_task(said(voice, ask("cd", owner=f"group:{n}"))) for n in range(2)]
    done, waiting = await asyncio.wait(flood, timeout=30, return_when=asyncio.FIRST_EXCEPTION)
    with pytest.raises(Busy):
        # The two that came last made room; a third of the same owner has no more right than those who wait.
        await said(voice, ask("ab", **api))
    engine.step.release(100)
    assert await asyncio.gather(*others) == ["cd", "cd"]
    told = await asyncio.gather(*flood, return_exceptions=True)
    assert told[:2] == ["ab", "ab"]
    assert [type(one) for one in told[2:]] == [Busy, Busy]
    assert done <= set(flood[2:])
    assert waiting
    await voice.aclose()


async def test_replies_to_one_prompt_count_each_and_what_has_begun_stays() -> None:
    engine = StepEngine()
    engine.step = threading.Semaphore(1)
    voice = voice_of(engine, max_pending=4)
    begun = voice.generate(ask("abc", choices=4, owner="api:key", urgency=Urgency.API))
    assert isinstance(await anext(begun), TextDelta)
    waiting = asyncio.create_task(said(voice, ask("cd", owner="group:1")))
    with pytest.raises(Busy):
        await said(voice, ask("x", choices=4, owner="api:other", urgency=Urgency.API))
    engine.step.release(100)
    rest = [event async for event in begun]
    assert sum(isinstance(event, Finished) for event in rest) == 4
    assert await waiting == "cd"
    await voice.aclose()


async def test_no_number_of_keys_keeps_a_chat_out() -> None:
    engine = StepEngine()
    engine.step = threading.Semaphore(0)
    voice = voice_of(engine, max_pending=3)
    keys = [asyncio.create_task(said(voice, ask("ab", owner=f"api:{n}", urgency=Urgency.API))) for n in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await said(voice, ask("ab", owner="api:3", urgency=Urgency.API))
    chat = asyncio.create_task(said(voice, ask("cd", owner="group:1")))
    await asyncio.sleep(0)
    engine.step.release(100)
    assert await chat == "cd"
    told = await asyncio.gather(*keys, return_exceptions=True)
    assert told[:2] == ["ab", "ab"]
    assert isinstance(told[2], Busy)
    await voice.aclose()


async def test_candidates_are_scored_and_empty_ones_refused() -> None:
    voice = voice_of(StepEngine(), context_tokens=10)
    assert await voice.score(ask("好"), ["是", "不是"]) == (-1.0, -2.0)
    for candidates in ([], ["是", ""]):
        with pytest.raises(InvalidRequest):
            await voice.score(ask("好"), candidates)
    with pytest.raises(PromptTooLong):
        await voice.score(ask("好"), ["很长" * 5])
    await voice.aclose()


async def test_candidates_are_no_thought_where_none_is_wanted() -> None:
    engine = StepEngine()
    voice = voice_of(engine)
    for thinking in (Thinking(), Thinking(enabled=False)):
        for asked in ("好<think>\n", "好"):
            await voice.score(replace(ask(asked), thinking=thinking), ["是", "不"])
    assert engine.scored == ["好<think>\n", "好", "好<think>\n\n</think>\n\n", "好"]
    await voice.aclose()


async def test_warming_never_raises() -> None:
    voice = voice_of(StepEngine(), context_tokens=10)
    for text in ("好", "a" * 11):
        await voice.warm(ask(text))
    await voice.aclose()
    await voice.warm(ask("好"))


async def test_each_choice_has_a_mask_of_its_own() -> None:
    engine = StepEngine()
    voice = voice_of(engine, grammars=Grammars())
    await said(voice, ask("ab", choices=2, grammar=Grammar(GrammarKind.REGEX, "a.*")))
    assert len({id(mask) for mask in engine.masks if isinstance(mask, AnyToken)}) == 2
    with pytest.raises(InvalidRequest):
        await said(voice, ask("ab", grammar=Grammar(GrammarKind.REGEX, "(")))
    await voice.aclose()
    plain = voice_of(engine)
    with pytest.raises(InvalidRequest):
        await said(plain, ask("ab", grammar=Grammar(GrammarKind.REGEX, "a")))
    await plain.aclose()


async def test_tools_on_offer_bring_a_mask_and_no_grammar() -> None:
    engine = StepEngine()
    voice = voice_of(engine, grammars=Grammars())
    assert await said(voice, ask("ab", tools=(Tool("f", None, "{}"),))) == "ab"
    assert [type(mask) for mask in engine.masks] == [AnyToken]
    await voice.aclose()


async def test_many_streams_at_once_are_told_less_often_and_lose_nothing() -> None:
    voice = voice_of(StepEngine())
    text = "一二三四五六七八九十" * 5

    async def events() -> list[TextEvent]:
        return [event async for event in voice.generate(ask(text, choices=2))]

    deltas_told = 0
    for told in await asyncio.gather(*(events() for _ in range(16))):
        for choice in range(2):
            deltas = [event for event in told if isinstance(event, TextDelta) and event.choice == choice]
            assert "".join(delta.text for delta in deltas) == text
            deltas_told += len(deltas)
            ends = [event for event in told if isinstance(event, Finished) and event.choice == choice]
            assert [end.usage.completion_tokens for end in ends] == [len(text)]
    # The last few, once the others have ended, are told token by token.
    assert deltas_told < 0.6 * 16 * 2 * len(text)
    await voice.aclose()


class OpenEngine:
    """Gives each reply its first token; the test gives the rest."""

    alive = True
    meter = Meter(exact=True)

    def __init__(self) -> None:
        self.channels: dict[str, TokenChannel] = {}

    def submit(
        self, prompt: Letters, request: GenerationRequest, channel: TokenChannel, mask: TokenMask | None = None
    ) -> None:
        self.channels[request.request_id] = channel
        channel.send(ord(prompt.text[0]))

    def score(
        self, prompt: Letters, candidates: Sequence[Sequence[int]], request: GenerationRequest, channel: TokenChannel
    ) -> None:
        raise NotImplementedError

    def warm(self, prompt: Letters, request: GenerationRequest) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Clock(asyncio.SelectorEventLoop):
    """Stands still, so that no pause passes, until it is moved."""

    now = 1.0

    def time(self) -> float:
        return self.now


@dataclass
class Crowd:
    """Twelve replies, each with its first letter told; ``texts`` is what came after it."""

    engine: OpenEngine
    texts: list[str]
    readers: list[asyncio.Task[None]]

    def send(self, letter: str) -> None:
        for channel in self.engine.channels.values():
            channel.send(ord(letter))

    async def settle(self) -> None:
        """Whatever can go on without the clock has gone on."""
        for _ in range(50):
            await asyncio.sleep(0)


def with_a_crowd(work: Callable[[Crowd], Awaitable[None]]) -> None:
    async def run() -> None:
        engine = OpenEngine()
        voice = LocalVoice(LetterPrompts(), engine, device="cpu", context_tokens=100, metrics=Metrics())
        replies = [voice.generate(replace(ask("一"), request_id=str(n))) for n in range(12)]
        for reply in replies:
            await anext(reply)
        texts = [""] * len(replies)

        async def read(place: int) -> None:
            async for event in replies[place]:
                texts[place] += event.text if isinstance(event, TextDelta) else "。"

        crowd = Crowd(engine, texts, [asyncio.create_task(read(place)) for place in range(len(replies))])
        try:
            await work(crowd)
        finally:
            for task in crowd.readers:
                task.cancel()
            await asyncio.wait(crowd.readers)
            await voice.aclose()

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(run())


def test_a_crowd_is_told_together_after_each_pause() -> None:
    async def beats(crowd: Crowd) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Clock)
        await crowd.settle()
        # The first four came when there was no crowd yet, and look at whatever comes next.
        crowd.send("零")
        await crowd.settle()
        for letter in "甲乙":
            before = list(crowd.texts)
            crowd.send(letter)
            await crowd.settle()
            assert crowd.texts == before
            loop.now += 1
            # The clock is looked at once for each turn of the loop.
            await crowd.settle()
            assert all(text.endswith(letter) for text in crowd.texts)
        assert set(crowd.texts) == {"零甲乙"}

    with_a_crowd(beats)


def test_in_a_crowd_the_end_of_a_reply_is_told_at_once() -> None:
    async def ends(crowd: Crowd) -> None:
        await crowd.settle()
        crowd.send("二")
        crowd.engine.channels["11"].send(End(FinishReason.STOP))
        await crowd.settle()
        assert crowd.texts[11] == "二。"
        crowd.engine.channels["10"].send(GenerationFailed("broken"))
        await crowd.settle()
        assert isinstance(crowd.readers[10].exception(), GenerationFailed)
        assert crowd.texts[9] == ""

    with_a_crowd(ends)


async def test_pictures_do_not_hold_up_words() -> None:
    looking = threading.Event()

    class SlowEyes(LetterPrompts):
        def prepare(self, request: GenerationRequest) -> Letters:
            if any(isinstance(part, ImagePart) for message in request.messages for part in message.parts):
                looking.wait(30)
            return super().prepare(request)

    voice = LocalVoice(
        SlowEyes(), SerialEngine(StepEngine(), Metrics()), device="cpu", context_tokens=100, metrics=Metrics()
    )
    parts = (TextPart("看"), ImagePart(ImageRef("0" * 64, "png", 64, 64, (0,), 1)))
    shown = replace(ask(""), messages=(ChatMessage("user", parts),))
    slow = [asyncio.create_task(said(voice, shown)) for _ in range(20)]
    await asyncio.sleep(0)
    assert await said(voice, ask("先说")) == "先说"
    looking.set()
    assert await asyncio.gather(*slow) == ["看"] * 20
    await voice.aclose()


async def test_text_to_tokens_and_back() -> None:
    voice = voice_of(StepEngine())
    assert await voice.detokenize(await voice.tokenize(ask("你好"))) == "你好"
    await voice.aclose()
