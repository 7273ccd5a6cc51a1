"""Every route of the OpenAPI document, asked things that fit its description and things that do not: never a 5xx."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies
from schemathesis.core.result import Ok
from schemathesis.generation.modes import GenerationMode

from tests.running import RunningServer

# Events for as long as somebody listens; no body that is drawn lets in.
ENDLESS, WANTS_A_SECRET = "/api/page/live", "/api/page/session"
# Drawn strings name no model, and drawn numbers ask for thousands of tokens, which would show nothing more.
_AFFORDABLE = {"model": "qqvl-demo", "max_tokens": 3, "max_completion_tokens": 3}
_SHORT_RESPONSE = {"model": "qqvl-demo", "max_output_tokens": 3}
_HELLO = [{"role": "user", "content": "你好"}]
# Whole conversations are rarely drawn right, and what stands beside them is only looked at then.
_QQ: dict[str, Any] = {
    "user_id": "7",
    "content": "你好",
    "images": [],
    "segments": [],
    "reply_to": None,
    "forward": [],
    "context_only": True,
}
_FREE = ("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
_PLAIN = dict.fromkeys((*_FREE, "tool_choice", "chat_template_kwargs", "best_of", "min_tokens", "top_logprobs"))
_SENSIBLE: dict[str, dict[str, Any]] = {
    "/api/chat/group": _QQ | {"group_id": "7"},
    "/api/chat/private": _QQ,
    "/api/chat/group/recall": {"group_id": "7", "message_id": "1"},
    "/api/chat/private/recall": {"user_id": "7", "message_id": "1"},
    "/api/chat/group/sent": {"group_id": "7", "message_id": "1", "sent_ids": ["2"]},
    "/api/chat/private/sent": {"user_id": "7", "message_id": "1", "sent_ids": ["2"]},
    "/api/client/status": {"self_id": "7", "link": "up"},
    "/v1/chat/completions": _PLAIN | {"messages": _HELLO, "tools": []},
    "/v1/completions": _PLAIN | {"prompt": "你好"},
    "/v1/responses": {"input": "你好", "tools": [], "tool_choice": None, "text": None},
    "/tokenize": {"prompt": None, "messages": _HELLO, "tools": []},
    "/detokenize": {"tokens": [1, 2, 3]},
    "/api/page/conversations": {"title": "你好"},
    "/api/page/plays": {
        "qqvl_try": 1,
        "name": "你好",
        "members": [{"id": "1", "name": "张三"}],
        "lines": [{"id": "1", "from": "1", "text": "你好"}],
    },
    "/admin/settings": {"chat.bot_names": None},
    "/v1/messages/count_tokens": {"messages": _HELLO, "tools": [], "tool_choice": None, "system": "你好"},
}
# Longer texts take long to draw; the limits have tests of their own.
_LONGEST = 1000


@pytest.mark.timeout(300)
@pytest.mark.parametrize("examples", [3, pytest.param(10, marks=pytest.mark.long)])
def test_no_request_breaks_the_server(bare: RunningServer, examples: int) -> None:
    document = bare.http.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(_narrowed(document))
    schema.config.update(base_url=bare.base)
    results = list(schema.get_all_operations())
    operations = [result.ok() for result in results if isinstance(result, Ok)]
    assert len(operations) == len(results)
    assert len(operations) == sum(len(methods) for methods in document["paths"].values())
    for operation in operations:
        if operation.path == ENDLESS:
            continue
        if operation.method == "post":
            schema_of_body = operation.definition.raw["requestBody"]["content"]["application/json"]["schema"]
            # Only what a path says enough of has an empty body.
            assert schema_of_body["properties"] or "{" in operation.path
        statuses = _ask(operation, bare.owner, examples)
        print(operation.label, dict(statuses))
        assert not [status for status in statuses if status >= 500], operation.label
        # A path with a name in it is mostly drawn to be nobody's.
        if operation.method == "post" and "{" not in operation.path:
            assert 400 in statuses, (operation.label, statuses)
            if operation.path == WANTS_A_SECRET:
                continue
            # What is drawn around it may spoil it; by itself the sensible body is answered.
            sensible = _sensible(operation.path)
            assert bare.http.post(operation.path, json=sensible, headers=bare.owner).status_code == 200


def _narrowed(value: Any) -> Any:
    """The document without room for fields that it does not name: they are passed over and would fill the bodies."""
    if isinstance(value, list):
        return [_narrowed(item) for item in value]
    if not isinstance(value, dict):
        return value
    narrowed = {key: _narrowed(item) for key, item in value.items() if key != "maxLength" or item <= _LONGEST}
    return narrowed | {"additionalProperties": False} if isinstance(value.get("properties"), dict) else narrowed


def _affordable(path: str) -> dict[str, Any]:
    if path.startswith(("/admin/", "/api/page/")):
        return {}
    return _SHORT_RESPONSE if path == "/v1/responses" else _AFFORDABLE


def _sensible(path: str) -> dict[str, Any]:
    return _affordable(path) | _SENSIBLE.get(path, {"messages": _HELLO, "tools": []})


def _ask(operation: Any, owner: dict[str, str], examples: int) -> Counter[int]:
    """The statuses of ``examples`` requests that fit the description, and of as many that do not."""
    statuses: Counter[int] = Counter()

    def ask(case: schemathesis.Case[Any], sensible: bool) -> None:
        if isinstance(case.body, dict):
            case.body = case.body | (_sensible(operation.path) if sensible else _affordable(operation.path))
        answer = case.call(headers=owner)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, (operation.label, case.body, answer.text)

    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    # Nothing but a body can be unfit in ways that reach a route.
    modes = (
        (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if operation.method == "post" else (GenerationMode.POSITIVE,)
    )
    for mode in modes:
        cases = operation.as_strategy(generation_mode=mode)
        settings(hypothesis.given(cases, strategies.booleans())(ask))()
    return statuses
