"""JSON schemas as libraries really write them: what restricts nothing is served, what the compiler has no word for is
said otherwise, and what cannot be is refused by its place, or given up where that is set."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field, condecimal, conint, constr, create_model

from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.constraints.grammar import tool_grammar
from qqvl_server.generation.port import Grammar, GrammarKind, Tool
from tests.generation.test_grammar import Compiler

pytestmark = pytest.mark.anyio
K = GrammarKind


@pytest.fixture(scope="module")
def made(demo: Path) -> Iterator[Compiler]:
    compiler = Compiler(demo)
    yield compiler
    compiler.compiler.close()


@pytest.fixture(scope="module")
def loose(demo: Path) -> Iterator[Compiler]:
    compiler = Compiler(demo, is_loose=True)
    yield compiler
    compiler.compiler.close()


def holding(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"p": schema}, "required": ["p"], "additionalProperties": False}


def as_p(value: str) -> str:
    return f'{{"p": {value}}}'


IDLE: dict[str, Any] = {
    "title": "标题",
    "description": "说明",
    "default": "x",
    "examples": ["x"],
    "example": "x",
    "$comment": "x",
    "readOnly": True,
    "writeOnly": False,
    "deprecated": True,
    "nullable": True,
    "x-order": 3,
    "x-extra": {"type": "nope"},
    "discriminator": {"propertyName": "k", "mapping": {"a": "#/nowhere"}},
    "xml": {"name": "x"},
    "externalDocs": {"url": "x"},
    "$schema": "https://spec.openapis.org/oas/3.1/dialect/base",
    "$id": "https://example.com/x",
    "$anchor": "here",
    "$vocabulary": {"https://json-schema.org/x": True},
    "format": "int64",
    "contentMediaType": "text/plain",
    "contentEncoding": "base64",
    "contentSchema": {"type": "object"},
    "markdownDescription": "x",
    "enumNames": ["x"],
    "minLength": 0,
    "maxLength": 10**12,
    "uniqueItems": True,
    "minItems": 0,
    "if": {"type": "string"},
    "then": {},
    "else": False,
    "minContains": 2,
    "maxContains": 3,
    "dependentRequired": {},
    "dependentSchemas": {},
    "dependencies": {},
    "unevaluatedProperties": True,
    "unevaluatedItems": {"title": "x"},
    "propertyNames": {"type": "string"},
    "not": False,
    "patternProperties": {},
    "$recursiveAnchor": True,
    "$dynamicAnchor": "node",
    "required": False,
    "pattern": None,
    "enum": None,
    "minimum": None,
    "properties": None,
    "anyOf": None,
    "optional": True,
    "errorMessage": {"not": "x"},
}


@pytest.mark.parametrize("word", IDLE)
async def test_a_word_that_restricts_nothing_is_served(made: Compiler, word: str) -> None:
    schema = holding({"type": "string"} | {word: IDLE[word]})
    if word in ("then", "else"):
        schema["properties"]["p"].pop("if", None)
    assert made.takes(await made.mask(K.JSON_SCHEMA, json.dumps(schema)), as_p('"好"'))
    at_the_top = holding({"type": "string"}) | {word: IDLE[word]}
    if word not in ("properties", "required", "minLength"):
        assert made.takes(await made.mask(K.JSON_SCHEMA, json.dumps(at_the_top)), as_p('"好"'))


async def test_properties_may_be_called_like_words_of_schemas(made: Compiler) -> None:
    names = sorted(IDLE)
    schema = {"type": "object", "properties": {name: {"type": "integer"} for name in names}, "required": names}
    said = json.dumps(dict.fromkeys(names, 1))
    assert made.takes(await made.mask(K.JSON_SCHEMA, json.dumps(schema)), said)


INT = {"type": "integer"}
CAT = {"type": "object", "properties": {"kind": {"const": "cat"}, "n": INT}, "required": ["kind", "n"]}
DOG = {
    "type": "object",
    "properties": {"kind": {"enum": ["dog"], "type": "string"}, "n": INT},
    "required": ["kind", "n"],
}
AB = {"enum": ["a", "b"]}
MANY = {"enum": [str(number) for number in range(7)]}
# A schema, texts that fit it, texts that do not.
RESTATED: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "int64": (
        {**INT, "minimum": -(2**63), "maximum": 2**63 - 1},
        ("5", "-9007199254740993", "9223372036854775807"),
        ("1.5", "9" * 30),
    ),
    "uint64": ({**INT, "minimum": 0, "maximum": 2**64 - 1}, ("9007199254740993",), ("-1", "9" * 30)),
    "int128": ({**INT, "minimum": -(2**127), "maximum": 2**127}, ("5",), ('"5"',)),
    "a nullable int64": (
        {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
        ("null", "123456789012345678"),
        ("1.5",),
    ),
    "double": (
        {"type": "number", "minimum": -1.8e308 / 2, "maximum": 1.7976931348623157e308},
        ("-1.5", "1e300"),
        ('"x"',),
    ),
    "float32": ({"type": "number", "minimum": -3.4e38, "maximum": 3.4e38}, ("-1.5", "100000"), ('"x"',)),
    "above the least": ({"type": "number", "minimum": 5e-324, "maximum": 1}, ("0.5",), ("0.0", "0", "2.0")),
    "draft 4 bounds": (
        {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 2, "exclusiveMaximum": False},
        ("2",),
        ("0", "3"),
    ),
    "lengths in floats": ({"type": "string", "minLength": 1.0, "maxLength": 2.0}, ('"ab"',), ('""', '"abc"')),
    "pydantic's set": (
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        ('["a", "b"]', "[]"),
        ("[1]",),
    ),
    "a set of a few": (
        {"type": "array", "items": AB, "uniqueItems": True},
        ('["a"]', '["b", "a"]', '["a", "b"]', "[]"),
        ('["a", "a"]', '["c"]'),
    ),
    "a set of two of a few": (
        {"items": AB, "uniqueItems": True, "minItems": 2, "type": "array"},
        ('["b", "a"]',),
        ("[]", '["a"]', '["a", "a"]'),
    ),
    "a set of switches": (
        {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True},
        ("[true, false]",),
        ("[true, true]",),
    ),
    "a set of seven": (
        {"type": "array", "items": MANY, "uniqueItems": True},
        ('["0", "3", "6"]', "[]"),
        ('["0", "0"]', '["7"]'),
    ),
    "a set of at most one": ({"type": "array", "uniqueItems": True, "maxItems": 1}, ("[1]",), ("[1, 2]",)),
    "names of any text": (
        {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": INT},
        ('{"x": 1}',),
        ('{"x": "y"}',),
    ),
    "a few names": (
        {"type": "object", "propertyNames": AB, "additionalProperties": INT},
        ('{"a": 1}', '{"b": 1}', "{}"),
        ('{"c": 1}', '{"a": ""}'),
    ),
    "names by a pattern": (
        {"type": "object", "propertyNames": {"pattern": "^k"}, "additionalProperties": INT},
        ('{"k1": 1}',),
        ('{"x": 1}',),
    ),
    "short names": (
        {"type": "object", "propertyNames": {"maxLength": 2}, "additionalProperties": INT},
        ('{"ab": 1}',),
        ('{"abc": 1}',),
    ),
    "nothing unevaluated": (
        {"type": "object", "properties": {"a": INT}, "unevaluatedProperties": False},
        ('{"a": 1}',),
        ('{"a": 1, "b": 1}',),
    ),
    "no items unevaluated": ({"type": "array", "prefixItems": [INT], "unevaluatedItems": False}, ("[1]",), ("[1, 1]",)),
    "contains anything": ({"type": "array", "contains": True}, ("[1]",), ("[]",)),
    "draft 7 tuple": (
        {"type": "array", "items": [INT, AB], "additionalItems": False, "minItems": 2},
        ('[1, "a"]',),
        ('[1, "c"]', "[1]"),
    ),
    "one of by a property": (
        {"oneOf": [CAT, DOG]},
        ('{"kind": "cat", "n": 1}', '{"kind": "dog", "n": 1}'),
        ('{"kind": "cow", "n": 1}',),
    ),
    "pydantic's Decimal": (
        {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"},
        ('"1.5"', '"-.5"', '"007"'),
        ('"."', '""', '"+"', '"x"'),
    ),
    "Decimal of places": (
        {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d{0,2}0*$"},
        ('"1.55"', '"1.5500"'),
        ('"1.555"', '"."'),
    ),
    "Decimal of digits": (
        {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,3}|(?=[\d.]{1,4}0*$)\d*\.\d*0*$)"},
        ('"123"', '"1.23"', '"0.5000"'),
        ('"1234"', '"12.34"'),
    ),
    "Decimal of digits and places": (
        {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,3}|(?=[\d.]{1,6}0*$)\d{0,3}\.\d{0,2}0*$)"},
        ('"123.45"', '"-1"'),
        ('"1234"', '"1.234"'),
    ),
    "a password": (
        {"type": "string", "pattern": r"^(?=.*[A-Z])(?=.*\d)[A-Za-z\d]{4,}$"},
        ('"Abc1"', '"1ABC"'),
        ('"abc1"', '"ABCD"', '"A1"'),
    ),
    "not empty": ({"type": "string", "pattern": r"^(?!$)[a-z]*$"}, ('"a"',), ('""',)),
    "Python's end": ({"type": "string", "pattern": r"\A[a-z]+\Z"}, ('"a"',), ('"A"', '""')),
    "JavaScript's slashes": ({"type": "string", "pattern": r"^a\/b\-c$"}, ('"a/b-c"',), ('"a"',)),
}


@pytest.mark.parametrize("name", RESTATED)
async def test_what_the_compiler_has_no_word_for_is_said_otherwise(made: Compiler, name: str) -> None:
    schema, good, bad = RESTATED[name]
    text = json.dumps(holding(schema))
    for value, fits in [*((value, True) for value in good), *((value, False) for value in bad)]:
        assert made.takes(await made.mask(K.JSON_SCHEMA, text), as_p(value)) is fits, value


async def test_the_same_holds_behind_a_reference_and_in_lark(made: Compiler) -> None:
    for schema, good, bad in (RESTATED["a set of a few"], RESTATED["int64"], RESTATED["a few names"]):
        referred = {"$defs": {"X": schema, "unused": {"$ref": "#/$defs/X"}}, **holding({"$ref": "#/$defs/X"})}
        for kind, text in (
            (K.JSON_SCHEMA, json.dumps(referred)),
            (K.LARK, f"start: %json {json.dumps(holding(schema))}"),
        ):
            assert made.takes(await made.mask(kind, text), as_p(good[0]))
            assert not made.takes(await made.mask(kind, text), as_p(bad[0]))
    named = {"$defs": {"AB": AB}, **holding({"type": "array", "items": {"$ref": "#/$defs/AB"}, "uniqueItems": True})}
    assert not made.takes(await made.mask(K.JSON_SCHEMA, json.dumps(named)), as_p('["a", "a"]'))


async def test_what_is_not_kept_to_is_named(made: Compiler) -> None:
    free = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    email = {"type": "string", "format": "email", "pattern": r"^(?!\.)(?!.*\.\.)[a-z.]+@[a-z.]+$"}
    schema = {"type": "object", "properties": {"a": free, "b": {"anyOf": [free, email]}, "名": AB}}
    grammar = Grammar(K.JSON_SCHEMA, json.dumps(schema), ("response_format",))
    await made.compiler.compile(grammar)
    assert set(made.compiler.given_up(grammar)) == {
        "response_format.properties.a.uniqueItems",
        "response_format.properties.b.anyOf[0].uniqueItems",
        "response_format.properties.b.anyOf[1].pattern",
    }
    offered = [Tool("f", None, "{}", "tools[0]"), Tool("g", None, json.dumps(schema), "tools[1].function.parameters")]
    calls = tool_grammar(offered, None, parallel=True)
    await made.compiler.compile(calls)
    assert "tools[1].function.parameters.properties.a.uniqueItems" in made.compiler.given_up(calls)
    kept = Grammar(K.JSON_SCHEMA, json.dumps(holding(AB)))
    await made.compiler.compile(kept)
    assert made.compiler.given_up(kept) == ()


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


class Node(BaseModel):
    value: bool
    children: list[Node] = Field(max_length=2)


TYPES: dict[str, Any] = {
    "Decimal": condecimal(gt=decimal.Decimal(0)),
    "set": set[int],
    "set of an enum": set[Colour],
    "frozenset": frozenset[bool],
    "dict": dict[str, int],
    "dict by an enum": dict[Colour, int],
    "dict of models": dict[Annotated[str, Field(max_length=3)], Cat],
    "dict by a pattern": dict[Annotated[str, Field(pattern="^k")], int],
    "Optional": int | None,
    "Enum": Colour,
    "datetime": datetime.datetime,
    "date": datetime.date,
    "UUID": uuid.UUID,
    "constr": constr(min_length=1, max_length=4, pattern="^a+$"),
    "conint": conint(gt=0, le=2**63),
    "Literal": Literal["甲", 1, None],
    "recursive": Node,
    "tuple": tuple[int, bool],
    "union": Cat | Dog,
    "discriminated union": Annotated[Cat | Dog, Field(discriminator="kind")],
    "described": Annotated[
        int, Field(description="x", examples=[1], deprecated=True, json_schema_extra={"x-order": 1})
    ],
    "nested": list[dict[str, list[Colour]]],
}


@pytest.mark.parametrize("name", TYPES)
async def test_replies_fit_pydantics_types_through_openais_helper(made: Compiler, name: str) -> None:
    """Random tokens stand in for the worst of models."""
    model = create_model("Model", field=(TYPES[name], ...))
    for schema in (to_strict_json_schema(model), model.model_json_schema()):
        for seed in range(3):
            text = made.write(await made.mask(K.JSON_SCHEMA, json.dumps(schema)), seed)
            if name == "Decimal" and '"field": "' in text:
                # A text of any kind, says pydantic's own schema.
                continue
            assert model.model_validate_json(text), text


FAULTS: dict[str, tuple[Any, str, str]] = {
    "a word": ({"not": {"type": "string"}}, "$.properties.p.not", "不支持"),
    "a pattern": ({"type": "string", "pattern": "(?!a)b"}, "$.properties.p.pattern", "正则"),
    "a boundary": ({"type": "string", "pattern": r"\bfoo\b"}, "$.properties.p.pattern", "正则"),
    "a type": ({"type": "SECRET"}, "$.properties.p.type", "不对"),
    "in a list": (
        {"anyOf": [{"type": "null"}, {"type": "array", "items": {"contains": INT}}]},
        "$.properties.p.anyOf[1].items.contains",
        "不支持",
    ),
    "behind a reference": ({"$ref": "#/$defs/X"}, "$.$defs.X.properties.q.not", "不支持"),
    "overlapping": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "$.properties.p.oneOf", "anyOf"),
    "nothing fits": ({"type": "integer", "minimum": 5, "maximum": 1}, "$.properties.p", "满足"),
    "elsewhere": ({"$ref": "http://127.0.0.1/SECRET"}, "$.properties.p.$ref", "自己里面"),
    "a condition": ({"if": {"type": "object"}, "then": {"required": ["x"]}}, "$.properties.p.if", "不支持"),
    "a negative length": ({"type": "string", "minLength": -1}, "$.properties.p.minLength", "不对"),
    "names": ({"type": "object", "patternProperties": {"^(?!x)a": INT}}, "$.properties.p.patternProperties", "正则"),
    "a divisor": ({"type": "integer", "multipleOf": 999983}, "$.properties.p.multipleOf", "multipleOf"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_what_cannot_be_compiled_is_refused_by_its_place(made: Compiler, name: str) -> None:
    schema, place, why = FAULTS[name]
    whole = {"$defs": {"X": {"type": "object", "properties": {"q": {"not": AB}}}}, **holding(schema)}
    with pytest.raises(InvalidRequest, match=re.escape(why)) as refused:
        await made.compiler.compile(Grammar(K.JSON_SCHEMA, json.dumps(whole), ("text.format.schema",)))
    assert f" {place} " in refused.value.message
    assert "SECRET" not in refused.value.message
    assert refused.value.param == "text.format.schema"
    if name != "a divisor":
        tools = [
            Tool("f", None, "{}", "tools[0].parameters"),
            Tool("g", None, json.dumps(whole), "tools[1].parameters"),
        ]
        with pytest.raises(InvalidRequest, match=re.escape(place)) as refused:
            await made.compiler.compile(tool_grammar(tools, None, parallel=True))
        assert refused.value.param == "tools[1].parameters"


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "a divisor"])
async def test_what_cannot_be_compiled_is_given_up_where_that_is_set(loose: Compiler, name: str) -> None:
    schema, place, _ = FAULTS[name]
    whole = {"$defs": {"X": {"type": "object", "properties": {"q": {"not": AB}}}}, **holding(schema)}
    grammar = Grammar(K.JSON_SCHEMA, json.dumps(whole), ("format",))
    assert set(json.loads(loose.write(await loose.mask(K.JSON_SCHEMA, grammar.text), 1))) == {"p"}
    assert loose.compiler.given_up(grammar)[0].startswith(f"format{place[1:]}")


async def test_names_in_a_place_are_short_and_printable(made: Compiler) -> None:
    schema: dict[str, Any] = {"not": {}}
    for name in ("x" * 5000, "a\nb\x1b", *"abcdefgh"):
        schema = {"type": "object", "properties": {name: schema}, "required": [name]}
    with pytest.raises(InvalidRequest) as refused:
        await made.mask(K.JSON_SCHEMA, json.dumps(schema))
    assert len(refused.value.message) < 300
    assert refused.value.message.isprintable()
