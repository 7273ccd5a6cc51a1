"""Families other than Qwen3-VL: each loads without torchvision and answers, or says in one line what it lacks."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest

from qqvl_server.errors import WeightsError
from qqvl_server.generation.constraints.grammar import GrammarCompiler
from qqvl_server.generation.engines import choosing
from qqvl_server.generation.local import LocalVoice
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    GenerationRequest,
    Grammar,
    GrammarKind,
    ImagePart,
    Sampling,
    TextDelta,
    TextPart,
)
from qqvl_server.generation.prompts.preprocess import Preprocessor
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import EngineSettings, WeightsSettings
from qqvl_server.weights.load import load
from qqvl_server.weights.locate import locate
from tests.pictures import base64_of, encoded, picture
from tests.running import RunningServer
from tests.weights.families import FAMILIES, as_omni, make

pytestmark = pytest.mark.anyio

# What they lack here, and what must be told of it.
LACKING = {"lfm2_vl": ("torchvision", r"pip install .*torchvision"), "smolvlm": ("num2words", "pip install num2words")}


async def answered(folder: Path, kind: str) -> None:
    """Words and a picture, greedily and to a grammar, one after the other and scored."""
    loaded = load(locate(str(folder), folder.parent), WeightsSettings(device="cpu"))
    library = ImageLibrary(folder / "images", 10**9, ImageLimits(20_000_000, 50_000_000, 4, 64))
    preprocessor = Preprocessor(loaded.processor, library, 64, loaded.context_tokens)
    compiler = GrammarCompiler(loaded.processor.tokenizer, loaded.end_tokens, loaded.vocabulary)
    voice = LocalVoice(
        preprocessor, choosing.build(loaded, EngineSettings(), loaded.context_tokens, Metrics()),
        device="cpu", context_tokens=loaded.context_tokens, metrics=Metrics(), grammars=compiler,
    )  # fmt: skip
    shown = ImagePart(library.add(encoded(picture(size=(90, 60)))))
    try:
        for parts in ((TextPart("看"),), (TextPart("看"), shown)):
            message = ChatMessage("user", parts)
            for grammar in (None, Grammar(GrammarKind.CHOICE, '["一只猫"]')):
                wanted = Sampling(8, temperature=0, ignore_eos=grammar is None, logprobs=1)
                asked = GenerationRequest("r", (message,), wanted, time.monotonic() + 60, grammar=grammar)
                events = [event async for event in voice.generate(asked)]
                end = next(event for event in events if isinstance(event, Finished))
                assert end is events[-1]
                said = "".join(event.text for event in events if isinstance(event, TextDelta))
                assert said == "一只猫" if grammar else end.usage.completion_tokens == 8, kind
            # The count of a message is that of the prompt but for the assistant's header and what frames a picture.
            (counted,) = await voice.count([message])
            assert end.usage.prompt_tokens - counted in range(1, 13), kind
            assert len(await voice.score(asked, ["猫", "狗"])) == 2
    finally:
        await voice.aclose()
        compiler.close()


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind not in LACKING])
async def test_a_family_loads_and_answers_about_a_picture(kind: str, tmp_path: Path) -> None:
    await answered(make(kind, tmp_path / "m"), kind)


async def test_the_thinker_of_a_whole_omni_model_answers(tmp_path: Path) -> None:
    await answered(as_omni(make("qwen3_omni_moe_thinker", tmp_path / "m")), "qwen3_omni_moe")


@pytest.mark.parametrize("kind", LACKING)
def test_what_a_family_lacks_is_named_in_one_line(kind: str, tmp_path: Path) -> None:
    module, said = LACKING[kind]
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed here")
    folder = make(kind, tmp_path / "m")
    with pytest.raises(WeightsError, match=said) as refused:
        load(locate(str(folder), tmp_path), WeightsSettings(device="cpu"))
    assert "\n" not in refused.value.message


@pytest.mark.long
def test_qwen3_5_serves_every_door_and_says_that_it_answers_one_at_a_time(tmp_path: Path) -> None:
    folder = make("qwen3_5", tmp_path / "m")
    png = base64_of(encoded(picture()))
    with RunningServer(tmp_path / "data", "--model-path", str(folder), "--max-new-tokens", "6") as server:
        assert server.log().count("generate") == 1
        assert server.post("private", {"type": "private", "user_id": "1", "content": "看", "timestamp": 0.0,
                                       "images": [{"data": png, "format": "png"}]}).status_code == 200  # fmt: skip
        assert server.group("你好")["status"] == "success"
        shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}}
        body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "看"}, shown]}], "max_tokens": 6}
        answer = server.http.post("/v1/chat/completions", json=body | {"n": 2}).json()
        assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "length"]
        forced = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}
        called = server.http.post("/v1/chat/completions", json=body | forced | {"max_tokens": 64}).json()
        assert called["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "f"
