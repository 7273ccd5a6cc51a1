"""What both engines promise behind the voice, on the demo checkpoint: seeds, logprobs, wishes, masks, scores."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.chat.gate.question import CANDIDATES
from qqvl_server.chat.gate.scenes import Line, rendered
from qqvl_server.engine.steps.request import TokenMask
from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.backend import GrammarCompiler
from qqvl_server.generation.constraints import grammar
from qqvl_server.generation.engines import choosing
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
    TextPart,
    TokenLogprob,
    Tool,
    Urgency,
)
from qqvl_server.generation.prompts.preprocess import Preprocessor, Prompt
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import EngineSettings
from qqvl_server.weights.load import LoadedModel
from tests.calls import collected
from tests.generation.conftest import exact
from tests.pictures import encoded, picture

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["generate", "paged"])
def machine(request: pytest.FixtureRequest, demo: Path) -> tuple[str, LoadedModel]:
    """A model for each engine: the paged one takes its attention over."""
    return request.param, exact(demo)


@pytest.fixture
def loaded(machine: tuple[str, LoadedModel]) -> LoadedModel:
    return machine[1]


@pytest.fixture
async def voice(machine: tuple[str, LoadedModel], preprocessor: Preprocessor) -> AsyncIterator[LocalVoice[Prompt]]:
    voice = voice_of(*machine, preprocessor, OneText(machine[1], preprocessor))
    yield voice
    await voice.aclose()


def voice_of(
    name: str,
    loaded: LoadedModel,
    preprocessor: Preprocessor,
    grammars: GrammarCompiler,
    metrics: Metrics | None = None,
) -> LocalVoice[Prompt]:
    settings = EngineSettings(engine=name, kv_cache_gb=0.05)
    return LocalVoice(
        preprocessor,
        choosing.build(loaded, settings, loaded.context_tokens, metrics or Metrics()),
        device=loaded.device,
        context_tokens=loaded.context_tokens,
        metrics=Metrics(),
        grammars=grammars,
    )


def request(*messages: ChatMessage, **sampling: Any) -> GenerationRequest:
    wanted = Sampling(**{"max_new_tokens": 60, **sampling})
    return GenerationRequest("r", messages, wanted, time.monotonic() + 60)


class Only:
    """Lets through nothing but one text's tokens, then the end."""

    def __init__(self, ids: Sequence[int], size: int) -> None:
        self._left = list(ids)
        self._size = size

    def allowed(self) -> Sequence[int]:
        words = [0] * (self._size // 32 + 1)
        words[self._left[0] // 32] = 1 << self._left[0] % 32
        return [word - 2**32 if word >= 2**31 else word for word in words]

    def accept(self, token: int) -> None:
        assert token == self._left.pop(0)


class OneText:
    """A grammar is the one text that may be said."""

    # No thought is opened here.
    unended: Sequence[int] = ()

    def __init__(self, loaded: LoadedModel, preprocessor: Preprocessor) -> None:
        ends = loaded.model.generation_config.eos_token_id
        self._end = ends[0] if isinstance(ends, list) else ends
        self._size = loaded.model.config.get_text_config().vocab_size
        self._encode = preprocessor.encode

    async def compile(self, grammar: Grammar) -> Callable[[int], TokenMask]:
        if grammar.kind is not GrammarKind.CHOICE:
            raise InvalidRequest("只会 choice")
        ids = [*self._encode(grammar.text), self._end]
        return lambda _budget: Only(ids, self._size)

    def given_up(self, grammar: Grammar) -> tuple[str, ...]:
        return ()

    async def while_calling(self, tools: Sequence[Tool], *, strict: bool) -> None:
        return None


HELLO = ChatMessage("user", (TextPart("你好"),))


async def reply_to(voice: LocalVoice[Prompt], **sampling: Any) -> tuple[str, list[TokenLogprob], Finished]:
    events = [event async for event in voice.generate(request(HELLO, **sampling))]
    deltas = [event for event in events if isinstance(event, TextDelta)]
    assert isinstance(events[-1], Finished)
    return "".join(d.text for d in deltas), [token for d in deltas for token in d.tokens], events[-1]


async def test_the_same_seed_gives_the_same_reply_and_another_may_not(voice: LocalVoice[Prompt]) -> None:
    wild = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 12, "ignore_eos": True}
    first, again, other = [(await reply_to(voice, seed=seed, **wild))[0] for seed in (7, 7, 8)]
    assert first == again != other


async def test_log_probabilities_are_those_of_a_plain_forward(voice: LocalVoice[Prompt]) -> None:
    text, tokens, last = await reply_to(voice, temperature=0, logprobs=3)
    assert b"".join(token.data for token in tokens).decode() == text != ""
    assert last.usage.completion_tokens == len(tokens)
    for token in tokens:
        assert token.top[0].token == token.token
        assert [t.logprob for t in token.top] == sorted((t.logprob for t in token.top), reverse=True)
        assert len(token.top) == 3
    (score, unlikely) = await voice.score(request(HELLO), [text, "完全不相干"])
    assert score == pytest.approx(sum(token.logprob for token in tokens), abs=1e-2)
    assert unlikely < score
    assert (await reply_to(voice, temperature=0, logprobs=0))[1][0].top == ()


async def test_wishes_of_the_next_token_are_honoured(voice: LocalVoice[Prompt]) -> None:
    text, tokens, _ = await reply_to(voice, temperature=0, logprobs=0)
    first, second = tokens[0].token, tokens[1].token
    assert (await reply_to(voice, temperature=0, logprobs=0, logit_bias=((first, -100.0),)))[1][0].token != first
    bad = tokens[0].data.decode()
    assert (await reply_to(voice, temperature=0, logprobs=0, bad_words=(bad,)))[1][0].token != first
    several = text[1:4]
    assert len(voice._prompts.encode(several)) > 1
    assert several not in (await reply_to(voice, temperature=0, bad_words=("别的", several)))[0]
    stopped, _, last = await reply_to(voice, temperature=0, stop_token_ids=(second,))
    assert stopped == tokens[0].data.decode()
    assert (last.reason, last.stopped_by) == (FinishReason.STOP, second)
    longer = len(tokens) + 5
    assert (await reply_to(voice, temperature=0, min_new_tokens=longer))[2].usage.completion_tokens >= longer
    endless = (await reply_to(voice, temperature=0, ignore_eos=True, max_new_tokens=longer))[2]
    assert (endless.reason, endless.usage.completion_tokens) == (FinishReason.LENGTH, longer)
    harsh = (await reply_to(voice, temperature=0, presence_penalty=2.0, frequency_penalty=2.0, min_p=0.1, logprobs=0))[
        1
    ]
    assert harsh[0].token == first
    assert (await reply_to(voice, temperature=0, stop=(text[1:3],)))[0] == text[:1]


async def test_the_repetition_penalty_is_that_of_plain_generate(
    voice: LocalVoice[Prompt], plain: LoadedModel, preprocessor: Preprocessor
) -> None:
    inputs = preprocessor.prepare(request(HELLO)).inputs
    whole = plain.model.generate(**inputs, max_new_tokens=20, repetition_penalty=1.7, do_sample=False)
    expected = plain.processor.tokenizer.decode(whole[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert (await reply_to(voice, temperature=0, repetition_penalty=1.7, max_new_tokens=20))[0] == expected


async def test_a_grammar_decides_every_token_of_every_choice(voice: LocalVoice[Prompt]) -> None:
    asked = replace(request(HELLO), grammar=Grammar(GrammarKind.CHOICE, "只能这样说"), choices=2)
    events = [event async for event in voice.generate(asked)]
    for choice in range(2):
        assert "".join(e.text for e in events if isinstance(e, TextDelta) and e.choice == choice) == "只能这样说"


async def test_a_call_that_need_not_come_still_fits_its_schema(
    machine: tuple[str, LoadedModel], preprocessor: Preprocessor
) -> None:
    loaded = machine[1]
    compiler = grammar.GrammarCompiler(loaded.processor.tokenizer, loaded.end_tokens, loaded.vocabulary)
    voice = voice_of(*machine, preprocessor, compiler)
    cities = {"type": "object", "properties": {"city": {"enum": ["上海", "广州"]}}, "required": ["city"]}
    tools = (Tool("get_weather", "查询城市天气", json.dumps(cities)),)
    for text, called in (("北京今天天气怎么样？", True), ("你好", False)):
        asked = replace(request(ChatMessage("user", (TextPart(text),)), temperature=0), tools=tools)
        content, calls = collected([event async for event in voice.generate(asked)])
        assert [call.name for call in calls] == ["get_weather"] * called
        assert all(json.loads(call.arguments)["city"] in ("上海", "广州") for call in calls)
        assert bool(content) is not called
    await voice.aclose()
    compiler.close()


async def test_seeded_choices_differ_and_come_again(voice: LocalVoice[Prompt], library: ImageLibrary) -> None:
    message = ChatMessage("user", (TextPart("看"), ImagePart(library.add(encoded(picture())))))
    asked = request(message, seed=3, temperature=6.0, top_k=0, top_p=1.0, max_new_tokens=8, ignore_eos=True)

    async def choices(first: int, count: int) -> list[str]:
        sampling = replace(asked.sampling, seed=first)
        events = [e async for e in voice.generate(replace(asked, choices=count, sampling=sampling))]
        assert sum(isinstance(event, Finished) for event in events) == count
        return ["".join(e.text for e in events if isinstance(e, TextDelta) and e.choice == n) for n in range(count)]

    three = await choices(3, 3)
    assert len(set(three)) == 3
    assert [*(await choices(3, 1)), *(await choices(4, 1)), *(await choices(5, 1))] == three


async def test_raw_prompts_are_continued(voice: LocalVoice[Prompt], preprocessor: Preprocessor) -> None:
    raw = "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    asked = replace(request(temperature=0), raw=raw)
    said = "".join([e.text async for e in voice.generate(asked) if isinstance(e, TextDelta)])
    ids = preprocessor.tokenize(asked)
    same = replace(request(temperature=0), raw=ids)
    assert said == "".join([e.text async for e in voice.generate(same) if isinstance(e, TextDelta)]) != ""


async def test_choices_share_the_prompt_where_there_is_a_cache(
    machine: tuple[str, LoadedModel], voice: LocalVoice[Prompt]
) -> None:
    message = ChatMessage("user", (TextPart("讲一个很长的故事，里面要有山、有水、有人。" * 4),))
    asked = replace(request(message, temperature=0, stop=("。",)), choices=3)
    ends = [event async for event in voice.generate(asked) if isinstance(event, Finished)]
    cached = {end.choice: end.usage.cached_tokens for end in ends}
    assert [cached[choice] >= 16 for choice in (1, 2)] == [machine[0] == "paged"] * 2


async def test_how_long_replies_wait_is_in_the_metrics(
    machine: tuple[str, LoadedModel], preprocessor: Preprocessor
) -> None:
    metrics = Metrics()
    voice = voice_of(*machine, preprocessor, OneText(machine[1], preprocessor), metrics)
    for _ in range(2):
        await reply_to(voice)
    await voice.aclose()

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"class": "private"})

    assert (value("qqvl_queue_seconds_count"), value("qqvl_time_to_first_token_seconds_count")) == (2, 2)
    queued, first = value("qqvl_queue_seconds_sum"), value("qqvl_time_to_first_token_seconds_sum")
    assert queued is not None
    assert first is not None
    assert 0 < queued < first
    assert (value("qqvl_inter_token_seconds_count") or 0) > 0


async def test_whether_to_join_a_talk_is_read_and_not_generated(
    machine: tuple[str, LoadedModel], preprocessor: Preprocessor
) -> None:
    """Only the new line and the question are computed; the question is no part of what stays cached."""
    assert [len(preprocessor.encode(candidate)) for candidate in CANDIDATES] == [1, 1]
    metrics = Metrics()
    voice = voice_of(*machine, preprocessor, OneText(machine[1], preprocessor), metrics)
    lines = [Line(scene="s", text=text, at=0, speaker="张三", user_id="1").stored for text in ("早" * 40, "谁会修")]
    for count in (1, 2):
        asked = replace(request(), messages=rendered(lines[:count]), owner="group:1", urgency=Urgency.ACTIVE_SPEECH)
        speak, silent = await voice.score(asked, CANDIDATES)
        assert speak < 0
        assert silent < 0
    value = metrics.registry.get_sample_value
    assert value("qqvl_generation_tokens_total") == 0
    if machine[0] == "paged":
        talk = sum(await voice.count(rendered(lines[:1])[:-1]))
        assert talk - 16 <= (value("qqvl_prefix_cached_tokens_total") or 0) < talk + 16
    await voice.aclose()
