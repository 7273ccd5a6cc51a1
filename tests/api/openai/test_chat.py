"""POST /v1/chat/completions: what reaches the voice, and what its words become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qqvl_server.generation.constraints.grammar import constraint
from qqvl_server.generation.port import (
    Finished,
    FinishReason,
    GenerationRequest,
    Sampling,
    TextDelta,
    Thinking,
    TokenLogprob,
    Tool,
    ToolCall,
    Urgency,
    Usage,
)
from tests.api.stage import CALL, MODEL, Chat, Said, error_of, events_of, spoken
from tests.fakes import images_of, text_of

pytestmark = pytest.mark.anyio
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "查询天气",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PICTURE = "data:image/png;base64,iVBORw0KGgo="


async def test_a_plain_answer_has_every_field_clients_read() -> None:
    async with Chat.open() as on:
        answer = (await on.post(model=MODEL)).json()
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["created"] > 1_700_000_000
    assert answer["model"] == MODEL
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "好的", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


async def test_a_stream_opens_with_the_role_and_ends_with_one_reason() -> None:
    async with Chat.open() as on:
        chunks = events_of(await on.post(stream=True))
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all("usage" not in chunk for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "好"}, {"content": "的"}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]


async def test_usage_of_a_stream_comes_when_asked_for_and_last() -> None:
    async with Chat.open() as on:
        plain = (await on.post()).json()
        chunks = events_of(await on.post(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == plain["usage"]
    assert all("usage" not in chunk for chunk in chunks[:-1])


async def test_several_choices_share_one_prompt() -> None:
    async with Chat.open() as on:
        plain = (await on.post(n=3)).json()
        chunks = events_of(await on.post(n=3, stream=True, stream_options={"include_usage": True}))
    assert [choice["index"] for choice in plain["choices"]] == [0, 1, 2]
    assert plain["usage"]["prompt_tokens"] == 5
    assert plain["usage"]["completion_tokens"] == 6
    assert chunks[-1]["usage"] == plain["usage"]
    ends = [choice["index"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert sorted(ends) == [0, 1, 2]
    assert on.voice.asked[0].choices == 3


async def test_log_probabilities_keep_the_tokens_own_bytes() -> None:
    whole = "好".encode()
    tokens = (
        TokenLogprob(1, whole[:2], -0.5, (TokenLogprob(1, whole[:2], -0.5), TokenLogprob(9, b"x", float("-inf")))),
        TokenLogprob(2, whole[2:], -0.25),
    )

    def script(request: GenerationRequest) -> Said:
        return [TextDelta("好", 0, tokens), Finished(FinishReason.STOP, Usage(1, 2))]

    async with Chat.open(script) as on:
        plain = (await on.post(logprobs=True, top_logprobs=2)).json()
        chunks = events_of(await on.post(logprobs=True, top_logprobs=2, stream=True))
        assert on.voice.asked[0].sampling.logprobs == 2
    told = plain["choices"][0]["logprobs"]["content"]
    assert [entry["bytes"] for entry in told] == [list(whole[:2]), list(whole[2:])]
    assert told[0]["top_logprobs"][1] == {"token": "x", "logprob": -9999.0, "bytes": [120]}
    assert chunks[1]["choices"][0]["logprobs"]["content"] == told


async def test_sampling_reaches_the_voice_as_it_was_sent() -> None:
    async with Chat.open() as on:
        request = await on.asked(
            temperature=0,
            top_p=0.5,
            top_k=-1,
            min_p=0.1,
            presence_penalty=2,
            frequency_penalty=-2,
            repetition_penalty=1.1,
            logit_bias={"5": -100, "7": 3.5},
            seed=-1,
            stop=["a", "", "b"],
            stop_token_ids=[3],
            min_tokens=2,
            ignore_eos=True,
            max_tokens=9,
            max_completion_tokens=8,
            priority=5,
            chat_template_kwargs={"enable_thinking": False, "add_vision_id": True},
        )
    assert request.sampling == Sampling(
        max_new_tokens=8,
        temperature=0,
        top_p=0.5,
        top_k=0,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=2,
        frequency_penalty=-2,
        logit_bias=((5, -100), (7, 3.5)),
        seed=2**63 - 1,
        stop=("a", "b"),
        stop_token_ids=(3,),
        min_new_tokens=2,
        ignore_eos=True,
    )
    assert request.urgency is Urgency.ACTIVE_SPEECH
    assert request.owner == "api:open"
    assert (request.thinking, request.template) == (Thinking(enabled=False), (("add_vision_id", True),))


async def test_what_is_left_out_is_the_models_own() -> None:
    async with Chat.open(context_tokens=77) as on:
        request = await on.asked(temperature=None, stop=None, tools=None, seed=None)
    assert request.sampling == Sampling(max_new_tokens=77)
    assert request.urgency is Urgency.API
    assert request.tools == ()
    assert request.grammar is None


async def test_system_messages_are_merged_at_the_front_and_none_is_lost() -> None:
    talk = [
        {"role": "developer", "content": "一"},
        {"role": "user", "content": "甲"},
        {"role": "system", "content": [{"type": "text", "text": "二"}]},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "乙"}, {"text": "丙"}]},
    ]
    async with Chat.open() as on:
        request = await on.asked(messages=talk)
    told = [(message.role, text_of(message)) for message in request.messages]
    assert told == [("system", "一\n\n二"), ("user", "甲"), ("assistant", ""), ("user", "乙丙")]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": PICTURE, "detail": "high"}},
        {"type": "image_url", "image_url": PICTURE},
        {"type": "input_image", "image_url": PICTURE},
        {"type": "image", "image": PICTURE},
        {"type": "image", "url": PICTURE},
        {"image_url": {"url": PICTURE}},
    ],
    ids=lambda part: json.dumps(part)[:40],
)
async def test_a_picture_is_seen_in_every_spelling(part: dict[str, Any]) -> None:
    async with Chat.open() as on:
        talk = [
            {"role": "user", "content": [{"type": "text", "text": "看"}, part, {"type": "input_text", "text": "吧"}]}
        ]
        request = await on.asked(messages=talk)
        assert on.shelf.asked == [PICTURE]
    assert text_of(request.messages[0]) == "看<image>吧"


async def test_a_picture_shown_twice_is_looked_at_once_and_one_bad_spoils_the_request() -> None:
    def shows(*urls: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}} for url in urls]}]

    async with Chat.open() as on:
        request = await on.asked(messages=shows(PICTURE, "http://x/y.png") + shows(PICTURE))
        assert sorted(on.shelf.asked) == [PICTURE, "http://x/y.png"]
        assert len(images_of(request.messages[0])) == 2
        for stream in (False, True):
            error = error_of(await on.post(messages=shows(PICTURE, "http://bad"), stream=stream), 400)
            assert (error["code"], error["param"]) == ("image_rejected", "messages[0].content[1]")
        assert len(on.voice.asked) == 1


async def test_tools_and_their_results_reach_the_voice() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "北京"}'}}
    shown = {"type": "image_url", "image_url": {"url": PICTURE}}
    talk = [
        {"role": "user", "content": "北京天气"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "晴"}, shown]},
    ]
    async with Chat.open() as on:
        request = await on.asked(messages=talk, tools=[WEATHER])
    assert request.tools == (
        Tool("get_weather", "查询天气", json.dumps(WEATHER["function"]["parameters"], ensure_ascii=False)),  # type: ignore[index]
    )
    assert request.messages[1].tool_calls == (ToolCall("call_1", "get_weather", '{"city": "北京"}'),)
    assert request.messages[2].tool_call_id == "call_1"
    assert text_of(request.messages[2]) == "晴<image>"


async def test_a_call_is_told_as_a_call_whole_and_streamed() -> None:
    async with Chat.open(lambda _: "我查一下" + CALL) as on:
        plain = (await on.post(tools=[WEATHER])).json()["choices"][0]
        chunks = events_of(await on.post(tools=[WEATHER], stream=True))
        silent = (await on.post(tools=[WEATHER], tool_choice="none")).json()["choices"][0]
        assert on.voice.asked[-1].shown_tools == ()
    assert plain["finish_reason"] == "tool_calls"
    assert plain["message"]["content"].strip() == "我查一下"
    (call,) = plain["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "北京"}
    deltas = [c["choices"][0]["delta"] for c in chunks if "tool_calls" in c["choices"][0]["delta"]]
    (first, *rest) = [delta["tool_calls"][0] for delta in deltas]
    assert first["id"].startswith("call_")
    assert (first["index"], first["type"], first["function"]) == (
        0,
        "function",
        {"name": "get_weather", "arguments": ""},
    )
    assert all(set(piece) == {"index", "function"} for piece in rest)
    assert "".join(piece["function"]["arguments"] for piece in rest) == call["function"]["arguments"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert silent["finish_reason"] == "stop"
    assert silent["message"]["content"] == "我查一下" + CALL


async def test_only_calls_give_no_content_and_only_one_when_parallel_ones_are_not_wanted() -> None:
    async with Chat.open(lambda _: f"{CALL}\n{CALL}") as on:
        both = (await on.post(tools=[WEATHER])).json()["choices"][0]["message"]
        one = (await on.post(tools=[WEATHER], parallel_tool_calls=False)).json()["choices"][0]["message"]
        chunks = events_of(await on.post(tools=[WEATHER], parallel_tool_calls=False, stream=True))
    assert both["content"] is None
    assert len(both["tool_calls"]) == 2
    assert len({call["id"] for call in both["tool_calls"]}) == 2
    assert len(one["tool_calls"]) == 1
    calls = [piece for c in chunks for piece in c["choices"][0]["delta"].get("tool_calls", ())]
    assert {piece["index"] for piece in calls} == {0}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_a_forced_call_is_a_grammar(choice: Any) -> None:
    async with Chat.open(lambda _: CALL) as on:
        answer = (await on.post(tools=[WEATHER], tool_choice=choice)).json()
        wanted = constraint(on.voice.asked[0])
    assert wanted is not None
    assert "get_weather" in wanted.text
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_format_leaves_room_for_calls() -> None:
    async with Chat.open() as on:
        request = await on.asked(tools=[WEATHER], response_format={"type": "json_object"})
        error_of(await on.post(tools=[WEATHER], guided_regex="a"), 400)
    wanted = constraint(request)
    assert wanted is not None
    assert "get_weather" in wanted.text
    assert "answer: %json" in wanted.text


async def test_a_call_cut_off_by_the_limit_says_so() -> None:
    def script(_: GenerationRequest) -> Said:
        return spoken(CALL[:40], reason=FinishReason.LENGTH)

    async with Chat.open(script) as on:
        answer = (await on.post(tools=[WEATHER])).json()
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"response_format": {"type": "json_object"}}, "json_schema", '{"type":"object"}'),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}},
            "json_schema",
            '{"type": "array"}',
        ),
        ({"guided_json": '{"type": "array"}'}, "json_schema", '{"type": "array"}'),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"guided_choice": ["是", "否"]}, "choice", '["是", "否"]'),
        ({"guided_grammar": 'start: "a"'}, "lark", 'start: "a"'),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"structured_outputs": {"choice": ["是"]}}, "choice", '["是"]'),
        ({"structured_outputs": {"json": {"type": "array"}}}, "json_schema", '{"type": "array"}'),
    ],
)
async def test_constraints_in_openais_and_vllms_spelling(fields: dict[str, Any], kind: str, text: str) -> None:
    async with Chat.open() as on:
        grammar = (await on.asked(**fields)).grammar
    assert grammar is not None
    assert (grammar.kind, grammar.text) == (kind, text)
