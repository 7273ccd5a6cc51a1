"""Thoughts are told apart from speech, however a reply is cut into pieces."""

from __future__ import annotations

import pytest

from qqvl_server.generation.replies.thoughts import Thoughts, opens_thought, spoken

# Whether the prompt opened a thought, what was written, what of it is said.
REPLIES = [
    (False, "你好", "你好"),
    (False, "<think>想\n</think>\n\n你好", "你好"),
    (False, "<think>\n\n</think>\n\n你好 a < b", "你好 a < b"),
    (False, "<think>想了又想", ""),
    (False, "先说 <think>再想</think> 又说", "先说 又说"),
    (False, "<think>一</think>甲<think>二</think>乙", "甲乙"),
    (False, "a <thin", "a <thin"),
    (False, "<think>想</think", ""),
    (True, "想\n</think>\n\n你好", "你好"),
    (True, "想了又想 <think>还想</think>你好", "你好"),
    (True, "想了又想", ""),
    (True, "</think>", ""),
]


@pytest.mark.parametrize(("inside", "written", "said"), REPLIES)
def test_what_is_said_does_not_depend_on_the_pieces(inside: bool, written: str, said: str) -> None:
    for size in range(1, len(written) + 1):
        thoughts = Thoughts(inside=inside)
        pieces = [written[at : at + size] for at in range(0, len(written), size)]
        told = [thoughts.said(piece) for piece in pieces[:-1]]
        assert "".join([*told, thoughts.said(pieces[-1], last=True)]) == said


def test_a_whole_reply_loses_thoughts_whose_beginning_nobody_wrote() -> None:
    assert spoken("想\n</think>\n\n 你好 ") == "你好"
    assert spoken("<think>想</think>想\n</think>好") == "好"


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
