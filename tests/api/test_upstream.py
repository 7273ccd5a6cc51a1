"""A server whose model is another's: our own ``/v1`` stands behind it, and every door speaks through it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.pictures import COLOURS, base64_of, encoded, picture
from tests.running import DEMO, RunningServer, run_cli

SMALL = 350 * 1024


@pytest.fixture(scope="module")
def voiced(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("upstream")
    flags = ("--engine", "upstream", "--upstream-url", f"{server.base}/v1", "--upstream-model", "qqvl-demo")
    with RunningServer(folder / "data", *flags, "--max-new-tokens", "64", anew=True) as running:
        yield running


@pytest.fixture
def client(voiced: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{voiced.base}/v1", api_key="EMPTY", max_retries=0, timeout=60) as opened:
        yield opened


RED = base64_of(encoded(picture(COLOURS["红"])))
SHOWN = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{RED}"}}


def test_qq_talks_sees_and_remembers(voiced: RunningServer, server: RunningServer) -> None:
    assert "红" in voiced.private("这是什么颜色？", user="918273", images=(RED,))
    same = server.private("这是什么颜色？", user="918273", images=(RED,))
    assert voiced.messages("private", "918273")[-1]["content"] == same
    assert voiced.group("你好", group="918274", at_me=True)["should_reply"]


def test_openais_door_streams_what_the_upstream_says(client: OpenAI, server: RunningServer) -> None:
    question = [{"role": "user", "content": [SHOWN, {"type": "text", "text": "这是什么颜色？"}]}]
    asked = {"model": "qqvl-demo", "messages": question, "temperature": 0, "max_tokens": 32}
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    told = server.http.post("/v1/chat/completions", json=asked).json()
    assert text == told["choices"][0]["message"]["content"]
    assert "红" in text
    assert chunks[-1].usage.completion_tokens == told["usage"]["completion_tokens"]
    assert chunks[-1].usage.prompt_tokens == told["usage"]["prompt_tokens"]


def test_choices_logprobs_stops_and_forms_go_up(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="qqvl-demo", messages=[{"role": "user", "content": "你好"}], n=2, logprobs=True, top_logprobs=2,
        temperature=0, max_tokens=8,
    )  # fmt: skip
    first, second = answer.choices
    assert first.message.content == second.message.content
    assert first.logprobs is not None
    told = first.logprobs.content or []
    assert (
        b"".join(bytes(token.bytes or ()) for token in told)
        .decode("utf-8", "ignore")
        .startswith(first.message.content or "?")
    )
    assert all(len(token.top_logprobs) == 2 for token in told)
    form = client.chat.completions.create(
        model="qqvl-demo", messages=[{"role": "user", "content": "随便说"}], temperature=0,
        extra_body={"structured_outputs": {"choice": ["是的", "不是"]}},
    )  # fmt: skip
    assert form.choices[0].message.content in ("是的", "不是")
    word = (first.message.content or "")[1]
    cut = client.chat.completions.create(
        model="qqvl-demo", messages=[{"role": "user", "content": "你好"}], temperature=0, stop=[word]
    )
    assert cut.choices[0].message.content == (first.message.content or "").partition(word)[0]


def test_tools_are_called_upstream(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": schema}}
    answer = client.chat.completions.create(
        model="qqvl-demo", messages=[{"role": "user", "content": "北京天气怎么样？"}],
        tools=[tool], tool_choice="required", temperature=0,
    )  # type: ignore[call-overload]  # fmt: skip
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert "city" in json.loads(call.function.arguments)


def test_anthropics_door_tells_how_long_the_prompt_is(voiced: RunningServer) -> None:
    with Anthropic(base_url=voiced.base, api_key="EMPTY", max_retries=0, timeout=60) as anthropic:
        asked = {"model": "qqvl-demo", "messages": [{"role": "user", "content": "你好"}]}
        counted = anthropic.messages.count_tokens(**asked)  # type: ignore[arg-type]
        with anthropic.messages.stream(**asked, max_tokens=16) as stream:  # type: ignore[arg-type]
            said = stream.get_final_message()
    assert said.content
    assert said.usage.input_tokens == counted.input_tokens


def test_it_is_small_and_loads_no_torch(voiced: RunningServer) -> None:
    health = voiced.http.get("/health").json()
    assert (health["status"], health["device"]) == ("healthy", "upstream")
    place = Path("/proc") / str(voiced.process.pid)
    if not place.is_dir():
        pytest.skip("没有 /proc")
    assert "libtorch" not in (place / "maps").read_text()
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    assert int(status["VmRSS"].split()[0]) < SMALL


def test_metrics_count_by_upstream(voiced: RunningServer, server: RunningServer) -> None:
    voiced.private("你好", user="918275")
    told = voiced.http.get("/metrics").text
    name = server.base.removeprefix("http://")
    (line,) = [
        one
        for one in told.splitlines()
        if one.startswith(f'qqvl_upstream_requests_total{{outcome="ok",upstream="{name}"')
    ]
    assert float(line.split()[-1]) > 0
    assert f'qqvl_upstream_up{{upstream="{name}"}} 1.0' in told


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--upstream-url"),
        (("--upstream-url", "ftp://x"), "http://主机:端口/v1"),
        (("--upstream-url", "http://me:secret@x/v1"), "upstream_key"),
        (("--upstream-url", "http://x/v1", "--upstream-weights", "1,2"), "upstream_weights"),
        (("--upstream-url", "http://x/v1", "--model-path", str(DEMO / "nothing")), "tokenizer.json"),
    ],
)
def test_settings_that_do_not_fit_are_told_in_one_line(tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    done = run_cli("--engine", "upstream", "--port", "0", "--data-dir", str(tmp_path / "data"), *flags)
    assert done.returncode in (2, 3)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
