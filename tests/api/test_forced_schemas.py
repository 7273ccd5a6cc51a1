"""Forced JSON and forced calls by schemas as libraries write them, at every door of a running server."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import uuid
from typing import Annotated, Any, Literal

import httpx
import openai
import pytest
from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel, Field, WithJsonSchema

from tests.api.conftest import KEY
from tests.running import RunningServer

MODEL = "qqvl-demo"
WARNING = "X-Qqvl-Warning"
HELLO: Any = [{"role": "user", "content": "你好"}]
BAD = {"type": "object", "properties": {"p": {"type": "array", "items": {"not": {"type": "null"}}}}, "required": ["p"]}
PLACE = "$.properties.p.items.not"


# As pydantic up to 2.13 has it; later ones take any text.
DECIMAL = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}]}


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


class Order(BaseModel):
    pets: set[Colour]
    flags: frozenset[bool]
    price: Annotated[decimal.Decimal, WithJsonSchema(DECIMAL)]
    stock: dict[Colour, bool] = Field(description="每种颜色有没有", json_schema_extra={"x-order": 1})
    owner: Annotated[Cat | Dog, Field(discriminator="kind")]
    day: datetime.date | None
    number: uuid.UUID | None


def test_pydantics_types_come_through_the_parse_helpers(client: OpenAI) -> None:
    chat = client.chat.completions.parse(
        model=MODEL, messages=HELLO, response_format=Order, max_tokens=300, temperature=0
    )
    assert isinstance(chat.choices[0].message.parsed, Order)
    response = client.responses.parse(
        model=MODEL, input="你好", text_format=Order, max_output_tokens=300, temperature=0
    )
    assert isinstance(response.output_parsed, Order)
    called = client.chat.completions.parse(
        model=MODEL, messages=HELLO, tools=[pydantic_function_tool(Order)], tool_choice="required", max_tokens=300,
        temperature=0, parallel_tool_calls=False,
    )  # fmt: skip
    calls = called.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert isinstance(call.function.parsed_arguments, Order)


def asked(schema: Any) -> dict[str, tuple[str, dict[str, Any], str]]:
    """Every place a schema may stand in: the door, the rest of a request, and the field's name."""
    message = {"messages": HELLO, "max_tokens": 60}
    function = {"name": "f", "parameters": schema}
    named, loose = {"name": "x", "schema": schema}, {"schema": schema}
    return {
        "chat": ("/v1/chat/completions", message | {"response_format": {"type": "json_schema", "json_schema": named}},
                 "response_format.json_schema.schema"),
        "chat, object": ("/v1/chat/completions", message | {"response_format": {"type": "json_object", **loose}},
                         "response_format.schema"),
        "chat, guided": ("/v1/chat/completions", message | {"guided_json": schema}, "guided_json"),
        "completions": ("/v1/completions", {"prompt": "你好", "max_tokens": 60, "structured_outputs": {"json": schema}},
                        "structured_outputs.json"),
        "chat tool": ("/v1/chat/completions", message | {"tools": [{"type": "function", "function": function}],
                                                         "tool_choice": "required"}, "tools[0].function.parameters"),
        "responses": ("/v1/responses", {"input": "你好", "max_output_tokens": 60,
                                        "text": {"format": {"type": "json_schema", **named}}}, "text.format.schema"),
        "responses tool": ("/v1/responses", {"input": "你好", "max_output_tokens": 60, "tool_choice": "required",
                                             "tools": [{"type": "web_search"}, {"type": "function", **function}]},
                           "tools[1].parameters"),
        "messages": ("/v1/messages", message | {"output_config": {"format": {"type": "json_schema", "schema": schema}}},
                     "output_config.format.schema"),
        "messages tool": ("/v1/messages", message | {"tools": [{"name": "f", "input_schema": schema}],
                                                     "tool_choice": {"type": "any"}}, "tools[0].input_schema"),
    }  # fmt: skip


PLACES = list(asked({}))


@pytest.mark.parametrize("place", PLACES)
def test_what_cannot_be_compiled_is_told_by_field_and_path(bare: RunningServer, place: str) -> None:
    path, body, param = asked(BAD)[place]
    for stream in (False, True):
        answer = bare.http.post(path, json=body | {"stream": stream})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert f" {PLACE} " in error["message"]
        if path == "/v1/messages":
            assert param in error["message"]
        else:
            assert error["param"] == param


@pytest.mark.parametrize("place", PLACES)
def test_what_is_not_kept_to_is_told(bare: RunningServer, keyed: RunningServer, place: str) -> None:
    free = {"type": "object", "properties": {"p": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}},
            "required": ["p"]}  # fmt: skip
    for server, schema, inside in ((bare, free, "properties.p.uniqueItems"), (keyed, BAD, "properties.p.items.not")):
        path, body, param = asked(schema)[place]
        for stream in (False, True):
            answer = server.http.post(path, json=body | {"stream": stream}, headers={"x-api-key": KEY})
            assert answer.status_code == 200, answer.text
            assert f"not enforced: {param}.{inside}" in answer.headers[WARNING]
    path, body, _ = asked({"type": "object", "title": "x"})[place]
    told = bare.http.post(path, json=body).headers.get(WARNING, "")
    assert "not enforced" not in told


def test_the_reply_may_call_tools_whose_schemas_cannot_be_compiled(client: OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": BAD}}
    assert client.chat.completions.create(model=MODEL, messages=HELLO, tools=[tool], max_tokens=5).choices
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=HELLO, tools=[tool], tool_choice="required", max_tokens=5)
    assert refused.value.param == "tools[0].function.parameters"


def test_a_set_of_a_few_values_has_no_value_twice(bare: RunningServer) -> None:
    few = {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True, "minItems": 2}
    schema = {"type": "object", "properties": {"p": few}, "required": ["p"]}
    path, body, _ = asked(schema)["chat"]
    answer: httpx.Response = bare.http.post(path, json=body)
    assert WARNING not in answer.headers
    assert sorted(json.loads(answer.json()["choices"][0]["message"]["content"])["p"]) == ["a", "b"]
