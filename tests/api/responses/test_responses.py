"""The door of Responses on a voice that says what a test tells it to: the real routes, no model, no process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qqvl_server.api.responses.schema import INCLUDABLE, MOVED, REFUSED, UNHEEDED
from qqvl_server.errors import GenerationFailed
from qqvl_server.generation.constraints.grammar import constraint
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    FinishReason,
    GenerationRequest,
    GrammarKind,
    ImagePart,
    TextDelta,
    TokenLogprob,
    Usage,
)
from tests.api.stage import CALL, CANARY, MODEL, Responses, Said, check_named, error_of, spoken

pytestmark = pytest.mark.anyio
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "天气",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SHOWN = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}


async def read(door: Responses, *items: dict[str, Any], **fields: Any) -> list[tuple[Any, ...]]:
    """What the voice was told: role, parts, and calls or the call's id."""
    return [told(message) for message in (await door.asked(**{"input": items, **fields})).messages]


def told(message: ChatMessage) -> tuple[Any, ...]:
    parts = ["<image>" if isinstance(part, ImagePart) else part.text for part in message.parts]
    calls = [(call.id, call.name, call.arguments) for call in message.tool_calls]
    return (message.role, *parts, *calls, *([message.tool_call_id] if message.tool_call_id else []))


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Types in order, repeats once."""
    types = [event["type"].removeprefix("response.") for event in events]
    return [kind for index, kind in enumerate(types) if index == 0 or types[index - 1] != kind]


TEXT_ITEM = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
             "output_item.done"]  # fmt: skip
CALL_ITEM = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]


async def test_a_plain_answer() -> None:
    async with Responses.open() as door:
        response = await door.whole(
            model="second", instructions="短", max_output_tokens=9, temperature=0.5, metadata={"a": "b"}, store=True
        )
    assert response["id"].startswith("resp_")
    (item,) = response["output"]
    assert item.pop("id").startswith("msg_")
    assert item == {
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "好的", "annotations": [], "logprobs": []}],
    }
    assert response["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 7,
    }
    expected = {
        "object": "response", "status": "completed", "model": "second", "instructions": "短", "max_output_tokens": 9,
        "temperature": 0.5, "top_p": None, "metadata": {"a": "b"}, "store": False, "error": None, "tools": [],
        "incomplete_details": None, "previous_response_id": None, "parallel_tool_calls": True, "truncation": "disabled",
        "tool_choice": "auto", "text": {"format": {"type": "text"}}, "background": False, "top_logprobs": 0,
    }  # fmt: skip
    assert {name: response[name] for name in expected} == expected
    assert response["completed_at"] >= response["created_at"]


async def test_a_stream_in_the_documented_order() -> None:
    async with Responses.open() as door:
        events = await door.events()
        whole = await door.whole()
    assert kinds(events) == ["created", "in_progress", *TEXT_ITEM, "completed"]
    first, last = events[0]["response"], events[-1]["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert first["id"] == last["id"]
    assert {event["item_id"] for event in events if "item_id" in event} == {last["output"][0]["id"]}
    assert "".join(event["delta"] for event in events if "delta" in event) == "好的"
    assert last["output"][0]["content"] == whole["output"][0]["content"]
    assert last["usage"] == whole["usage"]


async def test_texts_and_calls_are_items_of_their_own() -> None:
    async with Responses.open(lambda _: f"我查一下。\n{CALL}\n{CALL}") as door:
        events = await door.events(tools=[WEATHER])
        whole = await door.whole(tools=[WEATHER])
        alone = await door.whole(tools=[WEATHER], parallel_tool_calls=False)
    assert kinds(events) == ["created", "in_progress", *TEXT_ITEM, *CALL_ITEM, *CALL_ITEM, "completed"]
    for output in (events[-1]["response"]["output"], whole["output"]):
        assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
        assert output[0]["content"][0]["text"] == "我查一下。"
        for item in output[1:]:
            assert (item["name"], item["status"]) == ("get_weather", "completed")
            assert json.loads(item["arguments"]) == {"city": "北京"}
        assert len({item["id"] for item in output} | {item.get("call_id") for item in output}) == 6
    assert [item["type"] for item in alone["output"]] == ["message", "function_call"]
    assert [event["output_index"] for event in events if event["type"].endswith("item.done")] == [0, 1, 2]
    done = [event for event in events if event["type"].endswith("arguments.done")]
    assert [(event["name"], event["arguments"]) for event in done] == [("get_weather", '{"city": "北京"}')] * 2


@pytest.mark.parametrize(("said", "kind"), [("还没说", "message"), (CALL[:-25], "function_call"), ("", "message")])
async def test_what_the_limit_cut_is_incomplete(said: str, kind: str) -> None:
    async with Responses.open(lambda _: spoken(said, reason=FinishReason.LENGTH)) as door:
        events = await door.events(tools=[WEATHER])
        response = await door.whole(tools=[WEATHER])
    assert events[-1]["type"] == "response.incomplete"
    for told in (events[-1]["response"], response):
        assert (told["status"], told["completed_at"]) == ("incomplete", None)
        assert told["incomplete_details"] == {"reason": "max_output_tokens"}
        assert [(item["type"], item["status"]) for item in told["output"]] == [(kind, "incomplete")]


async def test_log_probabilities_stand_by_their_text() -> None:
    def script(_: GenerationRequest) -> Said:
        for word in ("好", "的"):
            data = word.encode()
            yield TextDelta(word, 0, (TokenLogprob(1, data, -0.5, (TokenLogprob(2, data, float("-inf")),)),))
        yield Finished(FinishReason.STOP, Usage(1, 2))

    async with Responses.open(script) as door:
        response = await door.whole(include=[INCLUDABLE[0]], top_logprobs=1)
        assert door.voice.asked[-1].sampling.logprobs == 1
        deltas = [event for event in await door.events(top_logprobs=1) if "delta" in event]
        assert door.voice.asked[-1].sampling.logprobs == 1
    told = response["output"][0]["content"][0]["logprobs"]
    assert [entry["token"] for entry in told] == ["好", "的"]
    assert told[0]["top_logprobs"] == [{"token": "好", "logprob": -9999.0, "bytes": list("好".encode())}]
    assert [entry for event in deltas for entry in event["logprobs"]] == told


async def test_what_the_voice_is_told() -> None:
    call = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"a":1}', "status": "x"}
    async with Responses.open() as door:
        assert await read(door,
            {"role": "developer", "content": "规则"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "看"}, SHOWN]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
            {"type": "message", "id": "m", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "text": "好", "annotations": []},
                         {"type": "refusal", "refusal": "不"}]},
            call,
            call | {"call_id": "c2", "arguments": ""},
            {"type": "function_call_output", "call_id": "c1", "output": "晴"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "图"}, SHOWN]},
            {"role": "system", "content": "后来的规则"},
            call,
            instructions="开头",
        ) == [
            ("system", "开头\n\n规则\n\n后来的规则"),
            ("user", "看", "<image>"),
            ("assistant", "好", "不", ("c1", "f", '{"a":1}'), ("c2", "f", "{}")),
            ("tool", "晴", "c1"),
            ("tool", "图", "<image>", "c2"),
            ("assistant", ("c1", "f", '{"a":1}')),
        ]  # fmt: skip
        assert len(door.shelf.asked) == 1
        assert await read(door, {"role": "user", "content": "好"}) == [("user", "好")]
        assert await read(door, input="早") == [("user", "早")]


async def test_settings_reach_the_voice() -> None:
    async with Responses.open() as door:
        plain = await door.asked()
        assert plain.sampling.max_new_tokens == 1000
        assert (plain.sampling.temperature, plain.sampling.logprobs, plain.grammar, plain.owner) == (
            None,
            None,
            None,
            "api:open",
        )
        wanted = (
            await door.asked(max_output_tokens=7, temperature=0, top_p=0.5, top_k=-1, seed=-1, stop="完")
        ).sampling
        assert (wanted.max_new_tokens, wanted.temperature, wanted.top_p, wanted.top_k) == (7, 0, 0.5, 0)
        assert (wanted.seed, wanted.stop) == (2**63 - 1, ("完",))
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
        named = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
        grammar = (await door.asked(text={"format": named})).grammar
        assert grammar is not None
        assert (grammar.kind, json.loads(grammar.text)) == (GrammarKind.JSON_SCHEMA, schema)
        assert (await door.asked(text={"format": {"type": "text"}, "verbosity": "low"})).grammar is None
        offered = await door.asked(tools=[WEATHER])
        assert ([tool.name for tool in offered.tools], offered.grammar) == (["get_weather"], None)
        assert (await door.asked(tools=[WEATHER], tool_choice="none")).shown_tools == ()
        for choice in ("required", {"type": "function", "name": "get_weather"}):
            forced = constraint(await door.asked(tools=[WEATHER], tool_choice=choice))
            assert forced is not None
            assert forced.kind is GrammarKind.LARK


def in_user(*parts: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": list(parts)}]}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": {"role": "user"}}, "input"),
    ({"input": [CANARY]}, "input[0]"),
    ({"input": [{"role": CANARY, "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": ["user"], "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": {}}]}, "input[0].content"),
    ({"input": [{"type": CANARY}]}, "input"),
    ({"input": [{"type": ["message"]}]}, "input[0].type"),
    ({"input": [{"type": "function_call", "call_id": "c", "arguments": "{}"}]}, "input[0].name"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "", "arguments": "{}"}]}, "input[0].name"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}]}, "input[0].arguments"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
    ({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "f"}]}, "input[0].input"),
    ({"input": [{"type": "custom_tool_call_output", "call_id": "c", "output": 5}]}, "input[0].output"),
    (in_user(CANARY), "input[0].content[0]"),
    (in_user({"type": "input_text", "text": 5}), "input[0].content[0].text"),
    (in_user({"type": ["input_text"]}), "input[0].content[0].type"),
    (in_user({"type": "input_image"}), "input[0].content[0].image_url"),
    (in_user({"type": "input_image", "image_url": {"url": 5}}), "input[0].content[0].image_url.url"),
    (in_user(SHOWN, {"type": "input_image", "image_url": "http://bad"}), "input[0].content[1]"),
    (in_user(*[SHOWN] * 5), "input[0].content"),
    ({"input": in_user(*[SHOWN] * 4)["input"] * 9}, "input"),
    ({"input": [{"role": "system", "content": [SHOWN]}]}, "input[0].content"),
    ({"input": [{"role": "assistant", "content": [SHOWN]}]}, "input[0].content"),
    ({"model": 5}, "model"),
    ({"instructions": [CANARY]}, "instructions"),
    ({"stream": "yes"}, "stream"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": "9"}, "max_output_tokens"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"include": [5]}, "include[0]"),
    ({"include": CANARY}, "include"),
    ({"truncation": CANARY}, "truncation"),
    ({"metadata": [CANARY]}, "metadata"),
    ({"metadata": {CANARY: 5}}, "metadata"),
    ({"metadata": {CANARY: "x" * 513}}, "metadata"),
    ({"metadata": {CANARY * 20: "x"}}, "metadata"),
    ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
    ({"user": 5}, "user"),
    ({"reasoning": CANARY}, "reasoning"),
    ({"text": CANARY}, "text"),
    ({"text": {"format": CANARY}}, "text.format"),
    ({"text": {"format": {"type": CANARY}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ({"tools": CANARY}, "tools"),
    ({"tools": [CANARY]}, "tools[0]"),
    ({"tools": [{"name": "f"}]}, "tools[0].type"),
    ({"tools": [{"type": ["function"]}]}, "tools[0].type"),
    ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tools"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": f"{CANARY} {{"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "f", "description": 5}]}, "tools[0].description"),
    ({"tools": [{"type": "function", "name": "f", "parameters": 5}]}, "tools[0].parameters"),
    ({"tools": [WEATHER, WEATHER]}, "tools"),
    ({"tool_choice": "required"}, "tools"),
    ({"tools": [WEATHER], "tool_choice": CANARY}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": CANARY}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": "required", "text": {"format": {"type": "json_object"}}}, "tool_choice"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"background": True}, "background"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"n": True}, "n"),
    *(({name: [{CANARY: 1}]}, name) for name in (*REFUSED, *MOVED)),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), BAD, ids=lambda value: json.dumps(value)[:60])
async def test_a_bad_field_is_named(fields: dict[str, Any], param: str) -> None:
    await check_named(Responses, fields, param)


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "someone", "service_tier": "auto", "prompt_cache_key": "k", "safety_identifier": "x"},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "max_tool_calls": 3},
        {"reasoning": {"effort": "low", "summary": "auto"}, "truncation": "auto", "store": True},
        {"include": list(INCLUDABLE), "stream_options": {"include_obfuscation": False}},
        {"text": {"format": {"type": "text"}, "verbosity": "high"}, "seed": 10**30, "max_output_tokens": 10**9},
        {"made_up": [CANARY], "background": False, "conversation": None, "previous_response_id": None, "n": 1},
        {"input": ""},
        {"input": [{"role": "user", "content": []}]},
        {"input": [{"role": "system", "content": "x"}]},
        {"input": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "phase": "commentary"}]},
        {"tools": [{"type": "function", "name": "f", "parameters": None, "strict": None}]},
        dict.fromkeys((*REFUSED, *MOVED, *(name for name in UNHEEDED if "." not in name), "tools", "text", "metadata")),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
async def test_what_asks_for_nothing_is_tolerated(fields: dict[str, Any]) -> None:
    async with Responses.open() as door:
        response = await door.whole(**fields)
    assert (response["status"], response["model"], response["store"]) == ("completed", MODEL, False)
    assert response["truncation"] == "disabled"


async def test_an_error_in_the_middle_fails_the_response() -> None:
    async with Responses.open(lambda _: [TextDelta("半"), GenerationFailed("这次没算成")]) as door:
        error_of(await door.post(), 500)
        events = await door.events()
        assert door.voice.running == 0
    assert [event["type"] for event in events[-2:]] == ["response.failed", "error"]
    failed, last = events[-2]["response"], events[-1]
    assert (failed["status"], failed["error"]) == ("failed", {"code": "server_error", "message": "这次没算成"})
    assert (last["code"], last["message"], last["param"]) == ("generation_failed", "这次没算成", None)
    assert last["error"]["type"] == "server_error"
