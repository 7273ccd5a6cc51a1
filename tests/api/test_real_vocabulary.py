"""The doors on a checkpoint with the real tokenizer, template and vocabulary of 151,936 (a multiple of 32).

It babbles plain words until its tokens run out and never ends by itself: forced formats must end it in time.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.stage import named_events
from tests.api.wire import WEATHER
from tests.pictures import base64_of, encoded, picture
from tests.running import RunningServer

TITLE = {"type": "object", "properties": {"title": {"type": "string", "maxLength": 400}}, "required": ["title"],
         "additionalProperties": False}  # fmt: skip
ASK = [{"role": "user", "content": "hi"}]
CALL_TOKEN = 151_657
FUNCTIONS = [
    {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["北京", "上海"]}},
                                           "required": ["city"], "additionalProperties": False}},
    {"name": "get_time", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
    {"name": "set_title", "parameters": TITLE},
]  # fmt: skip
TOOLS = [{"type": "function", "function": function} for function in FUNCTIONS]
SET_TITLE = {"type": "function", "name": "set_title"}
FORMATS: dict[str, dict[str, Any]] = {
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": TITLE}}},
    "object": {"response_format": {"type": "json_object"}},
    "guided": {"guided_json": TITLE},
}


def chat(server: RunningServer, **fields: Any) -> dict[str, Any]:
    answer = server.http.post("/v1/chat/completions", json={"messages": ASK, "max_tokens": 48, **fields})
    assert answer.status_code == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


def streamed(server: RunningServer, **fields: Any) -> dict[int, dict[str, Any]]:
    """The message of each choice, put together from a stream's deltas."""
    body = {"messages": ASK, "max_tokens": 48, "stream": True, **fields}
    answer = server.http.post("/v1/chat/completions", json=body)
    messages: dict[int, dict[str, Any]] = {}
    for line in answer.text.split("\n\n"):
        if line in ("", "data: [DONE]"):
            continue
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            message = messages.setdefault(choice["index"], {"content": "", "calls": {}})
            message["content"] += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls", ()):
                at = message["calls"].setdefault(call["index"], {"name": "", "arguments": ""})
                at["name"] += call["function"].get("name", "")
                at["arguments"] += call["function"]["arguments"]
    return messages


def called(message: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    functions = [call["function"] for call in message.get("tool_calls", ())]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


@pytest.mark.parametrize("wish", FORMATS)
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 5}])
def test_forced_json_comes_to_its_end(babbling: RunningServer, wish: str, sampling: dict[str, Any]) -> None:
    asked = FORMATS[wish] | sampling
    for choice in chat(babbling, n=2, **asked)["choices"]:
        assert isinstance(json.loads(choice["message"]["content"]), dict)
        assert choice["finish_reason"] == "stop"
    for message in streamed(babbling, n=2, **asked).values():
        assert isinstance(json.loads(message["content"]), dict)


def test_forced_json_comes_to_its_end_at_the_other_doors(babbling: RunningServer) -> None:
    text = {"format": {"type": "json_schema", "name": "x", "schema": TITLE}}
    response = babbling.http.post("/v1/responses", json={"input": "hi", "max_output_tokens": 48, "text": text}).json()
    assert set(json.loads(response["output"][0]["content"][0]["text"])) == {"title"}
    form = {"format": {"type": "json_schema", "schema": TITLE}}
    message = {"model": "words", "max_tokens": 48, "messages": ASK, "output_config": form}
    answer = babbling.http.post("/v1/messages", json=message).json()
    assert set(json.loads(answer["content"][0]["text"])) == {"title"}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "get_time", "set_title"}),
        ({"type": "function", "function": {"name": "set_title"}}, {"set_title"}),
        ({"type": "function", "function": {"name": "get_weather"}}, {"get_weather"}),
    ],
)
def test_forced_calls_are_whole_calls(babbling: RunningServer, choice: Any, names: set[str]) -> None:
    asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": choice, "max_tokens": 64}
    for one in chat(babbling, n=2, **asked)["choices"]:
        calls = called(one["message"])
        assert calls
        assert {name for name, _ in calls} <= names
        assert one["finish_reason"] == "tool_calls"
    for message in streamed(babbling, **asked).values():
        assert message["content"] == ""
        assert {call["name"] for call in message["calls"].values()} <= names
        assert all(isinstance(json.loads(call["arguments"]), dict) for call in message["calls"].values())


def test_forced_calls_are_whole_calls_at_the_other_doors(babbling: RunningServer) -> None:
    flat = [{"type": "function", **function} for function in FUNCTIONS]
    body = {
        "input": "hi",
        "max_output_tokens": 64,
        "tools": flat,
        "tool_choice": {"type": "function", "name": "set_title"},
    }
    items = babbling.http.post("/v1/responses", json=body).json()["output"]
    assert [(item["name"], set(json.loads(item["arguments"]))) for item in items] == [("set_title", {"title"})]
    tools = [{"name": f["name"], "input_schema": f["parameters"]} for f in FUNCTIONS]
    asked = {"model": "words", "max_tokens": 64, "messages": ASK, "tools": tools, "tool_choice": {"type": "any"}}
    blocks = babbling.http.post("/v1/messages", json=asked).json()["content"]
    assert {block["type"] for block in blocks} == {"tool_use"}


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_only_allowed_tools_are_called(babbling: RunningServer, mode: str) -> None:
    bias = {"logit_bias": {str(CALL_TOKEN): 100}} if mode == "auto" else {}
    named = [
        {"type": "function", "function": {"name": "get_time"}},
        {"type": "function", "function": {"name": "get_weather"}},
    ]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}
    fields = {"tools": TOOLS, "tool_choice": choice, "max_tokens": 48, **bias}
    for sampling in ({}, {"temperature": 2.0, "seed": 3}):
        for one in chat(babbling, n=3, **fields, **sampling)["choices"]:
            assert {name["function"]["name"] for name in one["message"]["tool_calls"]} <= {"get_time", "get_weather"}
            # A call that was cut before its name was whole is told as it stands.
            assert (one["message"]["content"] or "<tool_call>").startswith("<tool_call>")
    (message,) = streamed(babbling, **fields).values()
    assert {call["name"] for call in message["calls"].values()} <= {"get_time", "get_weather"}
    # The prompt is the same as with all of them, so that its cache is.
    whole = chat(babbling, tools=TOOLS)
    assert chat(babbling, **fields)["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    assert "tool_calls" not in whole["choices"][0]["message"]


def test_only_allowed_tools_are_called_through_responses(babbling: RunningServer) -> None:
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_time"}]}
    flat = [{"type": "function", **function} for function in FUNCTIONS]
    body = {"input": "hi", "max_output_tokens": 64, "tools": flat, "tool_choice": choice}
    answer = babbling.http.post("/v1/responses", json=body).json()
    assert {item["name"] for item in answer["output"]} == {"get_time"}
    assert answer["tool_choice"] == choice
    events = named_events(babbling.http.post("/v1/responses", json=body | {"stream": True}))
    assert events[-1]["type"] == "response.completed"


def test_other_grammars_are_kept_to(babbling: RunningServer) -> None:
    for wish, text in (
        ({"guided_choice": ["红色", "蓝色"]}, ("红色", "蓝色")),
        ({"guided_regex": "(北|东)京[0-9]{2}"}, tuple(f"{c}京{n:02}" for c in "北东" for n in range(100))),
        ({"guided_grammar": 'start: "一" "二"'}, ("一二",)),
    ):
        for choice in chat(babbling, n=2, temperature=1.5, seed=9, **wish)["choices"]:
            assert choice["message"]["content"] in text
    # A format that must end here ends here, whatever the least length.
    assert chat(babbling, guided_choice=["红色"], min_tokens=20)["choices"][0]["message"]["content"] == "红色"


def test_stops_end_a_reply_and_are_not_told(babbling: RunningServer) -> None:
    free = chat(babbling)["choices"][0]["message"]["content"]
    assert free
    stop = free[6:9]
    stopped = chat(babbling, stop=[stop])["choices"][0]
    assert stopped["message"]["content"] == free[: free.index(stop)]
    assert (stopped["finish_reason"], stopped["stop_reason"]) == ("stop", stop)
    first = chat(babbling, logprobs=True, max_tokens=1)["choices"][0]["logprobs"]["content"][0]
    ids = babbling.http.post("/tokenize", json={"prompt": first["token"]}).json()["tokens"]
    assert chat(babbling, stop_token_ids=ids)["choices"][0]["stop_reason"] == ids[0]
    message = {"model": "words", "max_tokens": 48, "messages": ASK, "stop_sequences": [stop]}
    answer = babbling.http.post("/v1/messages", json=message).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", stop)


def test_log_probabilities_are_of_the_tokens_told(babbling: RunningServer) -> None:
    choice = chat(babbling, logprobs=True, top_logprobs=5, max_tokens=12)["choices"][0]
    told = choice["logprobs"]["content"]
    assert len(told) == 12
    assert b"".join(bytes(entry["bytes"]) for entry in told).decode() == choice["message"]["content"]
    for entry in told:
        assert len(entry["top_logprobs"]) == 5
        assert entry["top_logprobs"][0]["logprob"] == entry["logprob"] <= 0


def test_a_stream_says_what_a_whole_reply_says(babbling: RunningServer) -> None:
    for wish in (
        {},
        {"temperature": 1.0, "seed": 4, "top_p": 0.9},
        {"frequency_penalty": 1.0, "presence_penalty": 0.5},
    ):
        whole = [choice["message"]["content"] for choice in chat(babbling, n=2, **wish)["choices"]]
        pieces = streamed(babbling, n=2, **wish)
        assert [pieces[0]["content"], pieces[1]["content"]] == whole


def test_ids_outside_the_vocabulary_are_refused(babbling: RunningServer) -> None:
    """The model has more logits than the tokenizer has tokens; neither end lets an id through."""
    for token in (151_669, 151_935, 151_936, 10**9):
        for fields in ({"logit_bias": {str(token): 1}}, {"stop_token_ids": [token]}):
            body = {"messages": ASK, "max_tokens": 2, **fields}
            assert babbling.http.post("/v1/chat/completions", json=body).status_code == 400, (token, fields)
        assert babbling.http.post("/detokenize", json={"tokens": [token]}).status_code == 400
        assert babbling.http.post("/v1/completions", json={"prompt": [token], "max_tokens": 2}).status_code == 400
    text = "你好，世界 <|im_start|> hello\n"
    ids = babbling.http.post("/tokenize", json={"prompt": text}).json()["tokens"]
    assert 151_644 in ids
    assert babbling.http.post("/detokenize", json={"tokens": ids}).json()["prompt"] == text


def test_both_qq_doors_answer_in_words_about_words_and_pictures(babbling: RunningServer) -> None:
    shown = base64_of(encoded(picture()))
    assert babbling.private("你好", user="wide").strip()
    assert babbling.private("看", user="wide", images=(shown,)).strip()
    answer = babbling.group("大家好", group="wide", images=(shown,))
    assert answer["should_reply"]
    assert answer["usage"]["completion_tokens"] == 16
    assert babbling.messages("group", "wide")[-1]["content"] == answer["reply"]


def test_a_tool_as_openai_writes_it_is_read_and_can_be_called(babbling: RunningServer) -> None:
    asked = {"tools": [{"type": "function", "function": WEATHER}], "tool_choice": "required", "max_tokens": 80}
    ((name, arguments),) = called(chat(babbling, parallel_tool_calls=False, **asked)["choices"][0]["message"])
    assert name == "get_weather"
    assert isinstance(arguments["city"], str)


def test_qq_hears_no_thoughts_that_the_template_opened(thinking: RunningServer) -> None:
    ids = thinking.http.post("/tokenize", json={"messages": ASK}).json()["tokens"]
    assert ids[-2:] == [151_667, 198]
    assert thinking.private("你好", user="think") == "好"
    assert thinking.group("你好", group="think")["reply"] == "好"
    for kind in ("private", "group"):
        lines = thinking.messages(kind, "think")
        assert [line["content"] for line in lines] == ["你好", "好"]
    # The next prompt holds what was said alone.
    assert thinking.private("再来", user="think") == "好"
