"""Thoughts, words and calls are told apart, however a reply is cut into pieces."""

from __future__ import annotations

import pytest

from qqvl_server.generation.port import (
    GenerationRequest,
    Reasoning,
    Sampling,
    TextDelta,
    Thinking,
    TokenLogprob,
    Tool,
    ToolCallArguments,
    ToolCallStarted,
)
from qqvl_server.generation.replies.speech import Speech
from qqvl_server.generation.replies.thoughts import opens_thought

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "<think>x</think>"}}\n</tool_call>'
# Whether the prompt opened a thought, what was written, what of it is thought, what is said.
REPLIES = [
    (False, "你好", "", "你好"),
    (False, "<think>想\n</think>\n\n你好", "想", "你好"),
    (False, "\n <think>\n\n想 想\n</think>\n\n你好", "想 想", "你好"),
    (False, "<think>\n\n</think>\n\n你好 a < b", "", "你好 a < b"),
    (False, "<think>想了又想", "想了又想", ""),
    (False, "<think>一</think><think>二</think>乙", "一二", "乙"),
    (False, "</think>\n\n乙", "", "乙"),
    (False, " \n", "", " \n"),
    (False, "a <thin", "", "a <thin"),
    (False, "<thin", "", "<thin"),
    (True, "想\n</think>\n\n你好", "想", "你好"),
    (True, "\n<think>\n想</think>你好", "想", "你好"),
    (True, "想了又想 <think>还想</think>你好", "想了又想 <think>还想", "你好"),
    (True, "想了又想\n", "想了又想", ""),
    (True, "</think>", "", ""),
]
# Texts about such marks come through whole where thoughts are not looked for anywhere.
ABOUT = [
    "先说 <think>再想</think> 又说",
    "`</think>` 结束思考",
    "```\n<think>\n想\n</think>\n```",
]
# What is heard of those where they are.
ANYWHERE = [
    ("先说 <think>再想</think> 又说", "再想", "先说 又说"),
    ("<think>一</think>甲<think>二</think>乙", "一二", "甲乙"),
    ("想\n</think>\n\n 你好", "想", "你好"),
    ("<think>一</think>想\n</think>好", "一想", "好"),
]


def asked(**fields: object) -> GenerationRequest:
    return GenerationRequest("r", (), Sampling(9), 1e9, **fields)  # type: ignore[arg-type]


def heard(speech: Speech, written: str, size: int) -> tuple[str, str, list[str]]:
    """What was thought, said and called of a text in pieces of ``size``; what is taken back was thought."""
    thought, said, calls = "", "", []
    pieces = [written[at : at + size] for at in range(0, len(written), size)]
    for event in [*(event for piece in pieces for event in speech.push(piece)), *speech.finish()]:
        match event:
            case TextDelta(text):
                said += text
            case Reasoning(text):
                thought, said = (thought + said + text, "") if event.retracts else (thought + text, said)
            case ToolCallStarted():
                calls.append("")
            case ToolCallArguments(index, text):
                calls[index] += text
    return thought, said, calls


@pytest.mark.parametrize(("inside", "written", "thought", "said"), REPLIES)
def test_what_is_heard_does_not_depend_on_the_pieces(inside: bool, written: str, thought: str, said: str) -> None:
    for size in range(1, len(written) + 1):
        assert heard(Speech(asked(), inside=inside), written, size) == (thought, said, [])


@pytest.mark.parametrize("written", ABOUT)
def test_texts_about_thoughts_come_through_whole(written: str) -> None:
    for size in range(1, len(written) + 1):
        assert heard(Speech(asked()), written, size) == ("", written, [])


@pytest.mark.parametrize(("written", "thought", "said"), ANYWHERE)
def test_no_thought_is_said_where_they_may_stand_anywhere(written: str, thought: str, said: str) -> None:
    for size in range(1, len(written) + 1):
        heard_thought, heard_said, _ = heard(Speech(asked(thinking=Thinking(anywhere=True))), written, size)
        assert (heard_thought.replace("\n", ""), heard_said) == (thought, said)


def test_calls_come_after_thoughts_and_are_not_looked_into() -> None:
    tools = (Tool("f", None, "{}"),)
    for size in (1, 7, 1000):
        thought = CALL.replace("</think>", "")
        told = heard(Speech(asked(tools=tools)), f"<think>{thought}</think>\n\n好\n{CALL}", size)
        assert told == (thought, "好", ['{"a": "<think>x</think>"}'])


def test_a_reply_that_goes_on_from_words_does_not_begin_with_a_thought() -> None:
    assert heard(Speech(asked(opening="好 ")), "<think>x</think>", 3) == ("", "<think>x</think>", [])
    assert heard(Speech(asked(opening="<think>想")), "完</think>好", 3) == ("完", "好", [])


def test_every_token_is_told_once_and_those_of_marks_with_the_thought() -> None:
    tokens = [TokenLogprob(number, b"", -1.0) for number in range(6)]
    speech = Speech(asked(), 1)
    told = [
        event
        for token, text in zip(tokens, ("<think>", "想", "</think>", "\n\n", "好", ""), strict=True)
        for event in speech.push(text, [token])
    ]
    told += speech.finish()
    assert [token for event in told for token in event.tokens] == tokens
    assert {type(event) for event in told for token in event.tokens if token in tokens[:4]} == {Reasoning}
    assert {event.choice for event in told} == {1}


@pytest.mark.parametrize(
    ("end", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", False),
        ("<think><|im_end|>\n<|im_start|>assistant\n", False),
    ],
)
def test_whether_the_prompt_opens_a_thought(end: str, opened: bool) -> None:
    assert opens_thought(end) is opened
