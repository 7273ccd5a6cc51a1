"""Grammars to masks, with the demo's tokenizer and the real one: what may come, what is refused, and that all ends."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.engine.steps.request import TokenMask
from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.constraints.grammar import GrammarCompiler, tool_grammar
from qqvl_server.generation.port import Grammar, GrammarKind, Tool
from qqvl_server.weights.processor import load_processor

pytestmark = pytest.mark.anyio

K = GrammarKind
WEATHER = Tool("get_weather", "天气", json.dumps({
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"enum": ["c", "f"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}))  # fmt: skip
CLOCK = Tool("clock", None, '{"type": "object", "properties": {}, "additionalProperties": false}')


class Compiler:
    """The compiler under test and its tokenizer."""

    def __init__(self, folder: Path, vocab_size: int | None = None, ends: int = 2, *, is_loose: bool = False) -> None:
        self.tokenizer = load_processor(str(folder)).tokenizer
        self.ends = tuple(self.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"][:ends]))
        self.vocab_size = vocab_size or len(self.tokenizer) + 300
        self.compiler = GrammarCompiler(self.tokenizer, self.ends, self.vocab_size, is_loose=is_loose)

    async def mask(self, kind: GrammarKind, text: str, budget: int = 1000) -> TokenMask:
        return (await self.compiler.compile(Grammar(kind, text)))(budget)

    def ids(self, mask: TokenMask) -> list[int]:
        words = mask.allowed()
        assert words is not None
        assert len(words) * 32 >= self.vocab_size
        return [32 * at + bit for at, word in enumerate(words) if word for bit in range(32) if word >> bit & 1]

    def takes(self, mask: TokenMask, text: str) -> bool:
        """Whether this is a whole reply."""
        for token in self.tokenizer.encode(text):
            if token not in self.ids(mask):
                return False
            mask.accept(token)
        return set(self.ends) <= set(self.ids(mask))

    def write(self, mask: TokenMask, seed: int) -> str:
        """A reply of tokens drawn at random, ended as soon as it may be."""
        draw = random.Random(seed)
        said: list[int] = []
        for _ in range(400):
            allowed = self.ids(mask)
            if set(allowed) & set(self.ends):
                return str(self.tokenizer.decode(said))
            closing = [i for i in allowed if self.tokenizer.decode([i])[:1] in ('"', "}", "]")]
            token = draw.choice(closing if closing and draw.random() < 0.3 else allowed)
            mask.accept(token)
            said.append(token)
        raise AssertionError("the reply does not end")


@pytest.fixture(scope="module")
def demo_compiler(demo: Path) -> Iterator[Compiler]:
    made = Compiler(demo)
    yield made
    made.compiler.close()


async def test_each_kind_takes_what_it_describes_and_nothing_else(demo_compiler: Compiler) -> None:
    schema = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    ebnf = 'root ::= "select " column\ncolumn ::= "id" | "name"'
    for kind, text, good, bad in (
        (K.JSON_SCHEMA, schema, '{"a": 1}', '{"a": "1"}'),
        (K.JSON_SCHEMA, schema, '{"a": -1}', '{"a": 1, "b": "北京"}'),
        (K.JSON_SCHEMA, '{"type": "object"}', '{"a": 1, "b": "北京"}', "[]"),
        (K.JSON_SCHEMA, "true", "[1, null]", "x"),
        (K.REGEX, r"^\d{3}-(红|蓝)$", "123-红", "12-红"),
        (K.REGEX, r"[\da]\d\\d?", "a0\\d", "a٣\\d"),
        (K.CHOICE, '["红 色", "a|b", "<tool_call>"]', "a|b", "a"),
        (K.CHOICE, '["红 色", "a|b"]', "红 色", "红"),
        (K.LARK, 'start: "a" n\nn: /[0-9]+/', "a12", "b"),
        (K.LARK, ebnf, "select id", "select x"),
        (K.LARK, ebnf.replace("root", "start"), "select name", "select"),
    ):
        assert demo_compiler.takes(await demo_compiler.mask(kind, text), good), (kind, good)
        assert not demo_compiler.takes(await demo_compiler.mask(kind, text), bad), (kind, bad)


async def test_json_has_no_room_for_endless_white_space(demo_compiler: Compiler) -> None:
    for text in ('{"a":  1}', '{ "a": 1}', '{"a": 1 }', '{"a": 1\n}', '\n{"a": 1}', '{"a": 1}\n'):
        assert not demo_compiler.takes(await demo_compiler.mask(K.JSON_SCHEMA, '{"type": "object"}'), text)


async def test_a_grammar_too_complex_only_on_the_way_is_the_callers_fault(demo_compiler: Compiler) -> None:
    schema = json.dumps({"type": "object", "properties": {str(key): {"type": "string"} for key in range(1300)}})
    mask = await demo_compiler.mask(K.JSON_SCHEMA, schema)
    tokens = demo_compiler.tokenizer.encode('{"1": "a", "5": "b"}')
    with pytest.raises(InvalidRequest, match="复杂"):
        deque(map(mask.accept, tokens))


async def test_once_complete_only_the_end_may_come(demo_compiler: Compiler) -> None:
    mask = await demo_compiler.mask(K.CHOICE, '["红"]')
    for token in demo_compiler.tokenizer.encode("红"):
        mask.accept(token)
    assert sorted(demo_compiler.ids(mask)) == sorted(demo_compiler.ends)
    mask.accept(demo_compiler.ends[0])


async def test_a_token_that_may_not_come_is_an_error_of_this_mask_alone(demo_compiler: Compiler) -> None:
    mask, other = [await demo_compiler.mask(K.CHOICE, '["红"]') for _ in range(2)]
    with pytest.raises(ValueError, match="grammar"):
        mask.accept(demo_compiler.tokenizer.encode("x")[0])
    with pytest.raises(ValueError, match="grammar"):
        mask.allowed()
    assert demo_compiler.takes(other, "红")


async def test_ids_beyond_the_tokenizer_are_never_allowed(demo_compiler: Compiler) -> None:
    mask = await demo_compiler.mask(K.REGEX, r"(?s:.)+")
    assert max(demo_compiler.ids(mask)) < len(demo_compiler.tokenizer)


@pytest.mark.parametrize("vocab_size", [2144, 2150, 2163, 2176, 2177, 2208, 3000])
async def test_json_comes_to_its_end_whatever_the_number_of_logits(demo: Path, vocab_size: int) -> None:
    """Fewer than the tokenizer's 2,163 tokens or more, and multiples of 32, as every real Qwen3-VL's 151,936 is."""
    made = Compiler(demo, vocab_size)
    schema = json.dumps({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})
    budget = 60
    for seed in range(3):
        mask = await made.mask(K.JSON_SCHEMA, schema, budget)
        draw = random.Random(seed)
        said: list[int] = []
        while len(said) < budget and said[-1:] != [made.ends[0]]:
            allowed = made.ids(mask)
            assert max(allowed) < vocab_size
            # Goes on for as long as it may.
            longer = [i for i in allowed if not set(made.tokenizer.decode([i])) & set('"}\\') and i not in made.ends]
            said.append(draw.choice(longer or allowed))
            mask.accept(said[-1])
        assert set(json.loads(made.tokenizer.decode(said, skip_special_tokens=True))) == {"a"}
    made.compiler.close()


NAMED_LIKE_CONTROLS = [
    (K.REGEX, r"[a-z]{3,8}</think>\n\n[a-z]{2,5}", "</think>"),
    (K.CHOICE, '["<think>", "<tool_call>x"]', "<t"),
    (K.JSON_SCHEMA, '{"enum": ["</tool_call>", "<|im_end|>"]}', "<"),
    (K.LARK, 'start: <think> "a</think>" </think>', "<think>a</think></think>"),
]


@pytest.mark.parametrize(("tools", "ends"), [("demo", 1), ("demo", 2), ("assets", 1)])
async def test_a_text_that_reads_like_a_control_token_is_spelt_in_letters(
    tools: str, ends: int, request: pytest.FixtureRequest
) -> None:
    made = Compiler(request.getfixturevalue(tools), ends=ends)
    for kind, text, written in NAMED_LIKE_CONTROLS:
        for seed in range(5):
            mask, draw = await made.mask(kind, text), random.Random(seed)
            said: list[int] = []
            while said[-1:] != [made.ends[0]]:
                allowed = made.ids(mask)
                said.append(made.ends[0] if made.ends[0] in allowed else draw.choice(allowed))
                mask.accept(said[-1])
            assert written in made.tokenizer.decode(said[:-1]), (kind, said)
    made.compiler.close()


@pytest.mark.parametrize("tools", ["demo", "assets"])
async def test_who_may_call_is_free_until_a_call_begins(tools: str, request: pytest.FixtureRequest) -> None:
    made = Compiler(request.getfixturevalue(tools))
    fresh = await made.compiler.while_calling([WEATHER, CLOCK], strict=False)
    assert fresh is not None
    mask = fresh(1000)
    opening, closing = made.tokenizer.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
    for calls in range(2):
        for token in made.tokenizer.encode('好的，我查一下 {"name": ' if not calls else "\n"):
            assert mask.allowed() is None
            mask.accept(token)
        mask.accept(opening)
        free = 0
        for token in made.tokenizer.encode('\n{"name": "get_weather", "arguments": {"city": "北京", "unit": "c"}}\n'):
            if mask.allowed() is None:
                free += 1
            else:
                assert token in made.ids(mask)
                assert closing not in made.ids(mask)
            mask.accept(token)
        # The first letters of the name.
        assert 1 <= free <= 4
        assert made.ids(mask) == [closing]
        mask.accept(closing)
    made.compiler.close()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("tools", ["demo", "assets"])
async def test_half_of_one_name_does_not_go_on_with_half_of_another(
    tools: str, strict: bool, request: pytest.FixtureRequest
) -> None:
    """Drawn at random among all that may come, where the model's own letters are those of "get_"."""
    made = Compiler(request.getfixturevalue(tools))
    offered = [
        WEATHER,
        Tool("get_clock", None, CLOCK.parameters),
        Tool("get_time", None, CLOCK.parameters),
        Tool("get_weather_alerts", None, "{}"),
    ]
    fresh = await made.compiler.while_calling(offered, strict=strict)
    assert fresh is not None
    opening = made.tokenizer.convert_tokens_to_ids("<tool_call>")
    named = set()
    for seed in range(12):
        mask, draw = fresh(1000), random.Random(seed)
        mask.accept(opening)
        said: list[int] = []
        own = made.tokenizer.encode("get_")
        while '"arguments"' not in made.tokenizer.decode(said):
            said.append(own.pop(0) if mask.allowed() is None else draw.choice(made.ids(mask)))
            mask.accept(said[-1])
        named.add(re.findall(r'"name": "(.*)", "arguments"', made.tokenizer.decode(said))[0])
    assert named <= {tool.name for tool in offered}
    assert len(named) > 1
    made.compiler.close()


async def test_tools_that_cannot_be_compiled_leave_the_arguments_free_but_not_the_name(demo_compiler: Compiler) -> None:
    endless = Tool("f", None, json.dumps({"type": "object", "properties": {"a": {"multipleOf": 1e-9}}}))
    long = Tool("g", None, json.dumps({"type": "object", "description": "x" * 300_000}))
    for tool in (endless, long):
        fresh = await demo_compiler.compiler.while_calling([tool], strict=False)
        assert fresh is not None
        mask = fresh(1000)
        for text in (f'<tool_call>\n{{"name": "{tool.name}", "arguments": {{"a": 1.5, "b": []}}}}\n</tool_call>', "好"):
            for token in demo_compiler.tokenizer.encode(text):
                if mask.allowed() is not None:
                    assert token in demo_compiler.ids(mask)
                mask.accept(token)
        strict = await demo_compiler.compiler.while_calling([tool], strict=True)
        assert strict is not None
        mask = strict(1000)
        for token in demo_compiler.tokenizer.encode('<tool_call>\n{"name": "'):
            mask.accept(token)
        assert demo_compiler.tokenizer.encode("clock")[0] not in demo_compiler.ids(mask)


async def test_a_name_made_up_is_the_models_own_affair(demo_compiler: Compiler) -> None:
    fresh = await demo_compiler.compiler.while_calling([WEATHER, CLOCK], strict=False)
    assert fresh is not None
    mask = fresh(1000)
    tokens = demo_compiler.tokenizer.encode('<tool_call>\n{"name": "search", "arguments": {"x": 1}}\n</tool_call>')
    for token in tokens:
        assert mask.allowed() is None or token in demo_compiler.ids(mask)
        mask.accept(token)
    assert mask.allowed() is None


async def test_a_call_too_complex_on_the_way_goes_on_without_a_mask(demo_compiler: Compiler) -> None:
    wide = {"type": "object", "properties": {str(key): {"type": "string"} for key in range(1300)}}
    tool = Tool("f", None, json.dumps(wide))
    await demo_compiler.compiler.compile(tool_grammar([tool], None, parallel=False))
    fresh = await demo_compiler.compiler.while_calling([tool], strict=False)
    assert fresh is not None
    mask = fresh(1000)
    spelt = '<tool_call>\n{"name": "f", "arguments": {"1": "a", "5": "b"}}\n</tool_call>'
    for token in demo_compiler.tokenizer.encode(spelt):
        mask.accept(token)
    assert mask.allowed() is None


@pytest.mark.parametrize("tools", ["demo", "assets"])
async def test_forced_calls_are_in_qwens_frame_with_arguments_of_the_schema(
    tools: str, request: pytest.FixtureRequest
) -> None:
    """With the demo's tokenizer and the real one; random tokens stand in for the worst of models."""
    made = Compiler(request.getfixturevalue(tools))
    compiled = await made.compiler.compile(tool_grammar([WEATHER, CLOCK], None, parallel=False))
    seen = set()
    for seed in range(6):
        text = made.write(compiled(1000), seed)
        head, body, tail = text.split("\n")
        assert (head, tail) == ("<tool_call>", "</tool_call>")
        call = json.loads(body)
        seen.add(call["name"])
        if call["name"] == "get_weather":
            assert set(call["arguments"]) == {"city", "unit"}
            assert len(call["arguments"]["city"]) <= 8
            assert call["arguments"]["unit"] in ("c", "f")
        else:
            assert call["arguments"] == {}
    assert seen == {"get_weather", "clock"}
    made.compiler.close()


async def test_how_many_calls_and_which(demo_compiler: Compiler) -> None:
    weather = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "北京", "unit": "c"}}\n</tool_call>'
    clock = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    offered = [WEATHER, CLOCK]
    for grammar, good, bad in (
        (tool_grammar(offered, None, parallel=True), f"{weather}\n{clock}\n{weather}", f"{weather}{clock}"),
        (tool_grammar(offered, None, parallel=False), clock, f"{weather}\n{clock}"),
        (tool_grammar(offered, "clock", parallel=True), clock, weather),
        (tool_grammar(offered, "clock", parallel=True), clock, f"{clock}\n{clock}"),
    ):
        assert demo_compiler.takes(await demo_compiler.mask(grammar.kind, grammar.text), good)
        assert not demo_compiler.takes(await demo_compiler.mask(grammar.kind, grammar.text), bad)


@pytest.mark.parametrize("parameters", ["[", "[]", '{"type": "array"}', '{"type": "object", "properties": 1}'])
async def test_bad_parameters_are_refused(demo_compiler: Compiler, parameters: str) -> None:
    with pytest.raises(InvalidRequest):
        await demo_compiler.compiler.compile(tool_grammar([Tool("f", None, parameters)], None, parallel=False))


def test_a_call_of_no_tool_cannot_be_forced() -> None:
    for tools, forced in (([], None), ([CLOCK], "get_weather")):
        with pytest.raises(InvalidRequest):
            tool_grammar(tools, forced, parallel=True)


async def test_formats_and_words_that_only_annotate_are_no_obstacle(demo_compiler: Compiler) -> None:
    schema = {"type": "object", "properties": {"format": {"type": "string", "format": "int64", "title": "x"},
                                               "multipleOf": {"type": "integer", "multipleOf": 5}},
              "required": ["format", "multipleOf"], "$schema": "http://json-schema.org/draft-07/schema#"}  # fmt: skip
    mask = await demo_compiler.mask(K.JSON_SCHEMA, json.dumps(schema))
    assert demo_compiler.takes(mask, '{"format": "x", "multipleOf": 15}')


async def test_an_object_may_have_a_thousand_optional_keys(demo_compiler: Compiler) -> None:
    keys = {f"key{number}": {"type": "string"} for number in range(1000)}
    schema = json.dumps({"type": "object", "properties": keys, "additionalProperties": False})
    for text, fits in (('{"key3": "a", "key900": "b"}', True), ('{"key900": "b", "key1000": "a"}', False)):
        assert demo_compiler.takes(await demo_compiler.mask(K.JSON_SCHEMA, schema), text) is fits


def chain(length: int, link: Any) -> str:
    links: dict[str, Any] = {f"d{i}": link({"$ref": f"#/$defs/d{i + 1}"}) for i in range(length)}
    return json.dumps({"$ref": "#/$defs/d0", "$defs": {**links, f"d{length}": {"type": "null"}}})


def nested(depth: int) -> str:
    return '{"type": "object", "properties": {"a": ' * depth + "{}" + "}}" * depth


REFUSED = [
    (K.JSON_SCHEMA, "{", "JSON"),
    (K.JSON_SCHEMA, "[]", "对象"),
    (K.JSON_SCHEMA, '{"type": "SECRET"}', "不对"),
    (K.JSON_SCHEMA, '{"not": {"type": "string"}}', "not"),
    (K.JSON_SCHEMA, '{"contains": {"type": "string"}}', "$.contains"),
    (K.JSON_SCHEMA, '{"$ref": "http://127.0.0.1:1/SECRET"}', "$ref"),
    (K.JSON_SCHEMA, '{"$ref": "file:///etc/passwd"}', "$ref"),
    (K.JSON_SCHEMA, '{"$ref": "#"}', "满足"),
    (K.JSON_SCHEMA, '{"enum": []}', "满足"),
    (K.JSON_SCHEMA, nested(110), "嵌套"),
    (K.JSON_SCHEMA, nested(5000), "嵌套"),
    (K.JSON_SCHEMA, '{"type": "integer", "multipleOf": 999983}', "multipleOf"),
    (K.JSON_SCHEMA, '{"allOf": [{"type": "integer", "multipleOf": 997}, {"multipleOf": 991}]}', "multipleOf"),
    (K.JSON_SCHEMA, '{"type": "number", "multipleOf": 1e-30}', "multipleOf"),
    (K.JSON_SCHEMA, chain(6000, lambda ref: ref), "太大"),
    (K.JSON_SCHEMA, json.dumps({"enum": ["x" * 300_000]}), "太长"),
    (K.JSON_SCHEMA, json.dumps({"type": "string", "const": "\ud800"}), "不对"),
    (K.LARK, 'start: %json {"type": "integer", "multipleOf": 999983}', "multipleOf"),
    (K.LARK, "start: SECRET", "不对"),
    (K.LARK, "root ::= " + "(" * 3000 + '"a"' + ")" * 3000, "不对"),
    (K.LARK, "root ::= " + '"a" ' * 20_000, "太长"),
    (K.REGEX, "(SECRET", "正则"),
    (K.REGEX, r"(a)\1", "正则"),
    (K.REGEX, "(?=a)b", "正则"),
    (K.REGEX, "(" * 5000 + "a" + ")" * 5000, "正则"),
    (K.CHOICE, "[]", "choice"),
    (K.CHOICE, '["a", 1]', "choice"),
    (K.CHOICE, "SECRET", "choice"),
]


@pytest.mark.parametrize(("kind", "text", "word"), REFUSED, ids=[f"{k}-{t[:24]}" for k, t, _ in REFUSED])
async def test_what_cannot_be_compiled_is_refused_in_words_of_ours(
    demo_compiler: Compiler, kind: GrammarKind, text: str, word: str
) -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequest, match=re.escape(word)) as refused:
            await demo_compiler.mask(kind, text)
        assert len(refused.value.message) < 100
        assert "SECRET" not in refused.value.message


def many(part: dict[str, Any], words: list[str]) -> str:
    """A part in a thousand places that each refer to the same words."""
    listed = {"enum": [f"{word}{number}" for number, word in enumerate(words)]}
    option = {"type": "object", "properties": {"p": listed}, "required": ["p"] * 1000}
    properties = {f"k{number}": part for number in range(1000)}
    return json.dumps({"$defs": {"x": listed, "o": option}, "type": "object", "properties": properties})


HOSTILE = [
    (K.JSON_SCHEMA, chain(4900, lambda ref: ref)),
    (K.JSON_SCHEMA, chain(2400, lambda ref: {"type": "object", "properties": {"a": ref}})),
    (K.JSON_SCHEMA, chain(60, lambda ref: {"type": "object", "properties": {"a": ref, "b": ref}})),
    (K.JSON_SCHEMA, chain(40, lambda ref: {"allOf": [ref, ref]})),
    (K.JSON_SCHEMA, '{"type": "array", "items": {"type": "integer"}, "minItems": 1000000000}'),
    (K.JSON_SCHEMA, '{"type": "string", "minLength": 1000000000}'),
    (K.JSON_SCHEMA, '{"type": "string", "pattern": "(.*a.{200}b|.*b.{300}c)"}'),
    (K.JSON_SCHEMA, json.dumps({"enum": [f"word{i * 7919 % 20000}" for i in range(15_000)]})),
    (K.JSON_SCHEMA, json.dumps({"type": "object", "properties": {f"key{i}": {} for i in range(2000)}})),
    (K.JSON_SCHEMA, many({"type": "array", "items": {"$ref": "#/$defs/x"}, "uniqueItems": True}, ["w" * 4000] * 8)),
    (K.JSON_SCHEMA, many({"propertyNames": {"$ref": "#/$defs/x"}}, ["w"] * 1000)),
    (K.JSON_SCHEMA, many({"oneOf": [{"$ref": "#/$defs/o"}] * 9}, ["w"] * 1000)),
    (K.JSON_SCHEMA, json.dumps({"type": "string", "pattern": "^(?=a)" + "[" * 200_000})),
    (K.JSON_SCHEMA, json.dumps({"type": "string", "pattern": "^(?=a)" * 30_000})),
    (K.JSON_SCHEMA, json.dumps({"not": {}} | {f"x-{i}": {} for i in range(4900)})),
    (K.JSON_SCHEMA, json.dumps({"type": "object", "properties": {f"k{i}": {"type": "str"} for i in range(4900)}})),
    (K.REGEX, "((a{1,1000}){1,1000}){1,1000}"),
    (K.REGEX, "(a|a)*" * 2000 + "b"),
    (K.REGEX, "x{1000000000}"),
    (K.CHOICE, json.dumps([f"word{i * 7919 % 20000}" for i in range(15_000)])),
    (K.LARK, "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(16_000)) + '\nr16000: "a"'),
    (K.LARK, "start: R0\n" + "\n".join(f'R{i}: ~R{i + 1} "b"' for i in range(9000)) + '\nR9000: "a"'),
    (K.LARK, 'start: ("a"{1,100000}){1,100000}'),
    (K.LARK, 'start: start start | "a" | ""'),
]


@pytest.mark.parametrize(("kind", "text"), HOSTILE, ids=[f"{k}-{t[:24]}" for k, t in HOSTILE])
async def test_hostile_grammars_work_or_are_refused_and_the_loop_goes_on(
    demo_compiler: Compiler, kind: GrammarKind, text: str
) -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    beating = asyncio.create_task(beat())
    try:
        mask = await demo_compiler.mask(kind, text)
        for _ in range(20):
            allowed = demo_compiler.ids(mask)
            mask.accept(allowed[0])
            if allowed[0] in demo_compiler.ends:
                break
    except (InvalidRequest, ValueError):
        pass
    finally:
        beating.cancel()
    assert beats
    assert demo_compiler.takes(await demo_compiler.mask(K.CHOICE, '["红"]'), "红")


async def test_many_at_once_each_get_a_mask_of_their_own(demo_compiler: Compiler) -> None:
    masks = await asyncio.gather(*(demo_compiler.mask(K.CHOICE, f'["{i % 40}"]') for i in range(80)))
    for i, mask in enumerate(masks):
        assert demo_compiler.takes(mask, str(i % 40))
