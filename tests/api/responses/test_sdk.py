"""OpenAI's own Python SDK asking for Responses of a running server on the demo checkpoint."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel

from tests.api import wire
from tests.pictures import base64_picture
from tests.running import RunningServer

MODEL = "Qwen/Qwen3-VL-8B-Instruct"
ASK = "北京今天天气怎么样？"
WEATHER: Any = {"type": "function", **wire.WEATHER, "strict": False}
SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
PICK: Any = {"type": "function", "name": "pick", "parameters": SCHEMA, "strict": True}


class Verdict(BaseModel):
    answer: Literal["yes", "no"]
    stars: Literal[1, 2, 3]


def test_a_stream_is_the_plain_answer_in_pieces(client: OpenAI) -> None:
    plain = client.responses.create(model=MODEL, input="你好", temperature=0, max_output_tokens=40)
    assert plain.output_text
    assert (plain.status, plain.model, plain.object, plain.error) == ("completed", MODEL, "response", None)
    with client.responses.stream(model=MODEL, input="你好", temperature=0, max_output_tokens=40) as stream:
        events = list(stream)
        final = stream.get_final_response()
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(pieces) > 5
    assert "".join(pieces) == final.output_text == plain.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert plain.usage is not None
    assert final.usage is not None
    assert final.usage.output_tokens == plain.usage.output_tokens
    assert final.usage.input_tokens == plain.usage.input_tokens
    assert plain.usage.total_tokens == plain.usage.input_tokens + plain.usage.output_tokens


def test_it_is_the_answer_of_a_chat(client: OpenAI) -> None:
    rules = "你是一个有用的助手。"
    told = client.responses.create(model=MODEL, instructions=rules, input="你好", temperature=0)
    messages: Any = [{"role": "system", "content": rules}, {"role": "user", "content": "你好"}]
    chat = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    assert told.output_text == chat.choices[0].message.content
    assert told.usage is not None
    assert chat.usage is not None
    assert told.usage.input_tokens == chat.usage.prompt_tokens


def test_the_limit_is_told(client: OpenAI) -> None:
    short = client.responses.create(model=MODEL, input="你好", temperature=0, max_output_tokens=2)
    assert short.status == "incomplete"
    assert short.incomplete_details is not None
    assert short.incomplete_details.reason == "max_output_tokens"
    assert short.usage is not None
    assert short.usage.output_tokens == 2
    with client.responses.stream(model=MODEL, input="你好", temperature=0, max_output_tokens=2) as stream:
        last = list(stream)[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == short.output_text


def test_it_sees_what_it_is_shown(client: OpenAI) -> None:
    for name, colour in (("红", (255, 0, 0)), ("蓝", (0, 0, 255))):
        url = f"data:image/png;base64,{base64_picture(colour)}"
        shown: Any = [
            {"type": "input_image", "image_url": url, "detail": "auto"},
            {"type": "input_text", "text": "图里的东西是什么颜色？"},
        ]
        answer = client.responses.create(model=MODEL, input=[{"role": "user", "content": shown}], temperature=0)
        assert name in answer.output_text


def test_a_tool_is_called_and_its_result_told(client: OpenAI) -> None:
    talk: Any = [{"role": "user", "content": ASK}]
    first = client.responses.create(model=MODEL, input=talk, tools=[WEATHER], temperature=0)
    (call,) = first.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert (call.name, call.status, json.loads(call.arguments)["city"]) == ("get_weather", "completed", "北京")
    with client.responses.stream(model=MODEL, input=talk, tools=[WEATHER], temperature=0) as stream:
        pieces = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        (streamed,) = stream.get_final_response().output
    assert streamed.type == "function_call"
    assert "".join(pieces) == streamed.arguments == call.arguments
    talk += [item.to_dict() for item in first.output]
    talk.append({"type": "function_call_output", "call_id": call.call_id, "output": "晴，25度"})
    last = client.responses.create(model=MODEL, input=talk, tools=[WEATHER], temperature=0)
    assert "晴" in last.output_text
    talk += [item.to_dict() for item in last.output] + [{"role": "user", "content": "你好"}]
    assert client.responses.create(model=MODEL, input=talk, tools=[WEATHER], temperature=0).output


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "pick"}, "none"])
def test_the_choice_of_tools_is_obeyed(client: OpenAI, choice: Any) -> None:
    answer = client.responses.create(
        model=MODEL, input="你好", tools=[PICK], tool_choice=choice, temperature=0, max_output_tokens=200
    )
    calls = [item for item in answer.output if item.type == "function_call"]
    assert bool(calls) == (choice != "none")
    for call in calls:
        assert json.loads(call.arguments) in ({"colour": "red"}, {"colour": "blue"})


def test_a_schema_is_kept(client: OpenAI) -> None:
    parsed = client.responses.parse(model=MODEL, input="你好", text_format=Verdict, max_output_tokens=100)
    assert isinstance(parsed.output_parsed, Verdict)
    with client.responses.stream(model=MODEL, input="你好", text_format=Verdict, max_output_tokens=100) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Verdict)
    loose: Any = {"format": {"type": "json_object"}}
    answer = client.responses.create(model=MODEL, input="你好", text=loose, max_output_tokens=100)
    assert isinstance(json.loads(answer.output_text), dict)


def test_a_format_and_tools_together(client: OpenAI) -> None:
    wanted: Any = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}

    def ask(text: str) -> Any:
        return client.responses.create(
            model=MODEL, input=text, tools=[WEATHER], text=wanted, temperature=0, max_output_tokens=200
        )

    assert ask(ASK).output[0].name == "get_weather"
    assert set(json.loads(ask("你好").output_text)) == {"colour"}


def test_log_probabilities_spell_the_answer(client: OpenAI) -> None:
    answer = client.responses.create(
        model=MODEL, input="你好", temperature=0, include=["message.output_text.logprobs"], top_logprobs=2
    )
    message = answer.output[0]
    assert message.type == "message"
    part = message.content[0]
    assert part.type == "output_text"
    assert part.logprobs
    assert b"".join(bytes(entry.bytes) for entry in part.logprobs).decode("utf-8", "ignore").startswith(part.text)
    assert all(len(entry.top_logprobs) == 2 and entry.logprob <= 0 for entry in part.logprobs)


def test_errors_are_the_sdks_own(client: OpenAI, bare: RunningServer) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="no-such-model", input="你好")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    context = bare.http.get(f"/v1/models/{MODEL}").json()["max_model_len"]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as long:
            client.responses.create(model=MODEL, input="长" * (context + 9), stream=stream)
        assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as before:
        client.responses.create(model=MODEL, input="你好", previous_response_id="resp_1")
    assert before.value.param == "previous_response_id"
