"""What a model thinks before it speaks, at every door: told apart from what it says, counted, bounded, switched off."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from anthropic import Anthropic
from anthropic.types import ThinkingBlock
from openai import OpenAI

from qqvl_server.generation.port import FinishReason, GenerationRequest, Thinking
from tests.api.stage import CALL, Chat, Messages, Responses, Said, Stage, check_named, events_of, spoken
from tests.api.wire import WEATHER
from tests.running import RunningServer

ASK = [{"role": "user", "content": "你好"}]
SAID = "<think>\n想 <b>\n</think>\n\n好"
OPEN = "<think>想了又想"


def body_of(path: str, **fields: Any) -> dict[str, Any]:
    least: dict[str, dict[str, Any]] = {
        "/v1/responses": {"input": "你好"},
        "/v1/messages": {"model": "m", "max_tokens": 60, "messages": ASK},
    }
    return least.get(path, {"messages": ASK}) | fields


def heard(server: RunningServer, path: str, **fields: Any) -> tuple[str | None, str, int]:
    """What is thought, what is said, and how many tokens the thought is said to have taken."""
    answer = server.http.post(path, json=body_of(path, **fields))
    assert answer.status_code == 200, answer.text
    told = answer.json()
    used = told["usage"]
    if path == "/v1/responses":
        items = {item["type"]: item["content"][0]["text"] for item in told["output"]}
        return items.get("reasoning"), items.get("message", ""), used["output_tokens_details"]["reasoning_tokens"]
    if path == "/v1/messages":
        blocks = {block["type"]: block[block["type"]] for block in told["content"]}
        counted = used.get("output_tokens_details", {"thinking_tokens": 0})["thinking_tokens"]
        return blocks.get("thinking"), blocks.get("text", ""), counted
    message = told["choices"][0]["message"]
    counted = used.get("completion_tokens_details", {"reasoning_tokens": 0})["reasoning_tokens"]
    return message.get("reasoning_content"), message["content"], counted


DOORS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")


@pytest.mark.parametrize("path", DOORS)
def test_a_thought_is_told_apart_and_its_tokens_are_counted(thinking: RunningServer, path: str) -> None:
    assert heard(thinking, path) == ("hmm", "好", 2)


@pytest.mark.parametrize("written", [r"[a-z]{3,8}</think>\n\n[a-z]{2,5}", r"[a-z]{3,8}<\/think>\n\n[a-z]{2,5}"])
def test_a_grammar_that_names_a_thoughts_end_holds_for_the_thought_as_well(
    thinking: RunningServer, written: str
) -> None:
    thought, said, _ = heard(thinking, "/v1/chat/completions", guided_regex=written, max_tokens=40)
    assert thought is not None
    assert re.fullmatch("[a-z]{3,8}", thought)
    assert re.fullmatch("[a-z]{2,5}", said)


# What switches thoughts off, by door, and what bounds them to one token.
OFF: dict[str, tuple[dict[str, Any], ...]] = {
    "/v1/chat/completions": (
        {"enable_thinking": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_effort": "none"},
        {"thinking_budget": 0},
    ),
    "/v1/responses": ({"reasoning": {"effort": "none"}}, {"enable_thinking": False}),
    "/v1/messages": ({"thinking": {"type": "disabled"}},),
}
SHORT: dict[str, tuple[dict[str, Any], ...]] = {
    "/v1/chat/completions": (
        {"thinking_budget": 1},
        {"thinking_token_budget": 1},
        {"chat_template_kwargs": {"thinking_budget": 1}},
        {"thinking_budget": 1, "reasoning_effort": "high"},
    ),
    "/v1/responses": ({"thinking_budget": 1},),
    "/v1/messages": ({"thinking": {"type": "enabled", "budget_tokens": 1}},),
}


@pytest.mark.parametrize("path", DOORS)
def test_thoughts_are_switched_off_and_bounded(thinking: RunningServer, path: str) -> None:
    for fields in OFF[path]:
        assert heard(thinking, path, **fields) == (None, "好", 0), fields
    for fields in SHORT[path]:
        assert heard(thinking, path, **fields) == ("h", "好", 1), fields


def test_every_choice_has_its_own_thought_and_bound(thinking: RunningServer) -> None:
    told = thinking.http.post("/v1/chat/completions", json=body_of("", n=3, thinking_budget=1)).json()
    messages = [choice["message"] for choice in told["choices"]]
    assert [(one["reasoning_content"], one["content"]) for one in messages] == [("h", "好")] * 3
    assert told["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3


@pytest.mark.parametrize("path", DOORS)
def test_a_thought_that_is_cut_off_is_no_answer(thinking: RunningServer, path: str) -> None:
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    assert heard(thinking, path, **{limit: 2}) == ("hmm", "", 2)


@pytest.mark.parametrize("path", DOORS)
def test_a_forced_format_comes_after_the_thought_and_to_its_end(thinking: RunningServer, path: str) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["好"]}}, "required": ["a"], "additionalProperties": False}
    wish: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}},
        "/v1/responses": {"text": {"format": {"type": "json_schema", "schema": schema}}},
        "/v1/messages": {"output_config": {"format": {"type": "json_schema", "schema": schema}}},
    }
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    for fields in ({}, {limit: 40}):
        thought, said, _ = heard(thinking, path, **wish[path], **fields)
        assert (thought, json.loads(said)) == ("hmm", {"a": "好"})


@pytest.mark.long
def test_a_forced_call_comes_after_the_thought(thinking: RunningServer) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    told = thinking.http.post("/v1/chat/completions", json=body_of("", tools=tools, tool_choice="required")).json()
    message = told["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hmm", None)
    assert {call["function"]["name"] for call in message["tool_calls"]} == {"f"}


def test_a_stream_tells_thoughts_before_words(thinking: RunningServer) -> None:
    body = body_of("", stream=True, stream_options={"include_usage": True}, logprobs=True)
    events = events_of(thinking.http.post("/v1/chat/completions", json=body))
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["h", "mm"]
    assert "".join(delta.get("content", "") for delta in deltas) == "好"
    assert events[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    told = [c["logprobs"]["content"] for event in events for c in event["choices"] if c["logprobs"]]
    assert [entry["token"] for entries in told for entry in entries] == ["h", "mm", "</think>", "\n\n", "好"]


def test_raw_completions_are_told_as_they_are(thinking: RunningServer) -> None:
    ids = thinking.http.post("/tokenize", json={"messages": ASK}).json()["tokens"]
    told = thinking.http.post("/v1/completions", json={"prompt": ids, "max_tokens": 9}).json()
    assert told["choices"][0]["text"] == "hmm</think>\n\n好"


def test_openais_client_reads_the_items(thinking: RunningServer) -> None:
    with OpenAI(base_url=f"{thinking.base}/v1", api_key="EMPTY", max_retries=0, timeout=60) as client:
        whole = client.responses.create(model="m", input="你好", reasoning={"effort": "high", "summary": "auto"})
        assert [item.type for item in whole.output] == ["reasoning", "message"]
        assert whole.output_text == "好"
        assert whole.reasoning is not None
        assert whole.reasoning.effort == "high"
        with client.responses.stream(model="m", input="你好") as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        assert kinds.count("response.reasoning_text.delta") == 2
        assert kinds.index("response.reasoning_text.done") < kinds.index("response.output_text.delta")
        assert [item.type for item in final.output] == ["reasoning", "message"]
        # What came is sent back as it came.
        again = [{"role": "user", "content": "你好"}, *final.output, {"role": "user", "content": "再来"}]
        assert client.responses.create(model="m", input=again).output_text == "好"  # type: ignore[arg-type]


def test_anthropics_client_reads_the_blocks(thinking: RunningServer) -> None:
    wish: Any = {"type": "enabled", "budget_tokens": 1024}
    with Anthropic(base_url=thinking.base, api_key="EMPTY", max_retries=0, timeout=60) as client:
        with client.messages.stream(model="m", max_tokens=60, messages=ASK, thinking=wish) as stream:  # type: ignore[arg-type]
            kinds = [event.type for event in stream]
            final = stream.get_final_message()
        assert kinds.count("thinking") == 2
        thought, said = final.content
        assert isinstance(thought, ThinkingBlock)
        assert said.type == "text"
        assert thought.thinking == "hmm"
        assert thought.signature
        again: Any = [*ASK, {"role": "assistant", "content": final.content}, *ASK]
        told = client.messages.create(model="m", max_tokens=60, messages=again)
        assert [block.type for block in told.content] == ["thinking", "text"]


@pytest.mark.anyio
@pytest.mark.parametrize("door", [Chat, Responses, Messages])
@pytest.mark.parametrize(
    ("said", "expected"),
    [(SAID, ("想 <b>", "好")), (OPEN, ("想了又想", "")), ("看 <think>x</think>", (None, "看 <think>x</think>"))],
)
async def test_a_thought_that_is_written_out(door: type[Stage], said: str, expected: tuple[str | None, str]) -> None:
    async with door.open(lambda _: said) as on:
        whole = await on.whole()
    if door is Chat:
        message = whole["choices"][0]["message"]
        told = message.get("reasoning_content"), message["content"]
    elif door is Responses:
        items = {item["type"]: item["content"][0]["text"] for item in whole["output"]}
        told = items.get("reasoning"), items.get("message", "")
    else:
        blocks = {block["type"]: block[block["type"]] for block in whole["content"]}
        told = blocks.get("thinking"), blocks.get("text", "")
    assert told == expected


@pytest.mark.anyio
async def test_the_events_of_a_thought_that_ends_in_a_call() -> None:
    flat = {"type": "function", **WEATHER}
    async with Responses.open(lambda _: f"<think>想</think>\n{CALL}") as on:
        items = (await on.whole(tools=[flat]))["output"]
        assert [item["type"] for item in items] == ["reasoning", "function_call"]
        ends = [event["item"] for event in await on.events(tools=[flat]) if event["type"].endswith("item.done")]
        assert [(item["type"], item["status"]) for item in ends] == [
            ("reasoning", "completed"),
            ("function_call", "completed"),
        ]


@pytest.mark.anyio
async def test_a_thought_cut_off_is_an_incomplete_item() -> None:
    def script(_: GenerationRequest) -> Said:
        return spoken(OPEN, reason=FinishReason.LENGTH)

    async with Responses.open(script) as on:
        (item,) = (await on.whole())["output"]
        assert (item["type"], item["status"], item["summary"]) == ("reasoning", "incomplete", [])


@pytest.mark.anyio
async def test_thoughts_that_nobody_wants_to_read() -> None:
    async with Chat.open(lambda _: SAID) as on:
        message = (await on.whole(include_reasoning=False))["choices"][0]["message"]
        assert "reasoning_content" not in message
        chunks = events_of(await on.post(include_reasoning=False, stream=True))
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        assert "".join(delta.get("content", "") for delta in deltas) == message["content"] == "好"
        assert not any("reasoning_content" in delta for delta in deltas)
    async with Messages.open(lambda _: SAID) as door:
        (text,) = (await door.whole(thinking={"type": "disabled"}))["content"]
        assert text == {"type": "text", "text": "好"}
        thought, _ = (await door.whole(thinking={"type": "adaptive", "display": "omitted"}))["content"]
        assert (thought["type"], thought["thinking"]) == ("thinking", "")
        assert thought["signature"]


WISHES: list[tuple[type[Stage], dict[str, Any], Thinking]] = [
    (Chat, {}, Thinking()),
    (Chat, {"enable_thinking": True, "thinking_budget": 5}, Thinking(True, 5)),
    (Chat, {"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, Thinking(True)),
    (Chat, {"reasoning_effort": "low"}, Thinking(True, None, "low")),
    (Chat, {"chat_template_kwargs": {"reasoning_effort": "low"}}, Thinking(True, None, "low")),
    (Chat, {"reasoning_effort": "none", "enable_thinking": True}, Thinking(True)),
    (Chat, {"thinking_budget": 0}, Thinking(False, 0)),
    (Responses, {"reasoning": {"effort": "minimal"}}, Thinking(True, None, "minimal")),
    (Responses, {"reasoning": {"effort": None, "summary": "auto"}}, Thinking()),
    (Messages, {"thinking": {"type": "enabled", "budget_tokens": 2048}}, Thinking(True, 2048)),
    (Messages, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, Thinking(True, None, "low")),
    (Messages, {"thinking": {"type": "disabled"}}, Thinking(False)),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("door", "fields", "wished"), WISHES)
async def test_wishes_about_thoughts(door: type[Stage], fields: dict[str, Any], wished: Thinking) -> None:
    async with door.open() as on:
        assert (await on.asked(**fields)).thinking == wished


BAD: list[tuple[type[Stage], dict[str, Any], str]] = [
    (Chat, {"enable_thinking": 1}, "enable_thinking"),
    (Chat, {"thinking_budget": -1}, "thinking_budget"),
    (Chat, {"thinking_budget": "CANARY"}, "thinking_budget"),
    (Chat, {"reasoning_effort": "CANARY"}, "reasoning_effort"),
    (Chat, {"chat_template_kwargs": {"thinking_budget": 1.5}}, "chat_template_kwargs.thinking_budget"),
    (Responses, {"reasoning": {"effort": "CANARY"}}, "reasoning.effort"),
    (Responses, {"thinking_budget": True}, "thinking_budget"),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("door", "fields", "param"), BAD)
async def test_wishes_that_make_no_sense_are_named(door: type[Stage], fields: dict[str, Any], param: str) -> None:
    await check_named(door, fields, param)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"thinking": "CANARY"}, "thinking"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "CANARY"}}, "output_config.effort"),
    ],
)
async def test_anthropics_wishes_that_make_no_sense_are_named(fields: dict[str, Any], where: str) -> None:
    async with Messages.open() as door:
        answer = await door.post(**fields)
        assert answer.status_code == 400
        assert where in answer.json()["error"]["message"]
        assert "CANARY" not in answer.text
        assert not door.voice.asked
