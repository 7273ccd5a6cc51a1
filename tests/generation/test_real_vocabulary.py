"""The slow engine on the vocabulary of 151,936: forced formats end in time, ids beyond the model are refused."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.constraints.grammar import GrammarCompiler
from qqvl_server.generation.engines import choosing
from qqvl_server.generation.local import LocalVoice
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    FinishReason,
    GenerationRequest,
    Grammar,
    GrammarKind,
    Sampling,
    TextDelta,
    TextEvent,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
)
from qqvl_server.generation.prompts.preprocess import Preprocessor, Prompt
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import EngineSettings
from qqvl_server.weights.load import LoadedModel
from tests.calls import collected
from tests.checkpoints import demo_files, reciting
from tests.generation.conftest import exact

pytestmark = pytest.mark.anyio
TITLE = '{"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}'
TOOLS = (Tool("set_title", None, TITLE), Tool("get_time", None, '{"type": "object", "properties": {}}'))
CALL_TOKEN = 151_657


@pytest.fixture(scope="module")
def babbler(words: Path) -> Iterator[tuple[LoadedModel, GrammarCompiler]]:
    loaded = exact(words)
    compiler = GrammarCompiler(loaded.processor.tokenizer, loaded.end_tokens, loaded.vocabulary)
    yield loaded, compiler
    compiler.close()


@pytest.fixture
async def voice(
    babbler: tuple[LoadedModel, GrammarCompiler], library: ImageLibrary
) -> AsyncIterator[LocalVoice[Prompt]]:
    loaded, compiler = babbler
    made = LocalVoice(
        Preprocessor(loaded.processor, library, 64),
        choosing.build(loaded, EngineSettings(engine="generate"), loaded.context_tokens, Metrics()),
        device="cpu", context_tokens=loaded.context_tokens, metrics=Metrics(), grammars=compiler,
    )  # fmt: skip
    yield made
    await made.aclose()


async def told(voice: LocalVoice[Prompt], tokens: int = 40, **fields: Any) -> list[list[TextEvent]]:
    """The events of each of two choices."""
    wanted = Sampling(tokens, **{"temperature": 0, **fields.pop("sampling", {})})
    message = ChatMessage("user", (TextPart("hi"),))
    asked = GenerationRequest("r", (message,), wanted, time.monotonic() + 60, choices=2, **fields)
    events = [event async for event in voice.generate(asked)]
    return [[event for event in events if event.choice == choice] for choice in range(2)]


async def replies(voice: LocalVoice[Prompt], tokens: int = 40, **fields: Any) -> list[tuple[str, Finished]]:
    made = []
    for events in await told(voice, tokens, **fields):
        *said, end = events
        assert isinstance(end, Finished)
        made.append(("".join(event.text for event in said if isinstance(event, TextDelta)), end))
    return made


async def called(voice: LocalVoice[Prompt], tokens: int = 40, **fields: Any) -> list[tuple[str, tuple[ToolCall, ...]]]:
    """What each of two choices says and calls."""
    return [collected(events) for events in await told(voice, tokens, **fields)]


async def test_forced_formats_come_to_their_end(voice: LocalVoice[Prompt]) -> None:
    for said, end in await replies(voice, grammar=Grammar(GrammarKind.JSON_SCHEMA, TITLE)):
        assert set(json.loads(said)) == {"title"}
        assert end.reason is FinishReason.STOP
    for forced in (None, "set_title"):
        choice = ToolChoice(ToolMode.REQUIRED, forced)
        for said, calls in await called(voice, tokens=60, tools=TOOLS, tool_choice=choice):
            assert not said
            assert calls[0].name in ("set_title", "get_time")
    hurried: dict[str, Any] = {"sampling": {"min_new_tokens": 20, "temperature": 1.0, "seed": 1}}
    for said, _ in await replies(voice, grammar=Grammar(GrammarKind.CHOICE, '["红色"]'), **hurried):
        assert said == "红色"


async def test_only_tools_that_may_be_called_are(voice: LocalVoice[Prompt]) -> None:
    begun: dict[str, Any] = {"sampling": {"logit_bias": ((CALL_TOKEN, 100.0),)}, "tools": TOOLS}
    for content, calls in await called(voice, **begun, tool_choice=ToolChoice(allowed=("get_time",))):
        assert {call.name for call in calls} == {"get_time"}
        assert not content or content.startswith("<tool_call>")


async def test_ids_beyond_the_model_are_the_callers_fault(voice: LocalVoice[Prompt]) -> None:
    for sampling in ({"logit_bias": ((151_936, 1.0),)}, {"stop_token_ids": (151_936,)}):
        with pytest.raises(InvalidRequest):
            await replies(voice, sampling=sampling)


@asynccontextmanager
async def reciter(folder: Path, engine: str, library: ImageLibrary) -> AsyncIterator[LocalVoice[Prompt]]:
    loaded = exact(folder)
    compiler = GrammarCompiler(loaded.processor.tokenizer, loaded.end_tokens, loaded.vocabulary)
    settings = EngineSettings(engine=engine, kv_cache_gb=0.05)
    made = LocalVoice(
        Preprocessor(loaded.processor, library, 64), choosing.build(loaded, settings, 4096, Metrics()),
        device="cpu", context_tokens=4096, metrics=Metrics(), grammars=compiler,
    )  # fmt: skip
    yield made
    await made.aclose()
    compiler.close()


@pytest.mark.parametrize("engine", ["generate", "paged"])
async def test_a_name_half_of_two_tools_becomes_one_of_them(engine: str, tmp_path: Path, library: ImageLibrary) -> None:
    tokenizer = demo_files(tmp_path / "m")
    begun = '<tool_call>\n{"name": "get_weazone'
    # Every token has one that follows it, and the frame has a line break of its own.
    template = tmp_path / "m" / "chat_template.jinja"
    template.write_text(
        template.read_text("utf-8").replace("assistant\\n' }}\n{%- endif %}", "assistant' }}\n{%- endif %}")
    )
    reciting(tmp_path / "m", tokenizer, tokenizer.encode(begun), tokenizer.encode("assistant")[-1])
    nothing = '{"type": "object", "properties": {}, "additionalProperties": false}'
    tools = tuple(Tool(name, None, nothing) for name in ("get_weather", "get_zone"))
    async with reciter(tmp_path / "m", engine, library) as made:
        assert [said for said, _ in await replies(made)] == [begun, begun]
        for _, calls in await called(made, tools=tools):
            assert [(call.name, call.arguments) for call in calls] == [("get_weather", "{}")]


@pytest.mark.parametrize("engine", ["generate", "paged"])
async def test_a_model_with_fewer_logits_than_the_tokenizer_has_tokens(
    engine: str, tmp_path: Path, library: ImageLibrary
) -> None:
    folder = tmp_path / "m"
    tokenizer = demo_files(folder)
    logits = 2150
    reciting(folder, tokenizer, tokenizer.encode("你好"), tokenizer.encode("\n")[0], logits)
    async with reciter(folder, engine, library) as made:
        assert [said for said, _ in await replies(made)] == ["你好", "你好"]
        for said, _ in await replies(made, grammar=Grammar(GrammarKind.JSON_SCHEMA, TITLE)):
            assert set(json.loads(said)) == {"title"}
        unknown = tokenizer.convert_tokens_to_ids("<tool_call>")
        assert unknown >= logits
        for fields in ({"sampling": {"logit_bias": ((unknown, 5.0),)}}, {"raw": (1, unknown)}):
            with pytest.raises(InvalidRequest):
                await replies(made, **fields)
