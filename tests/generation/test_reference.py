"""The demo checkpoint through the real voice: ``model.generate`` on a worker thread."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.engine.request import TokenMask
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
)
from qqvl_server.generation.preprocess import Preprocessor, Prompt
from qqvl_server.generation.reference import ReferenceEngine
from qqvl_server.generation.serial import SerialEngine
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import WeightsSettings
from qqvl_server.weights.load import LoadedModel, load
from qqvl_server.weights.locate import locate
from tests.pictures import COLOURS, encoded, picture

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def loaded(demo: Path) -> LoadedModel:
    return load(locate(str(demo), demo.parents[1]), WeightsSettings(device="cpu", dtype="float32"))


@pytest.fixture
def library(tmp_path: Path) -> ImageLibrary:
    return ImageLibrary(tmp_path, 10**9, ImageLimits(20_000_000, 50_000_000, 4, 1024))


@pytest.fixture
def preprocessor(loaded: LoadedModel, library: ImageLibrary) -> Preprocessor:
    return Preprocessor(loaded.processor, library, 1024)


@pytest.fixture
def voice(loaded: LoadedModel, preprocessor: Preprocessor) -> LocalVoice[Prompt]:
    return LocalVoice(
        preprocessor,
        SerialEngine(ReferenceEngine(loaded), Metrics()),
        device=loaded.device,
        context_tokens=loaded.context_tokens,
        metrics=Metrics(),
    )


def request(*messages: ChatMessage, **sampling: Any) -> GenerationRequest:
    wanted = Sampling(**{"max_new_tokens": 60, **sampling})
    return GenerationRequest("r", messages, wanted, time.monotonic() + 60)


async def test_the_answer_follows_the_pixels_and_nothing_else(voice: LocalVoice[Prompt], library: ImageLibrary) -> None:
    for word in ("红", "绿", "蓝"):
        ref = library.add(encoded(picture(COLOURS[word])))
        message = ChatMessage("user", (TextPart("这是什么颜色？"), ImagePart(ref)))
        events = [event async for event in voice.generate(request(message))]
        reply = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert [other for other in COLOURS if other in reply] == [word]
        assert isinstance(events[-1], Finished)
        assert events[-1].reason is FinishReason.STOP
    await voice.aclose()


async def test_streamed_text_is_what_generate_makes_in_one_piece(
    voice: LocalVoice[Prompt], loaded: LoadedModel, preprocessor: Preprocessor
) -> None:
    message = ChatMessage("user", (TextPart("你好"),))
    inputs = preprocessor.prepare(request(message)).inputs
    whole = loaded.model.generate(**inputs, max_new_tokens=60)[0, inputs["input_ids"].shape[1] :]
    expected = loaded.processor.tokenizer.decode(whole, skip_special_tokens=True)
    streamed = "".join([e.text async for e in voice.generate(request(message)) if isinstance(e, TextDelta)])
    assert streamed == expected != ""
    await voice.aclose()


async def test_length_is_told_when_the_reply_was_cut(voice: LocalVoice[Prompt]) -> None:
    message = ChatMessage("user", (TextPart("你能做什么？"),))
    *_, last = [event async for event in voice.generate(request(message, max_new_tokens=2))]
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.LENGTH
    assert last.usage.completion_tokens == 2
    await voice.aclose()


async def test_every_sampling_setting_is_taken(voice: LocalVoice[Prompt]) -> None:
    message = ChatMessage("user", (TextPart("你好"),))
    for sampling in ({"temperature": 0.0}, {"temperature": 0.9, "top_p": 0.5, "top_k": 5, "repetition_penalty": 1.1}):
        async with aclosing(voice.generate(request(message, max_new_tokens=8, **sampling))) as events:
            assert [event async for event in events]
    await voice.aclose()


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
    def __init__(self, ids: Sequence[int], size: int) -> None:
        self._make = lambda: Only(ids, size)

    async def compile(self, grammar: Grammar) -> Callable[[], TokenMask]:
        return self._make


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
    await voice.aclose()


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
    await voice.aclose()


async def test_wishes_of_the_next_token_are_honoured(voice: LocalVoice[Prompt]) -> None:
    text, tokens, _ = await reply_to(voice, temperature=0, logprobs=0)
    first, second = tokens[0].token, tokens[1].token
    assert (await reply_to(voice, temperature=0, logprobs=0, logit_bias=((first, -100.0),)))[1][0].token != first
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
    await voice.aclose()


async def test_the_repetition_penalty_is_that_of_plain_generate(
    voice: LocalVoice[Prompt], loaded: LoadedModel, preprocessor: Preprocessor
) -> None:
    inputs = preprocessor.prepare(request(HELLO)).inputs
    whole = loaded.model.generate(**inputs, max_new_tokens=20, repetition_penalty=1.7, do_sample=False)
    expected = loaded.processor.tokenizer.decode(whole[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert (await reply_to(voice, temperature=0, repetition_penalty=1.7, max_new_tokens=20))[0] == expected
    await voice.aclose()


async def test_a_grammar_decides_every_token(loaded: LoadedModel, preprocessor: Preprocessor) -> None:
    wanted = "只能这样说"
    ends = loaded.model.generation_config.eos_token_id
    ids = [*preprocessor.encode(wanted), ends[0] if isinstance(ends, list) else ends]
    voice = LocalVoice(
        preprocessor,
        SerialEngine(ReferenceEngine(loaded), Metrics()),
        device=loaded.device,
        context_tokens=loaded.context_tokens,
        metrics=Metrics(),
        grammars=OneText(ids, loaded.model.config.get_text_config().vocab_size),
    )
    asked = replace(request(HELLO), grammar=Grammar(GrammarKind.CHOICE, json.dumps([wanted])), choices=2)
    events = [event async for event in voice.generate(asked)]
    for choice in range(2):
        assert "".join(e.text for e in events if isinstance(e, TextDelta) and e.choice == choice) == wanted
    await voice.aclose()


async def test_raw_prompts_are_continued(voice: LocalVoice[Prompt], preprocessor: Preprocessor) -> None:
    raw = "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    asked = replace(request(temperature=0), raw=raw)
    said = "".join([e.text async for e in voice.generate(asked) if isinstance(e, TextDelta)])
    ids = preprocessor.tokenize(asked)
    same = replace(request(temperature=0), raw=ids)
    assert said == "".join([e.text async for e in voice.generate(same) if isinstance(e, TextDelta)]) != ""
    await voice.aclose()
