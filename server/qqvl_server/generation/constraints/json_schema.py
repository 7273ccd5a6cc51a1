"""JSON schemas that callers hand in, fit for the grammar compiler: checked, tightened, rid of what it cannot read.

Knows JSON Schema as llguidance supports it (its docs/json_schema.md); no tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from qqvl_server.errors import InvalidRequest

MAX_DEPTH: Final = 100
# The compiler goes down through references as it does through nesting, 25 kB of stack a level at worst.
MAX_NODES: Final = 5000
# The automaton of a divisor has as many states as the divisor; a million hold a thread for ten seconds.
_LARGEST_DIVISOR: Final = 10_000
_MOST_PLACES: Final = 6
# Others are annotations by JSON Schema's default, which the compiler would refuse.
_FORMATS: Final = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown")
)
# What every client reads exactly: JavaScript's numbers end here.
_LARGEST_INTEGER: Final = 2**53 - 1
_LIMITING: Final = frozenset(
    ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const", "$ref", "allOf")
)
_OPENING: Final = frozenset(("additionalProperties", "patternProperties", "unevaluatedProperties"))
_COMBINING: Final = frozenset(("allOf", "if", "dependentSchemas"))
_CHOOSING: Final = frozenset(("anyOf", "oneOf", "$ref"))
# Values, not schemas: nothing in them is a keyword.
_VALUES: Final = frozenset(("enum", "const", "default", "examples", "example"))
# Maps from names that callers choose to schemas.
_NAMED: Final = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
# As Python's json.dumps and the chat template write JSON; flexible white space lets models ramble without end.
_TIGHT: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def tightened(text: str, *, arguments: bool = False) -> str:
    """A caller's schema as compact JSON that carries the compiler's options.

    Args:
        arguments: it describes a tool's arguments, which are always an object.

    Raises:
        InvalidRequest: not a schema, too deep, or with numbers that would take for ever to compile.
    """
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRequest("JSON schema 不是合法的 JSON，或嵌套太深") from None
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    if not isinstance(schema, dict):
        raise InvalidRequest("JSON schema 应是一个对象")
    if arguments and schema.setdefault("type", "object") != "object":
        raise InvalidRequest('工具的 parameters 应是 {"type": "object"} 的 JSON schema')
    check(schema)
    schema["x-guidance"] = _TIGHT
    return json.dumps(schema, ensure_ascii=False)


def check(root: Any) -> None:
    """Refuses what would break the compiler.

    In place it drops formats that the compiler has no rule for, bounds integers, and closes objects.

    Raises:
        InvalidRequest: too deep, too large, or with numbers that would take for ever to compile.
    """
    divisor = 1
    nodes = 0
    objects: list[dict[str, Any]] = []
    composed = False
    waiting: list[tuple[Any, int]] = [(root, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"JSON schema 嵌套太深，最多 {MAX_DEPTH} 层")
        if isinstance(value, list):
            waiting += [(item, depth + 1) for item in value]
        elif isinstance(value, dict):
            nodes += 1
            if nodes > MAX_NODES:
                raise InvalidRequest(f"JSON schema 太大，最多 {MAX_NODES} 个对象")
            _drop_unknown_format(value)
            _bound_integer(value)
            if isinstance(value.get("properties"), dict):
                objects.append(value)
            composed = composed or _composes(value)
            divisor = math.lcm(divisor, _divisor(value.get("multipleOf")))
            if divisor > _LARGEST_DIVISOR:
                raise InvalidRequest(f"JSON schema 的 multipleOf 太细或太大（有效数字合起来不超过 {_LARGEST_DIVISOR}）")
            waiting += [(item, depth + 1) for item in _subschemas(value)]
    if not composed:
        for schema in objects:
            # JSON Schema lets any other key in; whoever lists the keys means these, and a model would ramble on.
            if not _OPENING & schema.keys():
                schema["additionalProperties"] = False


def _composes(schema: dict[str, Any]) -> bool:
    """Whether an object's keys may be described in several places, so that none of them knows all."""
    return bool(_COMBINING & schema.keys()) or ("properties" in schema and bool(_CHOOSING & schema.keys()))


def _subschemas(schema: dict[str, Any]) -> Iterator[Any]:
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, dict):
            yield from value.values()
        elif key not in _VALUES:
            yield value


def _drop_unknown_format(schema: dict[str, Any]) -> None:
    wanted = schema.get("format")
    if isinstance(wanted, str) and wanted not in _FORMATS:
        del schema["format"]


def _bound_integer(schema: dict[str, Any]) -> None:
    """Without bounds a model that rambles writes digits until its tokens run out, and no client could read them."""
    kinds = schema.get("type")
    integer = kinds == "integer" or (isinstance(kinds, list) and "integer" in kinds and "number" not in kinds)
    if integer and not _LIMITING & schema.keys():
        schema["minimum"], schema["maximum"] = -_LARGEST_INTEGER, _LARGEST_INTEGER


def _divisor(value: object) -> int:
    """The digits of a divisor without its decimal point, or 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return 1
    if value > _LARGEST_DIVISOR:
        return _LARGEST_DIVISOR + 1
    number = Decimal(repr(value)).normalize()
    places = max(-int(number.as_tuple().exponent), 0)
    return int(number.scaleb(places)) if places <= _MOST_PLACES else _LARGEST_DIVISOR + 1
