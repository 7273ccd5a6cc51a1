"""The tables of request fields in docs/openai.md: equal to the door's own lists, and true of a running server."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as TextParams

from qqvl_server.api.openai.schema import REFUSED, ChatBody, CompletionBody
from tests.running import ROOT, RunningServer

PAGE, ENGLISH = ROOT / "docs" / "openai.md", ROOT / "docs" / "openai.en.md"
HONOURED, REFUSES, TOLERATED, ABSENT = "✓✗○—"
_ROW = re.compile(r"^\| `(\w+)` \| ([✓✗○—]) \| ([✓✗○—]) \| (.+?) \| (.*) \|$", re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TOOLS = [{"type": "function", "function": {"name": "now"}}]
# What some fields cannot be without.
_WITH: dict[str, dict[str, Any]] = {
    "stream_options": {"stream": True},
    "top_logprobs": {"logprobs": True},
    "tool_choice": {"tools": TOOLS},
    "parallel_tool_calls": {"tools": TOOLS},
}


@dataclass(frozen=True, slots=True)
class Row:
    """``examples``: one value, or chat's and plain completions' own."""

    name: str
    chat: str
    text: str
    examples: tuple[str, ...]
    note: str

    def marked(self, path: str) -> str:
        return self.chat if path == CHAT else self.text

    def example(self, path: str) -> Any:
        value = json.loads(self.examples[0 if path == CHAT else -1])
        return "qqvl-demo" if self.name == "model" else value


def rows(page: Path) -> list[Row]:
    found = []
    for name, chat, text, examples, note in _ROW.findall(page.read_text("utf-8")):
        found.append(Row(name, chat, text, tuple(_CODE.findall(examples.replace("\\|", "|"))), note))
    return found


ROWS = rows(PAGE)
CASES = [(row, path) for row in ROWS for path in (CHAT, TEXT) if row.marked(path) != ABSENT]


@pytest.mark.parametrize(("path", "schema"), [(CHAT, ChatBody), (TEXT, CompletionBody)])
def test_the_tables_are_the_doors_own_lists(path: str, schema: Any) -> None:
    marked = {row.name: row.marked(path) for row in ROWS}
    assert len(marked) == len(ROWS)
    honoured = {name for name, mark in marked.items() if mark == HONOURED}
    tolerated = {name for name, mark in marked.items() if mark == TOLERATED}
    # ``modalities`` is looked at and not part of the body; these two are part of it and not looked at.
    assert honoured == set(schema.model_fields) - {"user", "metadata"} | {"modalities"}
    assert {name for name, mark in marked.items() if mark == REFUSES} == set(REFUSED) - honoured
    assert not tolerated & (set(schema.model_fields) - {"user", "metadata"} | set(REFUSED))


def test_the_tables_name_every_field_of_openais_sdk() -> None:
    for path, params in ((CHAT, ChatParams), (TEXT, TextParams)):
        named = {row.name for row in ROWS if row.marked(path) != ABSENT}
        assert set(params.__annotations__) | {"stream"} <= named


def test_the_refused_tell_what_is_as_good_as_absent() -> None:
    for row in ROWS:
        if row.chat == row.text == REFUSES:
            told = [json.loads(value) for value in _CODE.findall(row.note)]
            harmless = REFUSED[row.name]
            assert len({(type(value), str(value)) for value in told}) == len(told)
            assert all(any(value == ok for ok in harmless) for value in told), row.name
            assert all(any(value == ok for value in told) for ok in harmless), row.name


def test_the_english_page_has_the_same_tables() -> None:
    assert [(r.name, r.chat, r.text, r.examples) for r in rows(ENGLISH)] == [
        (r.name, r.chat, r.text, r.examples) for r in ROWS
    ]


@pytest.mark.parametrize(("row", "path"), CASES, ids=[f"{row.name}-{path.split('/')[2]}" for row, path in CASES])
def test_the_server_does_as_the_tables_say(bare: RunningServer, row: Row, path: str) -> None:
    answer = _ask(bare, path, row.name, row.example(path))
    if row.marked(path) == REFUSES:
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", row.name)
        assert row.name in error["message"]
        for harmless in (*_CODE.findall(row.note), "null"):
            if row.name in REFUSED and row.text == REFUSES:
                assert _ask(bare, path, row.name, json.loads(harmless)).status_code == 200, harmless
    else:
        assert answer.status_code == 200, answer.text
    if row.marked(path) == HONOURED:
        nonsense = _ask(bare, path, row.name, [[{}]])
        assert nonsense.status_code == 400
        assert nonsense.json()["error"]["param"].startswith(row.name)


def test_what_nobody_knows_is_tolerated(bare: RunningServer) -> None:
    for path in (CHAT, TEXT):
        assert _ask(bare, path, "no_such_field_anywhere", {"x": [1]}).status_code == 200


def _ask(server: RunningServer, path: str, name: str, value: Any) -> httpx.Response:
    said: dict[str, Any] = {"messages": [{"role": "user", "content": "你好"}]} if path == CHAT else {"prompt": "你好"}
    body = {"model": "qqvl-demo", "max_tokens": 3, **said, **_WITH.get(name, {}), name: value}
    return server.http.post(path, json=body)
