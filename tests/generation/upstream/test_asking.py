"""What upstreams are asked: no more than their kind takes, of the right one, with marks that show nobody's number."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.chat.gate.question import CANDIDATES
from qqvl_server.errors import ImageRejected, InvalidRequest, PromptTooLong
from qqvl_server.generation.engines.upstream import fleet
from qqvl_server.generation.engines.upstream.kinds import KINDS
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    Grammar,
    GrammarKind,
    ImagePart,
    TextDelta,
    TextPart,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
    Urgency,
)
from qqvl_server.media.image import ImageLimits, ImageRef
from qqvl_server.media.library import ImageLibrary
from tests.generation.upstream.stage import (
    KEY,
    SECRET,
    Upstream,
    asks,
    chunk,
    events,
    heard,
    said,
    status,
    usage,
    voiced,
)
from tests.pictures import encoded, picture

pytestmark = pytest.mark.anyio
FINE = events(*said("好"))
TOOL = Tool("look", None, '{"type":"object"}')


async def asked(folder: Path, owner: str, *requests: Any, **settings: Any) -> Upstream:
    async with Upstream(FINE, owner=owner).serving() as upstream, voiced(folder, upstream.url, **settings) as voice:
        for request in requests:
            await heard(voice, request)
    return upstream


CHOICE = Grammar(GrammarKind.CHOICE, '["是","否"]')
REGEX = Grammar(GrammarKind.REGEX, "a+")
LARK = Grammar(GrammarKind.LARK, 'start: "a"')


@pytest.mark.parametrize(
    ("owner", "grammar", "field", "value"),
    [
        ("vllm", CHOICE, "structured_outputs", {"choice": ["是", "否"]}),
        ("vllm", REGEX, "structured_outputs", {"regex": "a+"}),
        ("sglang", CHOICE, "regex", "(是|否)"),
        ("sglang", LARK, "ebnf", 'start: "a"'),
        ("llamacpp", CHOICE, "grammar", 'root ::= "是" | "否"'),
        ("qqvl", REGEX, "structured_outputs", {"regex": "a+"}),
    ],
)
async def test_a_grammar_is_asked_for_in_each_kinds_words(
    tmp_path: Path, owner: str, grammar: Grammar, field: str, value: Any
) -> None:
    schema = Grammar(GrammarKind.JSON_SCHEMA, '{"type":"object"}')
    upstream = await asked(tmp_path, owner, asks(grammar=grammar), asks(grammar=schema))
    assert upstream.asked[0][field] == value
    assert upstream.asked[1]["response_format"]["json_schema"]["schema"] == {"type": "object"}


async def test_what_a_kind_does_not_take_is_refused_by_name_or_left_out(tmp_path: Path) -> None:
    wished = {"top_k": 5, "min_p": 0.1}
    upstream = await asked(tmp_path, "vllm", asks(sampling=wished))
    assert (upstream.asked[0]["top_k"], upstream.asked[0]["min_p"]) == (5, 0.1)
    chat = asks(sampling=wished, urgency=Urgency.PRIVATE, owner="private:1")
    upstream = await asked(tmp_path, "library", chat)
    assert not {"top_k", "min_p", "cache_salt"} & upstream.asked[0].keys()
    for request in (asks(sampling=wished), asks(grammar=REGEX)):
        with pytest.raises(InvalidRequest, match="Ollama"):
            await asked(tmp_path, "library", request)


async def test_the_conversation_goes_up_with_its_calls_and_switches(tmp_path: Path) -> None:
    talk = (
        ChatMessage("system", (TextPart("你是猫"),)),
        ChatMessage("user", (TextPart("看"), TextPart("看"))),
        ChatMessage("assistant", (), (ToolCall("c1", "look", "{}"),)),
        ChatMessage("tool", (TextPart("没有"),), tool_call_id="c1"),
    )
    named = ToolChoice(ToolMode.REQUIRED, "look", parallel=False)
    request = asks(messages=talk, tools=(TOOL,), tool_choice=named, thinking=Thinking(False), sampling={"seed": 0})
    body = (await asked(tmp_path, "vllm", request)).asked[0]
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "tool"]
    assert body["messages"][1]["content"] == "看看"
    assert body["messages"][2]["tool_calls"][0]["function"] == {"name": "look", "arguments": "{}"}
    assert body["messages"][3]["tool_call_id"] == "c1"
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert (body["parallel_tool_calls"], body["seed"]) == (False, 0)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["stream_options"] == {"include_usage": True}


async def test_marks_are_the_same_for_a_chat_and_show_no_number(tmp_path: Path) -> None:
    chats = [asks(urgency=Urgency.ADDRESSED, owner=owner) for owner in ("group:987651", "group:987651", "group:7")]
    upstream = await asked(tmp_path, "vllm", *chats, asks("甲"), asks("乙"))
    sessions = [headers["X-Session-Id"] for headers in upstream.headers]
    salts = [body["cache_salt"] for body in upstream.asked]
    assert sessions[0] == sessions[1]
    assert len(set(sessions)) == 4
    assert salts[3] == salts[4]
    assert len(set(salts)) == 3
    assert not set(sessions) & set(salts)
    everything = json.dumps([upstream.asked, upstream.headers], ensure_ascii=False)
    assert "987651" not in everything
    assert SECRET not in everything
    again = await asked(tmp_path, "vllm", *chats, upstream_salt="key", upstream_session_header="X-Chat")
    assert [headers["X-Chat"] for headers in again.headers] == sessions[:3]
    assert len({body["cache_salt"] for body in again.asked}) == 1
    off = await asked(tmp_path, "vllm", chats[0], upstream_salt="off", upstream_session_header="")
    assert "cache_salt" not in off.asked[0]
    assert "X-Session-Id" not in off.headers[0]
    ollama = await asked(tmp_path, "library", chats[0])
    assert "X-Session-Id" not in ollama.headers[0]


async def test_talks_are_shared_out_by_weight_and_only_those_of_one_that_went_move() -> None:
    upstreams = [
        fleet.Upstream(f"http://10.0.0.{number}:8000/v1", weight) for number, weight in ((1, 2), (2, 1), (3, 1))
    ]
    for upstream in upstreams:
        upstream.profile = fleet.Profile(KINDS["vllm"], "m", None, sees=True, logprobs=True, counts=False)
        upstream.heard()
    ours = fleet.Fleet(upstreams)
    talks = [f"group:{number}" for number in range(400)]
    before = {talk: ours.chosen(talk) for talk in talks}
    shares = [list(before.values()).count(upstream) for upstream in upstreams]
    assert shares[0] > 1.4 * max(shares[1:])
    assert min(shares) > 50
    for _ in range(fleet.MOST_MISSED):
        upstreams[0].missed(time.monotonic())
    for talk, first in before.items():
        now = ours.chosen(talk)
        assert now is not upstreams[0]
        assert now is first or first is upstreams[0]
    upstreams[0].heard()
    assert {talk: ours.chosen(talk) for talk in talks} == before


async def test_a_chat_stays_with_its_own_and_another_answers_when_that_fails(tmp_path: Path) -> None:
    async with (
        Upstream(FINE).serving() as first,
        Upstream(FINE).serving() as second,
        voiced(tmp_path, first.url, second.url) as voice,
    ):
        request = asks(urgency=Urgency.ADDRESSED, owner="group:1")
        for _ in range(3):
            await heard(voice, request)
        own, other = (first, second) if first.asked else (second, first)
        assert (len(own.asked), len(other.asked)) == (3, 0)
        own.answers = [status(500), status(503, retry_after="60")]
        for _ in range(2):
            found = await heard(voice, request)
            assert [event for event in found if isinstance(event, TextDelta)] == [TextDelta("好")]
        assert len(other.asked) == 2
        assert not voice.status().away


def a_picture(library: ImageLibrary, size: tuple[int, int] = (64, 64), kind: str = "PNG") -> ImageRef:
    return library.add(encoded(picture(size=size), kind))


@pytest.fixture
def library(tmp_path: Path) -> Any:
    made = ImageLibrary(tmp_path / "pictures", 10**9, ImageLimits(20_000_000, 50_000_000, 4, 1024))
    yield made
    made.close()


async def test_pictures_go_up_no_larger_than_they_may_be(tmp_path: Path, library: ImageLibrary) -> None:
    large = a_picture(library, (2400, 1200))
    request = asks(messages=(ChatMessage("user", (TextPart("看"), ImagePart(large))),))
    async with Upstream(FINE).serving() as upstream, voiced(tmp_path, upstream.url, library=library) as voice:
        await heard(voice, request)
        await heard(voice, request)
    sent = [body["messages"][0]["content"][1]["image_url"]["url"] for body in upstream.asked]
    assert sent[0] == sent[1]
    shown = library.add_base64(sent[0])
    assert shown.width * shown.height <= 1024 * 32 * 32
    assert abs(shown.width - 2 * shown.height) <= 64


async def test_a_model_that_sees_nothing_is_shown_nothing(tmp_path: Path, library: ImageLibrary) -> None:
    talk = (ChatMessage("user", (ImagePart(a_picture(library)), TextPart("这是什么"))),)
    blind = Upstream(FINE)
    blind.sees = False
    async with blind.serving(), voiced(tmp_path, blind.url, library=library) as voice:
        found = await heard(voice, asks(messages=talk, urgency=Urgency.PRIVATE, owner="private:1"))
        with pytest.raises(InvalidRequest):
            await heard(voice, asks(messages=talk))
    assert blind.asked[0]["messages"][0]["content"] == "[图片]这是什么"
    assert isinstance(found[-1], Finished)
    assert found[-1].unseen == ("上游的模型不看图",)


async def test_a_lost_picture_is_told_in_words_or_refused(tmp_path: Path, library: ImageLibrary) -> None:
    lost = ImageRef("0" * 64, "png", 64, 64, (0,), 100)
    talk = (ChatMessage("user", (ImagePart(lost, "messages[0]"), TextPart("看"))),)
    async with Upstream(FINE).serving() as upstream, voiced(tmp_path, upstream.url, library=library) as voice:
        found = await heard(voice, asks(messages=talk, urgency=Urgency.PRIVATE, owner="private:1"))
        with pytest.raises(ImageRejected):
            await heard(voice, asks(messages=talk))
    assert upstream.asked[0]["messages"][0]["content"] == "[图片无法打开]看"
    assert isinstance(found[-1], Finished)
    assert found[-1].unseen


async def test_candidates_are_scored_by_one_token(tmp_path: Path) -> None:
    top = [{"token": CANDIDATES[0], "logprob": -0.2}, {"token": "嗯", "logprob": -2}, {"token": "x", "logprob": -4}]
    entry = {**top[0], "top_logprobs": top}
    answer = events(chunk({"content": CANDIDATES[0]}, logprobs={"content": [entry]}), chunk(finish="length"), usage())
    async with Upstream(answer).serving() as upstream, voiced(tmp_path, upstream.url) as voice:
        speak, silent = await voice.score(asks(), CANDIDATES)
    assert (speak, silent) == (-0.2, -5.0)
    assert (upstream.asked[0]["max_tokens"], upstream.asked[0]["top_logprobs"]) == (1, 20)
    mute = Upstream(answer)
    mute.logprobs = False
    async with mute.serving(), voiced(tmp_path, mute.url) as voice:
        with pytest.raises(InvalidRequest):
            await voice.score(asks(), CANDIDATES)


async def test_the_upstream_counts_where_it_counts_pictures_and_each_message_once(
    tmp_path: Path, library: ImageLibrary
) -> None:
    upstream = Upstream(FINE)
    upstream.tokenizes = True
    shown = ChatMessage("user", (TextPart("看看"), ImagePart(a_picture(library))))
    async with upstream.serving(), voiced(tmp_path, upstream.url, library=library) as voice:
        before = len(upstream.tokenized)
        assert await voice.count((ChatMessage("user", (TextPart("一二三"),)), shown)) == (8, 57)
        asked_once = len(upstream.tokenized)
        assert await voice.count((shown, shown)) == (57, 57)
        assert len(upstream.tokenized) == asked_once > before
        with pytest.raises(PromptTooLong):
            await heard(voice, asks("长" * 5000))
        await heard(voice, asks("长" * 4000, sampling={"max_new_tokens": 1000}))
    assert upstream.asked[0]["max_tokens"] <= 4096 - 4005


async def test_a_tokenizer_beside_counts_as_the_model_does(tmp_path: Path, demo: Path) -> None:
    async with Upstream(FINE).serving() as upstream, voiced(tmp_path, upstream.url, tokenizer=demo) as voice:
        (count,) = await voice.count((ChatMessage("user", (TextPart("你好"),)),))
    assert 5 < count < 12


async def test_a_bound_is_corrected_by_what_answers_tell(tmp_path: Path) -> None:
    words = "今天天气很好。" * 40
    answer = events(chunk({"content": "好"}), chunk(finish="stop"), usage(prompt=200))
    async with Upstream(answer).serving() as upstream, voiced(tmp_path, upstream.url) as voice:
        message = ChatMessage("user", (TextPart(words),))
        (bound,) = await voice.count((message,))
        assert bound >= len(words.encode())
        await heard(voice, asks(words))
        (corrected,) = await voice.count((message,))
        assert 200 <= corrected < bound / 2
        upstream.answers = [status(400, {"error": {"message": "maximum context length"}})]
        with pytest.raises(PromptTooLong):
            await heard(voice, asks(words))
        assert await voice.count((message,)) == (bound,)
        assert voice.context_tokens == 4096


async def test_only_so_many_wait_and_who_waits_is_not_forgotten(tmp_path: Path) -> None:
    """Time spent is told by chat, as the quotas want it."""
    async with Upstream(FINE).serving() as upstream, voiced(tmp_path, upstream.url) as voice:
        began = time.monotonic()
        await heard(voice, asks(urgency=Urgency.ADDRESSED, owner="group:1"))
        assert 0 < voice.take_seconds("group:1") <= time.monotonic() - began
        assert voice.take_seconds("group:1") == 0
    assert KEY not in json.dumps(upstream.asked)
