"""A thought has its tokens and no more, what constrains speech lets it alone, templates are told what was wished."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

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
    Reasoning,
    Sampling,
    TextDelta,
    TextPart,
    Thinking,
    Tool,
    ToolCallStarted,
)
from qqvl_server.generation.prompts.preprocess import Preprocessor, Prompt
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import EngineSettings
from tests.checkpoints import demo_files, open_thought, reciting
from tests.generation.conftest import exact

pytestmark = pytest.mark.anyio
ENGINES = pytest.mark.parametrize("engine", ["generate", "paged"])


@asynccontextmanager
async def reciter(
    folder: Path, engine: str, library: ImageLibrary, recited: str, *, opened: bool
) -> AsyncIterator[LocalVoice[Prompt]]:
    """A voice that says ``recited`` after a line break."""
    tokenizer = demo_files(folder)
    if opened:
        open_thought(folder)
    reciting(folder, tokenizer, tokenizer.encode(recited), after=tokenizer.encode("\n")[0])
    loaded = exact(folder)
    compiler = GrammarCompiler(loaded.processor.tokenizer, loaded.end_tokens, loaded.vocabulary)
    voice = LocalVoice(
        Preprocessor(loaded.processor, library, 64),
        choosing.build(loaded, EngineSettings(engine=engine, kv_cache_gb=0.05), 4096, Metrics()),
        device="cpu", context_tokens=4096, metrics=Metrics(), grammars=compiler,
    )  # fmt: skip
    yield voice
    await voice.aclose()
    compiler.close()


async def heard(voice: LocalVoice[Prompt], most: int = 60, **fields: Any) -> tuple[str, str, Finished]:
    """What is thought, what is said or begun to be called, and the end."""
    message = ChatMessage("user", (TextPart("hi"),))
    asked = GenerationRequest("r", (message,), Sampling(most, temperature=0), time.monotonic() + 60, **fields)
    thought, said = "", ""
    async for event in voice.generate(asked):
        match event:
            case Reasoning(text):
                thought += text
            case TextDelta(text):
                said += text
            case ToolCallStarted(_, _, name):
                said += f"({name})"
            case Finished():
                return thought, said, event
    raise AssertionError("no end")


@ENGINES
async def test_a_thought_that_is_written_out_has_its_tokens(engine: str, tmp_path: Path, library: ImageLibrary) -> None:
    written = "<think>abc</think>\n\n好"
    async with reciter(tmp_path / "m", engine, library, written, opened=False) as voice:
        thought, said, end = await heard(voice)
        assert (thought, said) == ("abc", "好")
        whole = end.usage.reasoning_tokens
        assert whole > 1
        short, said, end = await heard(voice, thinking=Thinking(budget=1))
        assert "abc".startswith(short)
        assert (said, end.usage.reasoning_tokens) == ("好", 1)
        assert end.usage.completion_tokens < whole + 4
        # A budget that is not used up changes nothing.
        assert (await heard(voice, thinking=Thinking(budget=50)))[:2] == ("abc", "好")


@ENGINES
async def test_what_constrains_speech_lets_the_thought_alone(
    engine: str, tmp_path: Path, library: ImageLibrary
) -> None:
    async with reciter(tmp_path / "m", engine, library, "abc</think>\n\n好", opened=True) as voice:
        for kind, text, said in (
            (GrammarKind.CHOICE, '["好的"]', "好的"),
            (GrammarKind.REGEX, "[0-9]{3}", None),
        ):
            thought, told, end = await heard(voice, grammar=Grammar(kind, text))
            assert (thought, end.reason) == ("abc", FinishReason.STOP)
            assert told == said or (said is None and told.isdecimal() and len(told) == 3)
        # A thought may take half of what there is, so that something can be said.
        thought, told, _ = await heard(voice, most=4, grammar=Grammar(GrammarKind.CHOICE, '["好"]'))
        assert "abc".startswith(thought)
        assert told in ("好", "")


@ENGINES
async def test_a_thought_without_an_end_is_closed_where_something_must_be_said(
    engine: str, tmp_path: Path, library: ImageLibrary
) -> None:
    async with reciter(tmp_path / "m", engine, library, "abc", opened=True) as voice:
        thought, said, end = await heard(voice)
        assert (thought, said, end.reason) == ("abc", "", FinishReason.STOP)
        thought, said, end = await heard(voice, most=30, grammar=Grammar(GrammarKind.CHOICE, '["好"]'))
        assert thought.startswith("abc")
        assert (said, end.reason) == ("好", FinishReason.STOP)


@ENGINES
async def test_a_call_in_a_thought_is_a_thought(engine: str, tmp_path: Path, library: ImageLibrary) -> None:
    async with reciter(tmp_path / "m", engine, library, "<tool_call>xyz</think>\n\n好", opened=True) as voice:
        thought, said, _ = await heard(voice, tools=(Tool("get_time", None, '{"type": "object"}'),))
    assert (thought, said) == ("<tool_call>xyz", "好")


HYBRID = "{%- if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"


async def test_templates_are_told_what_they_have_a_switch_for(tmp_path: Path, library: ImageLibrary) -> None:
    def header(**wish: Any) -> str:
        asked = GenerationRequest(
            "r", (ChatMessage("user", (TextPart("hi"),)),), Sampling(1), 1e9, thinking=Thinking(**wish)
        )
        prompt = preprocessor.prepare(asked)
        assert prompt.thinks is hybrid
        assert not prompt.opens_thought
        return preprocessor.detokenize(preprocessor.tokenize(asked)).rpartition("assistant")[2]

    for hybrid in (False, True):
        folder = tmp_path / str(hybrid)
        tokenizer = demo_files(folder)
        template = folder / "chat_template.jinja"
        if hybrid:
            template.write_text(template.read_text("utf-8") + HYBRID + "{{ reasoning_effort }}{{ thinking_budget }}")
        reciting(folder, tokenizer, tokenizer.encode("好"), after=tokenizer.encode("\n")[0])
        preprocessor = Preprocessor(exact(folder).processor, library, 64)
        told = [header(), header(enabled=True), header(enabled=False), header(effort="low", budget=7)]
        plain, closed, wished = "\n", "\n<think>\n\n</think>\n\n", "\nlow7"
        assert told == ([plain, plain, closed, wished] if hybrid else [plain] * 4)
