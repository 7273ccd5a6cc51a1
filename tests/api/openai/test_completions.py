"""POST /v1/completions, /tokenize and /detokenize: prompts without a chat."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qqvl_server.errors import GenerationFailed
from qqvl_server.generation.port import Finished, FinishReason, GenerationRequest, TextDelta, TokenLogprob, Usage
from tests.api.openai.test_chat import PICTURE, WEATHER
from tests.api.stage import MODEL, Completions, Said, check_named, error_of, events_of

pytestmark = pytest.mark.anyio


def echoing(request: GenerationRequest) -> str:
    return f"<{request.raw}>"


async def test_a_plain_completion() -> None:
    async with Completions.open(echoing) as on:
        answer = (await on.post(model=MODEL)).json()
        (request,) = on.voice.asked
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [
        {"index": 0, "text": "<你好>", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    ]
    assert answer["usage"]["total_tokens"] == 9
    assert (request.raw, request.messages) == ("你好", ())
    assert request.sampling.max_new_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "raw"),
    [("a", ["a"]), (["a"], ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [(1, 2)]), ([[1, 2], [3]], [(1, 2), (3,)])],
)
async def test_prompts_as_texts_and_as_token_ids(prompt: Any, raw: list[Any]) -> None:
    async with Completions.open(echoing) as on:
        answer = (await on.post(prompt=prompt, n=2)).json()
        assert [request.raw for request in on.voice.asked] == raw
        assert len({request.request_id for request in on.voice.asked}) == len(raw)
    expected = [f"<{prompt}>" for prompt in raw for _ in range(2)]
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(expected)))
    assert answer["usage"]["prompt_tokens"] == 5 * len(raw)
    assert answer["usage"]["completion_tokens"] == sum(map(len, expected))


async def test_a_stream_is_the_plain_answer_in_pieces() -> None:
    async with Completions.open(echoing) as on:
        body = {"prompt": ["甲", [5, 6]], "n": 2, "echo": True}
        plain = (await on.post(**body)).json()
        chunks = events_of(await on.post(**body, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == plain["usage"]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    told = ["", "", "", ""]
    ends = []
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        told[choice["index"]] += choice["text"]
        ends += [choice["index"]] if choice["finish_reason"] else []
    assert told == [choice["text"] for choice in plain["choices"]] == ["甲<甲>"] * 2 + ["丅丆<(5, 6)>"] * 2
    assert sorted(ends) == [0, 1, 2, 3]


async def test_log_probabilities_say_where_each_token_starts() -> None:
    half, rest = "好".encode()[:2], "好".encode()[2:]
    top = (TokenLogprob(1, half, -0.5), TokenLogprob(2, b"x", float("-inf")))

    def script(_: GenerationRequest) -> Said:
        first = (TokenLogprob(3, b"ab", -1.0),)
        second = (TokenLogprob(1, half, -0.5, top), TokenLogprob(4, rest, -0.25), TokenLogprob(5, b"c", -2.0))
        return [TextDelta("ab", 0, first), TextDelta("好c", 0, second), Finished(FinishReason.STOP, Usage(1, 4))]

    async with Completions.open(script) as on:
        answer = (await on.post(logprobs=2)).json()
        assert on.voice.asked[0].sampling.logprobs == 2
    told = answer["choices"][0]["logprobs"]
    assert told["tokens"] == ["ab", "bytes:\\xe5\\xa5", "bytes:\\xbd", "c"]
    assert told["token_logprobs"] == [-1.0, -0.5, -0.25, -2.0]
    assert told["text_offset"] == [0, 2, 2, 3]
    assert told["top_logprobs"] == [None, {"bytes:\\xe5\\xa5": -0.5, "x": -9999.0}, None, None]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ...}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [2**40]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 17}, "n"),
    ],
    ids=lambda value: json.dumps(value, default=str)[:50],
)
async def test_a_bad_field_is_named(fields: dict[str, Any], param: str) -> None:
    await check_named(Completions, fields, param)


async def test_one_failing_prompt_fails_the_request_and_frees_the_others() -> None:
    def script(request: GenerationRequest) -> Said:
        return [GenerationFailed("这次没算成")] if request.raw == "bad" else [TextDelta("x")] * 1000

    async with Completions.open(script) as on:
        for stream in (False, True):
            answer = await on.post(prompt=["bad", "good"], stream=stream)
            assert "generation_failed" in answer.text
            assert on.voice.running == 0


async def test_tokenize_and_detokenize_answer_as_vllm_does() -> None:
    async with Completions.open(context_tokens=77) as on:
        told = (await on.http.post("/tokenize", json={"model": MODEL, "prompt": "abc"})).json()
        assert told == {"count": 3, "max_model_len": 77, "tokens": [0, 1, 2], "token_strs": None}
        shown = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}]
        told = (await on.http.post("/tokenize", json={"messages": shown, "tools": [WEATHER]})).json()
        assert told["tokens"] == [7, 8, 9]
        assert [tool.name for tool in on.voice.asked[-1].tools] == ["get_weather"]
        assert on.shelf.asked == [PICTURE]
        assert (await on.http.post("/detokenize", json={"tokens": [1, 2]})).json() == {"prompt": "丁丂"}
        for path, body in (
            ("/tokenize", {}),
            ("/tokenize", {"prompt": "a", "messages": shown}),
            ("/tokenize", {"prompt": 5}),
            ("/detokenize", {}),
            ("/detokenize", {"tokens": [-1]}),
            ("/detokenize", {"tokens": "a"}),
        ):
            error_of(await on.http.post(path, json=body), 400)
        for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
            error_of(await on.http.post(path, json=body | {"model": "other"}), 404)
