"""What the OpenAI door refuses: by name, with 400, in OpenAI's shape, without a word of the input."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qqvl_server.errors import GenerationFailed
from qqvl_server.generation.port import GenerationRequest, TextDelta
from tests.api.openai.test_chat import PICTURE, WEATHER
from tests.api.stage import CANARY, MODEL, Chat, Said, check_named, error_of

pytestmark = pytest.mark.anyio
SHOWN = {"type": "image_url", "image_url": {"url": PICTURE}}
BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": CANARY}, "messages"),
    ({"messages": [CANARY]}, "messages[0]"),
    ({"messages": [{"role": CANARY, "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 5}}]}]},
        "messages[0].content[0].image_url.url",
    ),
    ({"messages": [{"role": "system", "content": [SHOWN]}]}, "messages[0].content"),
    ({"messages": [{"role": "assistant", "content": [SHOWN]}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [SHOWN] * 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [SHOWN] * 4}] * 9}, "messages"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]}, "messages[0].tool_calls[0].function"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": 5}]}, "messages[0].tool_call_id"),
    ({"model": 5}, "model"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": [CANARY]}, "stream_options"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"n": True}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -5}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": "9"}, "max_completion_tokens"),
    ({"max_tokens": 2, "min_tokens": 3}, "min_tokens"),
    ({"logit_bias": {CANARY: 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"5": True}}, "logit_bias"),
    ({"logit_bias": [5]}, "logit_bias"),
    ({"logit_bias": {str(number): 1 for number in range(1025)}}, "logit_bias"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"stop_token_ids": list(range(129))}, "stop_token_ids"),
    ({"logprobs": 5}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"tools": CANARY}, "tools"),
    ({"tools": [{"type": ["function"]}]}, "tools[0].type"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}], "tool_choice": "required"}, "tools"),
    ({"tools": [WEATHER], "tool_choice": {"type": "custom", "custom": {"name": CANARY}}}, "tool_choice"),
    ({"tools": [{"type": "function", "function": {"name": f"{CANARY} {{"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 5}}]}, "tools[0].function.parameters"),
    ({"tools": [WEATHER, WEATHER]}, "tools"),
    ({"tool_choice": "required"}, "tools"),
    ({"tools": [WEATHER], "tool_choice": CANARY}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": CANARY}}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": "required", "guided_regex": "a"}, "tool_choice"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"response_format": {"type": CANARY}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "response_format"),
    ({"guided_json": "{"}, "guided_json"),
    ({"guided_choice": []}, "guided_choice"),
    ({"structured_outputs": {"choice": [5]}}, "structured_outputs.choice"),
    ({"structured_outputs": {"structural_tag": {}}}, "structured_outputs.structural_tag"),
    ({"chat_template_kwargs": {CANARY: True}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"enable_thinking": 1}}, "chat_template_kwargs.enable_thinking"),
    ({"metadata": [CANARY]}, "metadata"),
    ({"best_of": 2}, "best_of"),
    ({"audio": {"voice": CANARY}}, "audio"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"prediction": {"type": "content"}}, "prediction"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"function_call": {"name": "f"}}, "function_call"),
    ({"chat_template": CANARY}, "chat_template"),
    ({"mm_processor_kwargs": {"x": 1}}, "mm_processor_kwargs"),
    ({"add_generation_prompt": False}, "add_generation_prompt"),
    ({"continue_final_message": True}, "continue_final_message"),
    ({"include_stop_str_in_output": True}, "include_stop_str_in_output"),
    ({"skip_special_tokens": False}, "skip_special_tokens"),
    ({"prompt_logprobs": 1}, "prompt_logprobs"),
    ({"use_beam_search": True}, "use_beam_search"),
    ({"echo": True}, "echo"),
    ({"suffix": "x"}, "suffix"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_FIELDS, ids=lambda value: json.dumps(value)[:60])
async def test_a_bad_field_is_named(fields: dict[str, Any], param: str) -> None:
    await check_named(Chat, fields, param)


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "someone", "metadata": {"a": "b"}, "service_tier": "auto", "store": False},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"stream_options": {"include_usage": True}},
        {"stop": "", "n": 1, "best_of": 1, "logit_bias": {}, "response_format": {"type": "text"}},
        {"max_tokens": 10**9, "seed": 10**30},
        {"made_up": [CANARY], "modalities": ["text"], "functions": None, "audio": None, "echo": False},
        {"messages": [{"role": "user", "content": []}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "system", "content": "x"}]},
        {"messages": [{"role": "user", "name": "张三", "content": "x"}, {"role": "assistant", "content": "y"}]},
        {"model": MODEL},
        {"model": "second"},
        {"model": None},
        {"store": True},
        {"reasoning_effort": "low", "verbosity": "low", "safety_identifier": "x", "prompt_cache_key": "k"},
    ],
    ids=lambda value: json.dumps(value)[:60],
)
async def test_what_asks_for_nothing_is_tolerated(fields: dict[str, Any]) -> None:
    async with Chat.open() as on:
        answer = await on.post(**fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == (fields.get("model") or MODEL)


async def test_models_have_every_served_name() -> None:
    async with Chat.open(context_tokens=77) as on:
        listed = (await on.http.get("/v1/models")).json()
        one = (await on.http.get(f"/v1/models/{MODEL}")).json()
        unknown = await on.http.get(f"/v1/models/{CANARY}")
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [MODEL, "second"]
    assert error_of(unknown, 404)["code"] == "model_not_found"
    assert CANARY not in unknown.text
    assert one == listed["data"][0]
    assert (one["object"], one["owned_by"], one["created"], one["max_model_len"]) == (
        "model",
        "qqvl",
        1_700_000_000,
        77,
    )


async def test_an_error_in_the_middle_of_a_stream_is_its_last_event() -> None:
    def script(_: GenerationRequest) -> Said:
        return [TextDelta("半"), GenerationFailed("这次没算成")]

    async with Chat.open(script) as on:
        error_of(await on.post(), 500)
        answer = await on.post(stream=True)
        assert on.voice.running == 0
    assert answer.status_code == 200
    blocks = answer.text.split("\n\n")
    assert json.loads(blocks[-2].removeprefix("data: "))["error"]["code"] == "generation_failed"
    assert "[DONE]" not in answer.text


async def test_unknown_paths_and_methods_are_told_as_openai_does() -> None:
    async with Chat.open() as on:
        error = error_of(await on.http.get("/v1/nothing"), 404)
        assert error["type"] == "not_found_error"
        wrong = await on.http.get("/v1/chat/completions")
        error_of(wrong, 405)
        assert wrong.headers["Allow"] == "POST"


async def test_bodies_that_are_no_json_object() -> None:
    async with Chat.open() as on:
        for body in (b"", b"[]", b"{", b'{"messages": NaN}', b"\xff", b'{"temperature": Infinity}', b'"\\ud800"'):
            answer = await on.http.post(
                "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
            )
            assert error_of(answer, 400)["type"] == "invalid_request_error"
