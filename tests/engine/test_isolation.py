"""Fifty chats at once, each with a secret of its own: no answer may hold another's."""

from __future__ import annotations

import random

import pytest

from qqvl_server.engine.steps.core import EngineCore
from qqvl_server.engine.steps.request import Request
from qqvl_server.settings import DEFAULT_SYSTEM_PROMPT
from tests.engine.twins import Twins

CHATS = 50
NAMES = [surname + given for given in ("子轩", "雨桐", "浩然", "思远", "明") for surname in "李王张刘陈杨赵黄周吴"]


@pytest.mark.parametrize(("seed", "ahead"), [(1, False), (2, True)])
def test_no_answer_holds_another_chats_secret(twins: Twins, seed: int, ahead: bool) -> None:
    """Chats join at random, in small steps, with so few blocks that they are put back and computed again."""
    rng = random.Random(seed)
    engine = twins.engine(blocks=60, tokens=96, requests=12, ahead=ahead)
    histories: dict[str, list[str]] = {name: [f"我叫{name}"] for name in rng.sample(NAMES, CHATS)}
    to_come = list(histories)
    live: dict[str, Request] = {}
    answers: dict[str, str] = {}
    while len(answers) < CHATS:
        while to_come and (not live or rng.random() < 0.5):
            name = to_come.pop()
            live[name] = added(twins, engine, name, histories[name])
        engine.step()
        engine.check_integrity()
        for name in [name for name, request in live.items() if request.finish_reason is not None]:
            history = histories[name]
            history.append(twins.processor.tokenizer.decode(live.pop(name).output, skip_special_tokens=True))
            if len(history) == 4:
                answers[name] = history[-1]
            else:
                history.append("我叫什么名字？")
                live[name] = added(twins, engine, name, history)
    for name, history in histories.items():
        said = "".join(history[1::2])
        assert not [other for other in NAMES if other in said and other != name], history
    right = sum(name in answer for name, answer in answers.items())
    assert right >= CHATS * 0.8, "else the test would pass with a model that remembers nobody"


def added(twins: Twins, engine: EngineCore, name: str, history: list[str]) -> Request:
    messages = [{"role": "system", "content": [{"type": "text", "text": DEFAULT_SYSTEM_PROMPT}]}] + [
        {"role": "assistant" if n % 2 else "user", "content": [{"type": "text", "text": text}]}
        for n, text in enumerate(history)
    ]
    inputs = twins.templated(messages)
    ends = frozenset(twins.plain.model.generation_config.eos_token_id)
    request, patches = twins.request(name + str(len(history)), inputs, max_new_tokens=24, end_token_ids=ends)
    request.chat, request.salt, request.shared_tokens = name, name.encode(), 40
    engine.add(request, patches)
    return request
