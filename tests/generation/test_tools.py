"""Replies to content and calls: the frame as Qwen writes it, as it should not be written, and cut anywhere."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qqvl_server.generation.port import TextDelta, ToolCallArguments, ToolCallStarted
from qqvl_server.generation.replies.tool_frames import ToolCallParser
from tests.calls import collected, read_reply

NAMES = ("f", "get_weather")


def frame(name: str, arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"


def read(text: str) -> tuple[str, list[tuple[str, str]]]:
    content, calls = read_reply(text, NAMES)
    return content, [(call.name, call.arguments) for call in calls]


def read_in_pieces(pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    parser = ToolCallParser(NAMES)
    events = [event for piece in pieces for event in parser.push(piece)] + parser.finish()
    content, calls = collected(events)
    return content, [(call.name, call.arguments) for call in calls]


NESTED = {"a": [{"b": "}]{[\"'\\ </tool_call> <tool_call>"}, None, -1.5e3, True], "北京": "\u2028 ½ 👨‍👩‍👧", "": {}}


@pytest.mark.parametrize("arguments", [{}, {"city": "北京"}, NESTED, {"s": "line\nbreak\t\u0001"}])
def test_arguments_arrive_as_they_were_written(arguments: dict[str, Any]) -> None:
    for text in (json.dumps(arguments), json.dumps(arguments, ensure_ascii=False), json.dumps(arguments, indent=2)):
        whole = f'<tool_call>\n{{"name": "f", "arguments": {text}}}\n</tool_call>'
        assert read(whole) == ("", [("f", text)])


def test_content_calls_and_white_space_between_them() -> None:
    both = f"我查一下。\n\n{frame('f', {'a': 1})}\n{frame('get_weather', {})}\n"
    assert read(both) == ("我查一下。", [("f", '{"a": 1}'), ("get_weather", "{}")])
    assert read(f"{frame('f', {})}\n\n好了。\n") == ("好了。\n", [("f", "{}")])
    assert read(" 只是 < 文字 <tool \n") == (" 只是 < 文字 <tool \n", [])
    assert read("") == ("", [])


def test_a_call_is_told_as_soon_as_its_name_is_known_and_its_arguments_as_they_come() -> None:
    ids = map("call-{}".format, itertools.count())
    parser = ToolCallParser(NAMES, lambda: next(ids))
    assert parser.push("查一下<tool") == [TextDelta("查一下")]
    assert parser.push('_call>\n{"name": "f", "argu') == []
    assert parser.push('ments": {"city": "北') == [
        ToolCallStarted(0, "call-0", "f"),
        ToolCallArguments(0, '{"city": "北'),
    ]
    assert parser.push('京"}') == [ToolCallArguments(0, '京"}')]
    assert parser.push("}\n</tool_call>") == []
    assert parser.push('<tool_call>{"name":"get_weather","arguments":{') == [
        ToolCallStarted(1, "call-1", "get_weather"),
        ToolCallArguments(1, "{"),
    ]
    assert parser.push("}}</tool_call>") == [ToolCallArguments(1, "}")]
    assert parser.finish() == []


def test_content_passes_at_once_but_for_what_may_begin_a_frame() -> None:
    parser = ToolCallParser()
    assert parser.push("a < b") == [TextDelta("a < b")]
    assert parser.push(" \n") == []
    assert parser.push("<tool_c") == []
    assert parser.push("at>") == [TextDelta(" \n<tool_cat>")]


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"arguments": {"a": 1}, "name": "f"}', {"a": 1}),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', {"a": 1}),
        ('{"name": "f", "parameters": {"a": 1}}', {"a": 1}),
        ('{"name": "f"}', {}),
        ('{"name": "f", "arguments": null}', {}),
        ('{"name": "f", "arguments": ""}', {}),
        ('{"id": 7, "name": "f", "arguments": {"a": 1}}', {"a": 1}),
        ('{"name": "f", "arguments": {"a": 1}, "id": 7}', {"a": 1}),
        ('{"name": "f", "arguments": {"a": 1}', {"a": 1}),
        ('{"name": "f", "arguments": {"a": {"b": [1, 2', {"a": {"b": [1, 2]}}),
        ('{"name": "f", "arguments": {"a": "x}}', {"a": "x}}"}),
        ('{"name": "f", "arguments": {"a": 1}}}', {"a": 1}),
        ('{"name": "f", "arguments": {"a": [1, 2}}', {"a": [1, 2]}),
        ('{"name": "f", "arguments": {"a": 1, }}', {"a": 1}),
        ('{"name": "f", "arguments": {"a": [1,\n],}}', {"a": [1]}),
        ("{'name': 'f', 'arguments': {'a': 'it\\'s \"x\"'}}", {"a": 'it\'s "x"'}),
        ('{"name": "f", "arguments": {\'a\': True, "b": None}}', {"a": True, "b": None}),
        ('{"name": "f", "arguments": {a: 北京}}', {"a": "北京"}),
        ('{"name": "f", "arguments": {"a": "x\ny"}}', {"a": "x\ny"}),
        ('{"name": "f", "arguments": {"a": "C:\\d"}}', {"a": "C:\\d"}),
    ],
)
def test_small_faults_are_mended(body: str, arguments: dict[str, Any]) -> None:
    content, calls = read(f"<tool_call>\n{body}\n</tool_call>好")
    assert content == "好"
    assert [(name, json.loads(text)) for name, text in calls] == [("f", arguments)]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "f(1)",
        '{"name": 1, "arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "x"}',
        '{"name": "unknown", "arguments": {"a": 1}}',
        '{"arguments": {}}',
        '{"name" "f"}',
        "[" * 5000,
    ],
)
def test_what_is_no_call_of_an_offered_tool_is_content_word_for_word(body: str) -> None:
    text = f"前 \n<tool_call>\n{body}\n</tool_call>\n 后"
    assert read(text) == (text, [])
    assert read(f"{text}\n{frame('f', {})}") == (text, [("f", "{}")])


def test_without_names_any_function_is_a_call() -> None:
    _, calls = read_reply(frame("unknown", {}))
    assert [(call.name, call.arguments) for call in calls] == [("unknown", "{}")]


def test_a_call_that_is_cut_off_keeps_what_came() -> None:
    whole = frame("f", {"city": "北京", "n": 12})
    for end in range(len(whole)):
        content, calls = read("好。" + whole[:end])
        if calls:
            assert content == "好。"
            assert calls[0][0] == "f"
            assert '{"city": "北京", "n": 12}'.startswith(calls[0][1])
        else:
            assert content == "好。" + whole[:end]


def test_a_frame_begun_before_the_last_one_ended_is_a_call_of_its_own() -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {}}\n' + frame("get_weather", {})
    assert read(text) == ("", [("f", "{}"), ("get_weather", "{}")])


PIECES = st.sampled_from(
    [
        "<tool_call>", "</tool_call>", "\n", " ", '{"name": "f", "arguments": {"a": ', '{"name": "nobody", ', "</tool",
        "{", "}", "]", "[", '"', "'", "\\", ",", ":", '"name"', '"f"', '"arguments"', "1", "true", "True", "<",
        "北京", "abc", "\\u4e2d", frame("f", NESTED), frame("get_weather", {}), "\n</tool_call>",
    ]
)  # fmt: skip


# No deadline: the machine may be busy with others.
@settings(deadline=None, max_examples=200)
@given(st.lists(PIECES, max_size=12).map("".join), st.data())
def test_cuts_change_nothing(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
    assert read_in_pieces(pieces) == read_in_pieces(list(text)) == read(text)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8,
)), st.booleans())  # fmt: skip
def test_right_json_passes_unchanged(arguments: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(arguments, ensure_ascii=ascii_only)
    whole = f'<tool_call>\n{{"name": "f", "arguments": {text}}}\n</tool_call>'
    assert read_in_pieces(list(whole)) == ("", [("f", text)])
