"""Anthropic's own Python SDK against a running server on the demo checkpoint, with its base URL changed and no more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.api import wire
from tests.pictures import base64_picture
from tests.running import RunningServer

MODEL = "qqvl-demo"
HELLO: Any = [{"role": "user", "content": "你好"}]
ASK: Any = [{"role": "user", "content": "北京今天天气怎么样？"}]
WEATHER: Any = {
    "name": wire.WEATHER["name"],
    "description": wire.WEATHER["description"],
    "input_schema": wire.WEATHER["parameters"],
}
PICK: Any = {
    "name": "pick",
    "input_schema": {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]},
}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.base, api_key="EMPTY", max_retries=0, timeout=60) as opened:
        yield opened


def test_a_stream_is_the_plain_answer_in_pieces(client: Anthropic) -> None:
    plain = client.messages.create(model=MODEL, max_tokens=40, messages=HELLO)
    assert plain.model == MODEL
    assert plain.content[0].type == "text"
    assert plain.stop_reason == "end_turn"
    with client.messages.stream(model=MODEL, max_tokens=40, messages=HELLO) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 5
    assert "".join(pieces) == plain.content[0].text
    assert final.content[0].type == "text"
    assert final.content[0].text == plain.content[0].text
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == plain.usage.output_tokens


def test_every_token_of_the_prompt_is_counted_once(client: Anthropic) -> None:
    asked: Any = {"model": MODEL, "messages": ASK, "tools": [WEATHER], "system": "你是一个有用的助手。"}
    counted = client.messages.count_tokens(**asked).input_tokens
    assert counted > client.messages.count_tokens(model=MODEL, messages=ASK).input_tokens
    for _ in range(2):
        used = client.messages.create(**asked, max_tokens=4).usage
        assert used.input_tokens + (used.cache_read_input_tokens or 0) == counted
    starts = [
        event.message.usage.input_tokens
        for event in client.messages.create(**asked, max_tokens=4, stream=True)
        if event.type == "message_start"
    ]
    assert starts == [counted]


def test_limits_and_stops(client: Anthropic) -> None:
    warm = client.messages.create(model=MODEL, max_tokens=4, messages=HELLO, extra_body={"temperature": 0, "top_k": 1})
    assert warm.usage.output_tokens == 4
    short = client.messages.create(model=MODEL, max_tokens=2, messages=HELLO)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 2)
    whole = client.messages.create(model=MODEL, max_tokens=40, messages=HELLO).content[0]
    assert whole.type == "text"
    stop = whole.text[3:5]
    cut = client.messages.create(model=MODEL, max_tokens=40, messages=HELLO, stop_sequences=[stop])
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", stop)
    assert cut.content[0].type == "text"
    assert cut.content[0].text == whole.text[: whole.text.index(stop)]


def test_it_goes_on_from_what_it_is_said_to_have_begun(client: Anthropic) -> None:
    with client.messages.stream(model=MODEL, max_tokens=40, messages=HELLO) as stream:
        pieces = list(stream.text_stream)
    begun: Any = [*HELLO, {"role": "assistant", "content": "".join(pieces[:3])}]
    rest = client.messages.create(model=MODEL, max_tokens=40, messages=begun)
    assert rest.content[0].type == "text"
    assert rest.content[0].text == "".join(pieces[3:])
    counts = [client.messages.count_tokens(model=MODEL, messages=talk).input_tokens for talk in (HELLO, begun)]
    assert counts[0] < counts[1] == rest.usage.input_tokens + (rest.usage.cache_read_input_tokens or 0)


def test_it_sees_what_it_is_shown(client: Anthropic) -> None:
    for name, colour in (("红", (255, 0, 0)), ("蓝", (0, 0, 255))):
        source = {"type": "base64", "media_type": "image/png", "data": base64_picture(colour)}
        content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "图里的东西是什么颜色？"}]
        messages: Any = [{"role": "user", "content": content}]
        answer = client.messages.create(model=MODEL, max_tokens=40, messages=messages)
        assert answer.content[0].type == "text"
        assert name in answer.content[0].text


def test_a_tool_is_called_and_its_result_told(client: Anthropic) -> None:
    first = client.messages.create(model=MODEL, max_tokens=100, messages=ASK, tools=[WEATHER])
    assert first.stop_reason == "tool_use"
    call = first.content[-1]
    assert call.type == "tool_use"
    assert (call.name, call.input["city"]) == ("get_weather", "北京")
    with client.messages.stream(
        model=MODEL, max_tokens=100, messages=ASK, tools=[WEATHER]
    ) as stream:  # fmt: skip
        streamed = stream.get_final_message().content[-1]
    assert streamed.type == "tool_use"
    assert streamed.input == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "晴，25度"}
    talk: Any = [*ASK, first.to_param(), {"role": "user", "content": [result]}]
    last = client.messages.create(model=MODEL, max_tokens=60, messages=talk, tools=[WEATHER])
    assert last.stop_reason == "end_turn"
    assert last.content[0].type == "text"
    assert "晴" in last.content[0].text


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "pick"}, {"type": "none"}], ids=str)
def test_the_choice_of_tools_is_obeyed(client: Anthropic, choice: Any) -> None:
    answer = client.messages.create(model=MODEL, max_tokens=200, messages=HELLO, tools=[PICK], tool_choice=choice)
    calls = [block for block in answer.content if block.type == "tool_use"]
    if choice["type"] == "none":
        assert not calls
        return
    assert calls
    assert answer.stop_reason == "tool_use"
    for call in calls:
        assert call.input in ({"colour": "red"}, {"colour": "blue"})


def test_a_schema_is_kept(client: Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    answer = client.messages.create(
        model=MODEL,
        max_tokens=50,
        messages=HELLO,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    assert answer.content[0].type == "text"
    assert json.loads(answer.content[0].text) in ({"ok": True}, {"ok": False})


def test_a_name_of_anthropics_is_told_what_there_is_instead(bare: RunningServer) -> None:
    with Anthropic(base_url=bare.base, api_key="EMPTY", max_retries=0, timeout=60) as client:
        with pytest.raises(anthropic.NotFoundError, match=MODEL) as unknown:
            client.messages.create(model="claude-any", messages=HELLO, max_tokens=9)
        assert unknown.value.type == "not_found_error"
        with pytest.raises(anthropic.NotFoundError, match=MODEL):
            client.messages.count_tokens(model="claude-any", messages=HELLO)


def test_errors_are_the_sdks_own(client: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as bad:
        client.messages.create(model=MODEL, max_tokens=9, messages=[])
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError, match=r"\d{4}"):
        client.messages.create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "长" * 200_000}])
    with pytest.raises(anthropic.BadRequestError), client.messages.stream(
        model=MODEL, max_tokens=9, messages=HELLO, tools=[PICK | {"input_schema": {"type": "object", "not": {}}}],
        tool_choice={"type": "any"},
    ) as stream:  # fmt: skip
        stream.get_final_message()


def test_what_claude_code_sends_is_taken(server: RunningServer) -> None:
    """The shape of its requests: betas in the query and the headers, cached blocks, thoughts, a changing first line,
    and names of Anthropic's models, for which the server is started with ``--any-model-name``."""
    block = {"cache_control": {"type": "ephemeral"}}
    body = {
        "model": "claude-opus-4-6",
        "max_tokens": 8,
        "stream": True,
        "temperature": 1,
        "metadata": {"user_id": "user_1_account__session_2"},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=12345;"},
            {"type": "text", "text": "You are Claude Code.", **block},
        ],
        "tools": [{**WEATHER, **block, "eager_input_streaming": True}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "<system-reminder>x</system-reminder>"}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "嗯", "signature": "s"},
                                              {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "is_error": True,
                                          "content": [{"type": "text", "text": "x"}], **block}]},
        ],
    }  # fmt: skip
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219,interleaved-thinking"}
    answer = server.http.post("/v1/messages?beta=true", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.text.startswith("event: message_start\n")
    assert "event: message_stop\n" in answer.text
    assert '"model":"claude-opus-4-6"' in answer.text
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    del body["max_tokens"], body["stream"]
    counted = server.http.post("/v1/messages/count_tokens?beta=true", json=body, headers=headers)
    assert counted.json()["input_tokens"] > 10


@pytest.mark.anyio
async def test_many_at_once_are_each_answered_as_alone(server: RunningServer) -> None:
    async with AsyncAnthropic(base_url=server.base, api_key="EMPTY", max_retries=0, timeout=60) as many:

        async def ask(number: int) -> str:
            messages: Any = [{"role": "user", "content": f"我叫小{number}"}]
            async with many.messages.stream(model=MODEL, max_tokens=20, messages=messages) as stream:
                return await stream.get_final_text()

        alone = [await ask(number) for number in range(4)]
        together = await asyncio.gather(*(ask(number) for number in range(4)))
    assert list(together) == alone


def test_wrong_methods_and_paths_speak_anthropics_shape(server: RunningServer) -> None:
    for answer in (
        httpx.get(f"{server.base}/v1/messages", trust_env=False),
        httpx.post(f"{server.base}/v1/messages/batches", json={}, trust_env=False),
        httpx.post(f"{server.base}/v1/messages", content=b"{", headers={"content-type": "application/json"}),
    ):
        assert answer.status_code in (400, 404, 405)
        assert set(answer.json()) == {"type", "error", "request_id"}
