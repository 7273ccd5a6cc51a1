"""OpenAI's own Python SDK against a running server on the demo checkpoint."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.api import wire
from tests.pictures import base64_picture
from tests.running import RunningServer

MODEL = "Qwen/Qwen3-VL-8B-Instruct"
WEATHER: Any = {"type": "function", "function": wire.WEATHER}
ASK: Any = [{"role": "user", "content": "北京今天天气怎么样？"}]
HELLO: Any = [{"role": "user", "content": "你好"}]


def shows(question: str, *pictures: str) -> Any:
    parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}} for data in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["qqvl-demo", MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_stream_is_the_plain_answer_in_pieces(client: OpenAI) -> None:
    plain = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, max_tokens=40)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            temperature=0,
            max_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    said = plain.choices[0].message.content
    assert said
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == said
    assert len(chunks) > 5
    used, told = chunks[-1].usage, plain.usage
    assert used is not None
    assert told is not None
    assert (used.prompt_tokens, used.completion_tokens) == (told.prompt_tokens, told.completion_tokens)
    assert plain.choices[0].finish_reason == "stop"


def test_the_limit_is_told_and_stops_are_not(client: OpenAI) -> None:
    short = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, max_tokens=2)
    assert short.choices[0].finish_reason == "length"
    assert short.usage is not None
    assert short.usage.completion_tokens == 2
    said = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0).choices[0].message.content or ""
    stop = said[3:5]
    cut = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, stop=[stop])
    assert cut.choices[0].message.content == said[: said.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_it_sees_what_it_is_shown(client: OpenAI) -> None:
    for name, colour in (("红", (255, 0, 0)), ("蓝", (0, 0, 255))):
        answer = client.chat.completions.create(
            model=MODEL, messages=shows("图里的东西是什么颜色？", base64_picture(colour)), temperature=0
        )
        assert name in (answer.choices[0].message.content or "")


def test_a_tool_is_called_and_its_result_told(client: OpenAI) -> None:
    first = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=[WEATHER], tool_choice="auto", temperature=0
    )
    assert first.choices[0].finish_reason == "tool_calls"
    message = first.choices[0].message
    assert message.content is None
    assert message.tool_calls
    (call,) = message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] == "北京"
    talk = [
        *ASK,
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "晴，25度"},
    ]
    last = client.chat.completions.create(model=MODEL, messages=talk, tools=[WEATHER], temperature=0)
    assert last.choices[0].finish_reason == "stop"
    assert "晴" in (last.choices[0].message.content or "")


def test_a_streamed_call_can_be_put_together(client: OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=ASK, tools=[WEATHER], temperature=0) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"
    (call,) = final.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments)["city"] == "北京"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "pick"}}, "none"])
def test_the_choice_of_tools_is_obeyed(client: OpenAI, choice: Any) -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    pick: Any = {"type": "function", "function": {"name": "pick", "parameters": schema}}
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, tools=[pick], tool_choice=choice, temperature=0, max_tokens=200
    )
    calls = answer.choices[0].message.tool_calls
    if choice == "none":
        assert not calls
        return
    assert answer.choices[0].finish_reason == "tool_calls"
    assert calls
    for call in calls:
        assert call.type == "function"
        assert json.loads(call.function.arguments) in ({"colour": "red"}, {"colour": "blue"})


def test_a_schema_is_kept(client: OpenAI) -> None:
    class Verdict(BaseModel):
        answer: Literal["yes", "no"]
        stars: Literal[1, 2, 3]

    parsed = client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Verdict, max_tokens=100)
    assert isinstance(parsed.choices[0].message.parsed, Verdict)
    chosen = client.chat.completions.create(model=MODEL, messages=HELLO, extra_body={"guided_choice": ["甲", "乙"]})
    assert chosen.choices[0].message.content in ("甲", "乙")


def test_a_format_and_tools_together(client: OpenAI) -> None:
    def ask(messages: Any) -> Any:
        return client.chat.completions.create(
            model=MODEL,
            messages=messages,
            tools=[WEATHER],
            temperature=0,
            max_tokens=200,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"a": {"const": 1}}}},
            },
        ).choices[0]

    assert ask(ASK).message.tool_calls[0].function.name == "get_weather"
    assert isinstance(json.loads(ask(HELLO).message.content), dict)


def test_several_choices_and_the_same_seed(client: OpenAI) -> None:
    def ask() -> list[str | None]:
        answer = client.chat.completions.create(model=MODEL, messages=HELLO, n=3, seed=7, temperature=1.5, max_tokens=8)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    said = ask()
    assert said == ask()


def test_log_probabilities_spell_the_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    )
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content
    assert len(told.content) == 6
    spelt = b"".join(bytes(entry.bytes or []) for entry in told.content)
    assert spelt.decode("utf-8", "ignore") == answer.choices[0].message.content
    for entry in told.content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob)
        assert entry.logprob <= 0


def test_plain_completions(client: OpenAI, bare: RunningServer) -> None:
    tokens = bare.http.post("/tokenize", json={"prompt": "你好"}).json()["tokens"]
    assert bare.http.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": "你好"}
    texts: Any = ["你好", "你好"]
    answer = client.completions.create(model=MODEL, prompt=texts, temperature=0, n=2, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert all(choice.text.startswith("你好") for choice in answer.choices)
    by_ids = client.completions.create(model=MODEL, prompt=tokens, temperature=0, logprobs=2)
    assert "你好" + by_ids.choices[0].text == answer.choices[0].text
    assert by_ids.usage is not None
    assert by_ids.usage.prompt_tokens == len(tokens)
    told = by_ids.choices[0].logprobs
    assert told is not None
    assert told.tokens is not None
    assert len(told.tokens) == by_ids.usage.completion_tokens
    assert len(told.text_offset or []) == len(told.tokens)
    pieces = client.completions.create(model=MODEL, prompt=tokens, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == by_ids.choices[0].text


def test_tokens_of_a_chat_are_those_of_its_prompt(client: OpenAI, bare: RunningServer) -> None:
    for messages, tools in ((HELLO, []), (ASK, [WEATHER]), (shows("颜色？", base64_picture()), [])):
        counted = bare.http.post("/tokenize", json={"messages": messages, "tools": tools}).json()
        answer = client.chat.completions.create(
            model=MODEL, messages=messages, tools=tools or openai.omit, max_tokens=1
        )
        assert answer.usage is not None
        assert counted["count"] == len(counted["tokens"]) == answer.usage.prompt_tokens


def test_errors_are_the_sdks_own(client: OpenAI, bare: RunningServer) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as hot:
        client.chat.completions.create(model=MODEL, messages=HELLO, temperature=9)
    assert (hot.value.param, hot.value.type) == ("temperature", "invalid_request_error")
    context = bare.http.get(f"/v1/models/{MODEL}").json()["max_model_len"]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as long:
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "长" * (context + 9)}], stream=stream
            )
        assert long.value.code == "context_length_exceeded"
        assert f"maximum context length is {context} tokens" in long.value.message
    with pytest.raises(openai.BadRequestError) as picture:
        client.chat.completions.create(model=MODEL, messages=shows("颜色？", "bm8gcGljdHVyZQ=="))
    assert picture.value.code == "image_rejected"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=HELLO, extra_body={"guided_regex": "("})


@pytest.mark.parametrize("stream", [False, True])
def test_a_reader_that_hangs_up_frees_the_model(bare: RunningServer, stream: bool) -> None:
    body = {"messages": HELLO, "stream": stream, "ignore_eos": True, "max_tokens": 4000, "n": 4}
    with httpx.Client(base_url=bare.base, trust_env=False) as http:
        request = http.build_request("POST", "/v1/chat/completions", json=body)
        if stream:
            answer = http.send(request, stream=True)
            next(answer.iter_lines())
            answer.close()
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/chat/completions", json=body, timeout=1)
    deadline = time.monotonic() + 30
    while wire.metric(bare, "qqvl_requests_running") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert wire.metric(bare, "qqvl_requests_running") == 0
    made = wire.metric(bare, "qqvl_generation_tokens_total")
    time.sleep(0.5)
    assert wire.metric(bare, "qqvl_generation_tokens_total") == made
