"""The Anthropic door on a voice that says what a test tells it to: the real routes, no model, no process."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from qqvl_server import errors
from qqvl_server.api.anthropic.schema import UNHEEDED
from qqvl_server.generation.constraints.grammar import constraint
from qqvl_server.generation.port import (
    ChatMessage,
    Finished,
    FinishReason,
    GrammarKind,
    ImagePart,
    TextDelta,
    TextPart,
    Usage,
)
from tests.api.stage import CALL, MODEL, Messages, Script, spoken

pytestmark = pytest.mark.anyio

WEATHER = {
    "name": "get_weather",
    "description": "天气",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


async def read(door: Messages, *messages: dict[str, Any], **fields: Any) -> list[tuple[Any, ...]]:
    """What the voice was told: role, parts, and calls or the call's id."""
    return [told(message) for message in (await door.asked(messages=messages, **fields)).messages]


def told(message: ChatMessage) -> tuple[Any, ...]:
    parts: list[str] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            parts.append("<image>")
        elif parts and parts[-1] != "<image>":
            parts[-1] += part.text
        else:
            parts.append(part.text)
    calls = [(call.id, call.name, json.loads(call.arguments)) for call in message.tool_calls]
    return (message.role, *parts, *calls, *([message.tool_call_id] if message.tool_call_id else []))


def picture(name: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": name}}


async def test_a_plain_answer() -> None:
    async with Messages.open() as door:
        message = await door.whole()
        assert message.pop("id").startswith("msg_")
        assert message == {
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": [{"type": "text", "text": "好的"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": 3,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 2,
                "output_tokens": 2,
                "service_tier": "standard",
            },
        }


async def test_a_streams_events_come_in_anthropics_order() -> None:
    async with Messages.open() as door:
        events = await door.events()
        start, *rest = events
        assert start["type"] == "message_start"
        assert start["message"]["content"] == []
        assert start["message"]["stop_reason"] is None
        assert start["message"]["usage"]["input_tokens"] == 3
        assert rest == [
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "好"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "的"}},
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {
                    "input_tokens": 3,
                    "cache_creation_input_tokens": 0,
                    "cache_read_input_tokens": 2,
                    "output_tokens": 2,
                },
            },
            {"type": "message_stop"},
        ]


async def test_text_and_calls_are_blocks_of_their_own_in_both_manners() -> None:
    async with Messages.open(lambda _: f"查一下。\n{CALL}\n{CALL}") as door:
        message = await door.whole(tools=[WEATHER])
        text, first, second = message["content"]
        assert text == {"type": "text", "text": "查一下。"}
        assert first["id"] != second["id"]
        for call in (first, second):
            assert call.pop("id").startswith("toolu_")
            assert call == {"type": "tool_use", "name": "get_weather", "input": {"city": "北京"}}
        assert message["stop_reason"] == "tool_use"

        events = await door.events(tools=[WEATHER])
        assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1, 2]
        assert [event["index"] for event in events if event["type"] == "content_block_stop"] == [0, 1, 2]
        opened = next(e for e in events if e["type"] == "content_block_start" and e["index"] == 1)["content_block"]
        assert (opened["type"], opened["name"], opened["input"]) == ("tool_use", "get_weather", {})
        deltas = [e["delta"] for e in events if e["type"] == "content_block_delta" and e["index"] == 1]
        assert {delta["type"] for delta in deltas} == {"input_json_delta"}
        assert len(deltas) > 3
        assert json.loads("".join(delta["partial_json"] for delta in deltas)) == {"city": "北京"}
        assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_why_it_stopped() -> None:
    def ended(reason: FinishReason, by: str | int | None) -> Script:
        return lambda _: [TextDelta("好"), Finished(reason, Usage(5, 1), stopped_by=by)]

    for reason, by, want in (
        (FinishReason.STOP, None, ("end_turn", None)),
        (FinishReason.STOP, 7, ("end_turn", None)),
        (FinishReason.STOP, "。", ("stop_sequence", "。")),
        (FinishReason.LENGTH, None, ("max_tokens", None)),
    ):
        async with Messages.open(ended(reason, by)) as door:
            message = await door.whole()
            assert (message["stop_reason"], message["stop_sequence"]) == want
            delta = (await door.events())[-2]["delta"]
            assert (delta["stop_reason"], delta["stop_sequence"]) == want


async def test_a_call_cut_off_by_the_limit_is_told_as_far_as_it_came() -> None:
    async with Messages.open(lambda _: spoken(CALL[:60], reason=FinishReason.LENGTH)) as door:
        message = await door.whole(tools=[WEATHER])
        assert message["stop_reason"] == "max_tokens"
        assert message["content"][0]["name"] == "get_weather"
        assert isinstance(message["content"][0]["input"], dict)


async def test_an_empty_answer_has_an_empty_text() -> None:
    async with Messages.open(lambda _: "") as door:
        assert (await door.whole())["content"] == [{"type": "text", "text": ""}]


async def test_sampling_and_whose_it_is() -> None:
    async with Messages.open() as door:
        request = await door.asked(temperature=0.5, top_p=0.9, top_k=5, max_tokens=9, stop_sequences=["。", ""])
        wanted = request.sampling
        assert (wanted.temperature, wanted.top_p, wanted.top_k, wanted.max_new_tokens) == (0.5, 0.9, 5, 9)
        assert wanted.stop == ("。",)
        assert request.owner == "api:open"
        assert (await door.asked()).sampling.temperature is None


async def test_conversations_in_every_spelling() -> None:
    async with Messages.open() as door:
        assert await read(door, {"role": "user", "content": "你好"}, system="你是助手") == [
            ("system", "你是助手"),
            ("user", "你好"),
        ]
        cached = {"type": "text", "text": "二", "cache_control": {"type": "ephemeral"}}
        billing = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=1a2b3;"}
        assert await read(
            door,
            {"role": "user", "content": [cached, {"type": "text", "text": "三"}, picture("a"), cached]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "嗯", "signature": "x"}, cached]},
            {"role": "system", "content": "四"},
            {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}]},
            system=[billing, {"type": "text", "text": "一"}, cached],
        ) == [
            ("system", "一\n\n二"),
            ("user", "二\n三", "<image>", "二"),
            ("assistant", "二"),
            ("user", "<system-reminder>\n四\n</system-reminder>"),
            ("user", "<image>"),
        ]
        assert door.shelf.asked == ["a", "https://a/b.png"]
        early, late = {"role": "system", "content": "先"}, {"role": "system", "content": [cached]}
        assert await read(door, early, {"role": "user", "content": "好"}, late) == [
            ("system", "先"),
            ("user", "好\n<system-reminder>\n二\n</system-reminder>"),
        ]
        document = {"type": "document", "title": "甲", "source": {"type": "text", "data": "乙"}}
        assert await read(door, {"role": "user", "content": [document]}) == [("user", "甲\n乙")]


async def test_calls_and_their_results_with_pictures() -> None:
    async with Messages.open() as door:
        use = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "北京"}}
        results = [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "晴"},
            {
                "type": "tool_result",
                "tool_use_id": "toolu_2",
                "content": [{"type": "text", "text": "看"}, picture("b")],
            },
            {"type": "tool_result", "tool_use_id": "toolu_3", "content": "没有网", "is_error": True},
            {"type": "tool_result", "tool_use_id": "toolu_4"},
            {"type": "text", "text": "怎么样？"},
        ]
        assert await read(
            door,
            {"role": "user", "content": "天气？"},
            {"role": "assistant", "content": [{"type": "text", "text": "我看看"}, use]},
            {"role": "user", "content": results},
            tools=[WEATHER],
        ) == [
            ("user", "天气？"),
            ("assistant", "我看看", ("toolu_1", "get_weather", {"city": "北京"})),
            ("tool", "晴", "toolu_1"),
            ("tool", "看", "<image>", "toolu_2"),
            ("tool", "Error:\n没有网", "toolu_3"),
            ("tool", "", "toolu_4"),
            ("user", "怎么样？"),
        ]


async def test_tools_and_the_choice_among_them() -> None:
    other = {"type": "custom", "name": "clock", "input_schema": {"type": "object"}, "strict": True}
    async with Messages.open() as door:
        request = await door.asked(tools=[WEATHER, other])
        assert [tool.name for tool in request.tools] == ["get_weather", "clock"]
        assert json.loads(request.tools[0].parameters) == WEATHER["input_schema"]
        assert request.grammar is None
        assert (await door.asked(tools=[WEATHER], tool_choice={"type": "none"})).shown_tools == ()
        for choice, words in (
            ({"type": "any"}, ("get_weather", "clock", ")*")),
            ({"type": "any", "disable_parallel_tool_use": True}, ("get_weather", "clock")),
            ({"type": "tool", "name": "clock"}, ("clock",)),
        ):
            grammar = constraint(await door.asked(tools=[WEATHER, other], tool_choice=choice))
            assert grammar is not None
            for word in ("get_weather", "clock", ")*"):
                assert (word in grammar.text) == (word in words), (choice, word)


async def test_only_one_call_where_more_are_not_wanted() -> None:
    async with Messages.open(lambda _: f"{CALL}\n{CALL}") as door:
        message = await door.whole(tools=[WEATHER], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
        assert len(message["content"]) == 1


async def test_an_output_format_is_a_grammar() -> None:
    schema = {"type": "object", "properties": {}}
    async with Messages.open() as door:
        for fields in (
            {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}}},
            {"output_format": {"type": "json_schema", "schema": schema}},
        ):
            grammar = (await door.asked(**fields)).grammar
            assert grammar is not None
            assert (grammar.kind, json.loads(grammar.text)) == (GrammarKind.JSON_SCHEMA, schema)
        assert (await door.asked(output_config={"effort": "high"})).grammar is None


async def test_fields_of_claude_code_go_unheeded() -> None:
    given = {name: {"type": "enabled", "budget_tokens": 1024} for name in UNHEEDED if "." not in name}
    async with Messages.open() as door:
        assert (await door.whole(**given))["stop_reason"] == "end_turn"


def refused(answer: httpx.Response, what: object) -> str:
    """The message of a 400 in Anthropic's shape."""
    assert answer.status_code == 400, (what, answer.text)
    body = answer.json()
    assert set(body) == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert set(body["error"]) == {"type", "message"}
    assert body["error"]["type"] == "invalid_request_error"
    assert "SECRET" not in answer.text
    return str(body["error"]["message"])


def says(content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}]}


def answers(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", "content": content}, {"role": "user", "content": "x"}]}


def asks(opening: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": opening}]}


USE = {"type": "tool_use", "id": "1", "name": "f", "input": {}}


async def test_a_last_word_of_the_assistants_is_the_beginning_of_the_reply() -> None:
    async with Messages.open() as door:
        for opening in ("答案是", [{"type": "text", "text": "答案是"}], ""):
            asked = await door.asked(**asks(opening))
            assert [message.role for message in asked.messages] == ["user"]
            assert asked.opening == ("答案是" if opening else "")
        assert (await door.whole(**asks("答案是")))["content"] == [{"type": "text", "text": "好的"}]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"max_tokens": ...}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "SECRET"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "SECRET"}, "messages"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"stop_sequences": "SECRET"}, "stop_sequences"),
        ({"stop_sequences": ["a"] * 65}, "stop_sequences"),
        ({"system": 7}, "system"),
        ({"system": [picture("a")]}, "system[0].type"),
        (says("x", "SECRET"), "messages[0].role"),
        (says("x", "assistant"), "messages"),
        (asks(["x"]), "messages[1].content[0]"),
        (asks([USE]), "messages"),
        (asks("x") | {"output_config": {"format": {"type": "json_schema", "schema": {}}}}, "messages"),
        (asks("x") | {"tools": [WEATHER], "tool_choice": {"type": "any"}}, "messages"),
        (says("x", "system"), "messages"),
        (says(None), "messages[0].content"),
        (says(["SECRET"]), "messages[0].content[0]"),
        (says([{"type": ["SECRET"]}]), "messages[0].content[0].type"),
        (says([{"type": "text"}]), "messages[0].content[0].text"),
        (says([{"type": "image"}]), "messages[0].content[0].source"),
        (says([{"type": "image", "source": {"type": 5}}]), "source.type"),
        (says([{"type": "document", "source": {"data": "SECRET"}}]), "source.type"),
        (says([{"type": "tool_result", "content": "x"}]), "tool_use_id"),
        (says([picture(str(i)) for i in range(5)]), "messages"),
        (answers([USE | {"input": "SECRET"}]), "messages[0].content[0].input"),
        (answers([USE | {"name": ""}]), "messages[0].content[0].name"),
        (answers([picture("a")]), "messages[0].content[0].type"),
        ({"tools": [{"type": ["SECRET"]}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}],
          "tool_choice": {"type": "tool", "name": "web_search"}}, "tool_choice"),
        ({"tools": [{"name": "SECRET name!", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "SECRET"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "SECRET"}}, "tool_choice.type"),
        ({"tools": [WEATHER], "tool_choice": "auto"}, "tool_choice"),
        ({"output_config": {"format": {"type": "SECRET"}}}, "output_config.format"),
    ],
    ids=str,
)  # fmt: skip
async def test_what_does_not_fit_is_refused_by_name_before_anything_runs(fields: dict[str, Any], where: str) -> None:
    async with Messages.open() as door:
        assert where in refused(await door.post(**fields), fields)
        assert where in refused(await door.post(**fields, stream=True), fields)
        assert door.voice.asked == []


async def test_a_bad_picture_is_refused() -> None:
    async with Messages.open() as door:
        refused(await door.post(**says([picture("good"), picture("bad")])), "picture")
        refused(await door.post(**says([picture("https://a/b.png")])), "an address where base64 belongs")
        assert door.voice.asked == []


async def test_errors_in_anthropics_shape_before_and_within_a_stream() -> None:
    async with Messages.open(lambda _: [errors.Busy("忙", retry_after=7)]) as door:
        for stream in (False, True):
            answer = await door.post(stream=stream)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
            assert answer.json()["error"] == {"type": "overloaded_error", "message": "忙"}
    async with Messages.open(lambda _: [TextDelta("好"), errors.GenerationFailed("坏了")]) as door:
        events = await door.events()
        assert events[0]["type"] == "message_start"
        assert events[-1]["type"] == "error"
        assert events[-1]["error"] == {"type": "api_error", "message": "坏了"}
        assert (await door.post()).status_code == 500


async def test_counting() -> None:
    async with Messages.open() as door:
        answer = await door.post("/v1/messages/count_tokens", max_tokens=..., tools=[WEATHER], system="一")
        assert answer.json() == {"input_tokens": 3}
        assert [message.role for message in door.voice.asked[-1].messages] == ["system", "user"]
        refused(await door.post("/v1/messages/count_tokens", messages=[]), "messages")


async def test_texts_are_parts_of_text() -> None:
    async with Messages.open() as door:
        request = await door.asked(**says([{"type": "text", "text": "<|im_end|>"}]))
        assert request.messages[0].parts == (TextPart("<|im_end|>"),)
