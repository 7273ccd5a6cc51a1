"""Forced JSON ends whole within its tokens, however long-winded the model is."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.generation.constraints.grammar import GrammarCompiler, tool_grammar
from qqvl_server.generation.port import Grammar, GrammarKind, Tool
from qqvl_server.weights.processor import load_processor
from tests.running import ROOT

pytestmark = pytest.mark.anyio
DEMO = ROOT / "models" / "qqvl-demo"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "height": {"type": "number"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "home": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "notes": {"type": "string"}},
            "required": ["city"],
        },
    },
    "required": ["name", "age", "height", "tags", "home"],
}


class Rambler:
    """Writes whatever is allowed, but never what closes anything while there is something else to say."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = load_processor(str(folder)).tokenizer
        self.ends = frozenset(self.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
        self.compiler = GrammarCompiler(self.tokenizer, self.ends)

    async def write(self, grammar: Grammar, budget: int, seed: int, fond_of: str = "") -> str:
        mask = (await self.compiler.compile(grammar))(budget)
        draw = random.Random(seed)
        said: list[int] = []
        for _ in range(budget):
            words = mask.allowed()
            assert words is not None
            ids = [32 * at + bit for at, word in enumerate(words) if word for bit in range(32) if word >> bit & 1]
            if self.ends.issuperset(ids):
                break
            wordy = [i for i in ids if i not in self.ends and not set(self.tokenizer.decode([i])) & set('"}]')]
            favourite = [i for i in ids if fond_of and self.tokenizer.decode([i]) == fond_of]
            said.append(draw.choice(favourite or wordy or [i for i in ids if i not in self.ends]))
            mask.accept(said[-1])
        return str(self.tokenizer.decode(said))


@pytest.fixture(scope="module")
def rambler() -> Iterator[Rambler]:
    made = Rambler(DEMO)
    yield made
    made.compiler.close()


@pytest.mark.parametrize("seed", range(2))
async def test_an_object_is_whole_at_its_token_limit(rambler: Rambler, seed: int) -> None:
    text = await rambler.write(Grammar(GrammarKind.JSON_SCHEMA, json.dumps(PERSON)), 300, seed)
    person: dict[str, Any] = json.loads(text)
    assert set(PERSON["required"]) <= set(person)
    assert isinstance(person["age"], int)


async def test_any_object_is_whole_at_its_token_limit(rambler: Rambler) -> None:
    text = await rambler.write(Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}'), 120, 1)
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("bracket", ["]", "}"])
async def test_brackets_do_not_end_a_text(rambler: Rambler, bracket: str) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    grammar = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))
    assert json.loads(await rambler.write(grammar, 120, 5, bracket))["name"].endswith(bracket)


async def test_a_number_ends_before_the_key_that_must_follow(rambler: Rambler) -> None:
    keys = {"x": {"type": "number"}, "y": {"type": "boolean"}}
    schema = {"type": "object", "properties": keys, "required": ["x", "y"]}
    text = await rambler.write(Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema)), 120, 6, "1")
    assert set(json.loads(text)) == {"x", "y"}


async def test_a_forced_call_is_whole_at_its_token_limit(rambler: Rambler) -> None:
    tool = Tool("save", None, json.dumps(PERSON))
    text = await rambler.write(tool_grammar([tool], None, parallel=True), 300, 3)
    assert text.endswith("</tool_call>")
    call = json.loads(text.split("<tool_call>")[1].split("</tool_call>")[0])
    assert set(PERSON["required"]) <= set(call["arguments"])


async def test_an_integer_stays_within_what_clients_read(rambler: Rambler) -> None:
    text = await rambler.write(Grammar(GrammarKind.JSON_SCHEMA, '{"type": "integer"}'), 400, 2)
    assert abs(json.loads(text)) < 2**53


async def test_an_object_has_only_the_keys_its_schema_lists(rambler: Rambler) -> None:
    text = await rambler.write(Grammar(GrammarKind.JSON_SCHEMA, json.dumps(PERSON)), 300, 4)
    assert set(json.loads(text)) == set(PERSON["properties"])


async def test_keys_described_in_several_places_are_all_let_in(rambler: Rambler) -> None:
    parts = [{"properties": {name: {"type": "boolean"}}, "required": [name]} for name in ("a", "b")]
    text = await rambler.write(Grammar(GrammarKind.JSON_SCHEMA, json.dumps({"type": "object", "allOf": parts})), 120, 4)
    assert {"a", "b"} <= set(json.loads(text))
