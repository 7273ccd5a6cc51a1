"""The demo checkpoint through the real voice: ``model.generate`` on a worker thread."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any

import pytest

from qqvl_server.generation.engines.reference import ReferenceEngine
from qqvl_server.generation.engines.serial import SerialEngine
from qqvl_server.generation.local import LocalVoice
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    FinishReason,
    GenerationRequest,
    ImagePart,
    Sampling,
    TextDelta,
    TextPart,
)
from qqvl_server.generation.prompts.preprocess import Preprocessor, Prompt
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.metrics import Metrics
from qqvl_server.weights.load import LoadedModel
from tests.pictures import COLOURS, encoded, picture

pytestmark = pytest.mark.anyio


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
