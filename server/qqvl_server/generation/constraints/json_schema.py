"""JSON schemas that callers hand in, fit for the grammar compiler: checked, tightened, restated.

Knows JSON Schema as llguidance supports it (its docs/json_schema.md); no tokens.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.constraints.restate import is_integer, restate
from qqvl_server.generation.constraints.subschema import Place, Room, inside

MAX_DEPTH: Final = 100
# The compiler goes down through references as it does through nesting, 25 kB of stack a level at worst.
MAX_NODES: Final = 5000
# The automaton of a divisor has as many states as the divisor; a million hold a thread for ten seconds.
_LARGEST_DIVISOR: Final = 10_000
_MOST_PLACES: Final = 6
# What every client reads exactly: JavaScript's numbers end here.
_LARGEST_INTEGER: Final = 2**53 - 1
_LIMITING: Final = frozenset(
    ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const", "$ref", "allOf")
)
_OPENING: Final = frozenset(("additionalProperties", "unevaluatedProperties"))
_LISTING: Final = frozenset(("properties", "patternProperties"))
_COMBINING: Final = frozenset(("allOf", "if", "dependentSchemas"))
_CHOOSING: Final = frozenset(("anyOf", "oneOf", "$ref"))
# As Python's json.dumps and the chat template write JSON; flexible white space lets models ramble without end.
_TIGHT: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True, slots=True)
class Tight:
    """A schema as the compiler takes it: JSON with its options. ``given_up`` are the paths of what is not kept to."""

    text: str
    given_up: tuple[str, ...]


def tightened(text: str, *, arguments: bool = False) -> Tight:
    """
    Args:
        text: a caller's schema.
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
    given_up = check(schema)
    schema["x-guidance"] = _TIGHT
    return Tight(json.dumps(schema, ensure_ascii=False), given_up)


def check(root: Any) -> tuple[str, ...]:
    """Refuses what would break the compiler.

    In place it restates what the compiler has no word for, bounds integers, and closes objects.

    Returns:
        the paths of what is not kept to.

    Raises:
        InvalidRequest: too deep, too large, or with numbers that would take for ever to compile.
    """
    divisor = 1
    room = Room()
    given_up: list[str] = []
    nodes = 0
    objects: list[dict[str, Any]] = []
    composed = False
    waiting: list[tuple[Any, Place]] = [(root, Place())]
    while waiting:
        value, place = waiting.pop()
        if place.depth > MAX_DEPTH:
            raise InvalidRequest(f"JSON schema 嵌套太深，最多 {MAX_DEPTH} 层")
        if isinstance(value, dict):
            nodes += 1
            if nodes > MAX_NODES:
                raise InvalidRequest(f"JSON schema 太大，最多 {MAX_NODES} 个对象")
            composed = composed or _composes(value)
            restate(value, root, room, lambda key, place=place: given_up.append(str(place.under(key))))  # type: ignore[misc]
            _bound_integer(value)
            if isinstance(value.get("properties", value.get("patternProperties")), dict):
                objects.append(value)
            divisor = math.lcm(divisor, _divisor(value.get("multipleOf")))
            if divisor > _LARGEST_DIVISOR:
                raise InvalidRequest(
                    f"JSON schema 的 {place.under('multipleOf')} 太细或太大（有效数字合起来不超过 {_LARGEST_DIVISOR}）"
                )
        waiting += inside(value, place)
    if not composed:
        for schema in objects:
            # JSON Schema lets any other key in; whoever lists the keys means these, and a model would ramble on.
            if not _OPENING & schema.keys():
                schema["additionalProperties"] = False
    return tuple(given_up)


def _composes(schema: dict[str, Any]) -> bool:
    """Whether an object's keys may be described in several places, so that none of them knows all."""
    return bool(_COMBINING & schema.keys()) or (bool(_LISTING & schema.keys()) and bool(_CHOOSING & schema.keys()))


def _bound_integer(schema: dict[str, Any]) -> None:
    """Without bounds a model that rambles writes digits until its tokens run out, and no client could read them."""
    if is_integer(schema) and not _LIMITING & schema.keys():
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
