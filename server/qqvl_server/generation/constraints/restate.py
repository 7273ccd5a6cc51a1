"""What a JSON schema says in words that the grammar compiler lacks, said in words that it has, one object at a time.

Words that restrict nothing are dropped. What is put otherwise lets in the same values, or fewer; where neither can be
done and most of the sense remains, a word is given up by name (``uniqueItems`` of free texts). Source: JSON Schema
2020-12 and its forerunners, OpenAPI 3.0, what pydantic, zod and the like write.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from qqvl_server.generation.constraints import patterns
from qqvl_server.generation.constraints.subschema import Room, Schema, is_anything, said, values_within

# Formats that the compiler has rules for. Others are annotations by JSON Schema's default, which it would refuse.
FORMATS: Final = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown")
)
_DIALECTS: Final = frozenset(
    [f"http://json-schema.org/draft-0{number}/schema" for number in (4, 6, 7)]
    + [f"https://json-schema.org/draft/{year}/schema" for year in ("2019-09", "2020-12")]
)
_APPLICATORS: Final = frozenset(
    ("allOf", "anyOf", "oneOf", "$ref", "if", "dependentSchemas", "$dynamicRef", "contains")
)
_LENGTHS: Final = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
# No reply is as long, and the compiler counts in regular expressions.
_LONGEST: Final = 10_000_000
# What the compiler can count to: the largest 64-bit integer that is a float, and a float's exact part.
_LARGEST_INTEGER: Final = 2**63 - 1024
_LARGEST_FLOAT: Final = 1e15
_SMALLEST_FLOAT: Final = 1e-9
_NO_LIMIT: Final = 1e300
# RFC 3339 has a year 0, seconds that leap and durations without end, which Python, like most, cannot read.
_YEAR: Final = "^(?:000[1-9]|00[1-9]|0[1-9]|[1-9])"
_READABLE: Final = {
    "date": _YEAR,
    "date-time": f"{_YEAR}[^:]*:[^:]*:[0-5]",
    "time": "^[^:]*:[^:]*:[0-5]",
    "duration": "^P(?:[0-9]{1,4}[YMWD])*(?:T(?:[0-9]{1,4}[HMS])*)?$",
}
# Lists without repeats are written out, in every order if that is not too many, in one order otherwise.
_MOST_LISTS: Final = 400
_MOST_VALUES: Final = 20
_OF_NAMES: Final = frozenset(("type", "pattern", "minLength", "maxLength", "format"))


def restate(schema: Schema, root: Schema, room: Room, give_up: Callable[[str], None]) -> None:
    """Changes ``schema``, an object inside ``root``, in place; nothing below it.

    Args:
        room: shared by all objects of ``root``.
        give_up: is told the keywords that will not be kept to.
    """
    # Some libraries write null for what is absent.
    for key in [key for key, value in schema.items() if value is None and key != "const"]:
        del schema[key]
    if not isinstance(schema.get("format"), str) or schema["format"] not in FORMATS:
        schema.pop("format", None)
    if str(schema.get("$schema", "")).rstrip("#") not in _DIALECTS:
        schema.pop("$schema", None)
    _modernize(schema)
    _bound(schema)
    _measure(schema)
    _drop_idle(schema)
    _close(schema)
    _name(schema, root, room)
    _list_once(schema, root, room, give_up)
    _choose(schema, root, room)
    _spell(schema, give_up)


def _modernize(schema: Schema) -> None:
    """Drafts 3 and 4, and OpenAPI 3.0: words that had another type; and references by their newer name."""
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and bound in schema:
            schema[exclusive] = schema.pop(bound)
    if isinstance(schema.get("required"), bool):
        del schema["required"]
    for older in ("$recursiveRef", "$dynamicRef"):
        if older in schema and "$ref" not in schema:
            schema["$ref"] = schema.pop(older)
    if "$dynamicAnchor" in schema:
        schema.setdefault("$anchor", schema.pop("$dynamicAnchor"))
    schema.pop("$recursiveAnchor", None)
    dependencies = schema.get("dependencies")
    if isinstance(dependencies, dict) and not any(dependencies.values()):
        del schema["dependencies"]


def _bound(schema: Schema) -> None:
    """Bounds that a 64-bit integer or a float has anyway, and such as the compiler cannot count to."""
    integer = is_integer(schema)
    largest: float = _LARGEST_INTEGER if integer else _LARGEST_FLOAT
    for key, sign in (("minimum", -1), ("exclusiveMinimum", -1), ("maximum", 1), ("exclusiveMaximum", 1)):
        bound = schema.get(key)
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            continue
        if bound * sign >= _NO_LIMIT and not integer:
            del schema[key]
        elif bound * sign > largest and not (integer and sign == 1):
            schema[key] = largest * sign
        elif not integer and 0 < abs(bound) < _SMALLEST_FLOAT:
            del schema[key]
            side = key.removeprefix("exclusive").lower()
            schema[f"exclusive{side.capitalize()}" if bound * sign < 0 else side] = 0


def is_integer(schema: Schema) -> bool:
    """Whether its numbers are whole."""
    kinds = schema.get("type")
    return kinds == "integer" or (isinstance(kinds, list) and "integer" in kinds and "number" not in kinds)


def _measure(schema: Schema) -> None:
    for key in _LENGTHS:
        value = schema.get(key)
        if isinstance(value, float) and value.is_integer():
            schema[key] = int(value)
        if key.startswith("max") and isinstance(value, int | float) and value > _LONGEST:
            del schema[key]


def _drop_idle(schema: Schema) -> None:
    """Words that ask for nothing, by their value or for want of the word they belong to."""
    for key in ("dependentRequired", "dependentSchemas", "patternProperties"):
        value = schema.get(key)
        if isinstance(value, dict) and not (any(value.values()) if key == "dependentRequired" else value):
            del schema[key]
    if "contains" in schema and schema.get("minContains") == 0 and "maxContains" not in schema:
        del schema["contains"]
    if "contains" in schema and is_anything(schema["contains"]) and not {"minContains", "maxContains"} & schema.keys():
        del schema["contains"]
        least = schema.get("minItems", 0)
        schema["minItems"] = max(least, 1) if isinstance(least, int) else least
    if "contains" not in schema:
        schema.pop("minContains", None)
        schema.pop("maxContains", None)
    if "if" not in schema or not {"then", "else"} & schema.keys():
        for key in ("if", "then", "else"):
            schema.pop(key, None)
    if schema.get("not") is False:
        del schema["not"]
    for key in ("unevaluatedItems", "unevaluatedProperties", "propertyNames", "items"):
        if key in schema and is_anything(schema[key]):
            del schema[key]


def _close(schema: Schema) -> None:
    """``unevaluated…`` is ``additional…`` where nothing but this object says what there may be."""
    if _APPLICATORS & schema.keys():
        return
    for late, early in (("unevaluatedProperties", "additionalProperties"), ("unevaluatedItems", "items")):
        if late in schema and not isinstance(schema.get(early), list):
            schema.setdefault(early, schema.pop(late))
            schema.pop(late, None)


def _name(schema: Schema, root: Schema, room: Room) -> None:
    """``propertyNames``: a few names are properties, others a pattern of theirs."""
    if "propertyNames" not in schema or "patternProperties" in schema:
        return
    wanted = said(schema["propertyNames"], root)
    names, rest = values_within(wanted, root, room), schema.get("additionalProperties", True)
    properties = schema.get("properties", {})
    pattern = _name_pattern(wanted)
    if not isinstance(properties, dict) or (names is None and (pattern is None or (pattern and properties))):
        return
    if names is not None and not room.spend(len(json.dumps(rest)) * len(names)):
        return
    del schema["propertyNames"]
    if names is not None:
        listed = {name: rest for name in names if isinstance(name, str)}
        schema["properties"] = listed | {name: value for name, value in properties.items() if name in listed}
        schema["additionalProperties"] = False
    elif pattern:
        schema["patternProperties"] = {pattern: rest}
        schema["additionalProperties"] = False


def _name_pattern(wanted: Schema) -> str | None:
    """A regular expression of a schema of texts, empty if it takes any; None if it has none."""
    if wanted.get("type", "string") != "string" or not wanted.keys() <= _OF_NAMES:
        return None
    lengths = wanted.keys() & {"minLength", "maxLength"}
    if "pattern" in wanted:
        spelt = patterns.restated(wanted["pattern"]) if isinstance(wanted["pattern"], str) and not lengths else None
        return spelt[0] if spelt is not None and len(spelt) == 1 else None
    if not lengths:
        return None if str(wanted.get("format")) in FORMATS else ""
    low, high = wanted.get("minLength", 0), wanted.get("maxLength", "")
    return f"^(?s:.{{{low},{high}}})$" if isinstance(low, int) and isinstance(high, int | str) else None


def _list_once(schema: Schema, root: Schema, room: Room, give_up: Callable[[str], None]) -> None:
    """``uniqueItems``: the lists themselves where the items are a few values; given up where they are free."""
    if schema.pop("uniqueItems", False) is not True or schema.get("type", "array") != "array":
        return
    most, least = schema.get("maxItems"), schema.get("minItems", 0)
    if isinstance(most, int) and most <= 1:
        return
    values = (
        None
        if "prefixItems" in schema or _APPLICATORS & schema.keys()
        else values_within(schema.get("items"), root, room)
    )
    if values is None or not isinstance(least, int) or least < 0:
        give_up("uniqueItems")
        return
    schema["maxItems"] = most = min(len(values), most) if isinstance(most, int) else len(values)
    lists = _lists(values, least, most)
    if lists is None or not room.spend(len(lists) * len(json.dumps(values))):
        give_up("uniqueItems")
        return
    described = {"type": "array"} if schema.get("type") == "array" else {}
    for key in ("items", "minItems", "maxItems", "type", "additionalItems"):
        schema.pop(key, None)
    schema |= described | {"enum": lists}


def _lists(values: Sequence[Any], least: int, most: int) -> list[list[Any]] | None:
    """All lists without repeats, or all in one order; None: too many either way."""
    if len(values) > _MOST_VALUES:
        return None
    sizes = range(least, most + 1)
    if sum(math.perm(len(values), size) for size in sizes) <= _MOST_LISTS:
        return [list(picked) for size in sizes for picked in itertools.permutations(values, size)]
    if sum(math.comb(len(values), size) for size in sizes) <= _MOST_LISTS:
        return [list(picked) for size in sizes for picked in itertools.combinations(values, size)]
    return None


def _choose(schema: Schema, root: Schema, room: Room) -> None:
    """``oneOf`` is ``anyOf`` where no value fits two: the compiler does not look through references for that."""
    options = schema.get("oneOf")
    if not isinstance(options, list) or not options or "anyOf" in schema:
        return
    if "discriminator" in schema or _are_disjoint([said(option, root) for option in options], root, room):
        schema["anyOf"] = schema.pop("oneOf")
    schema.pop("discriminator", None)


def _are_disjoint(options: Sequence[Schema], root: Schema, room: Room) -> bool:
    """Told apart by a required property that has other values in each."""
    required = [_required(option) for option in options if room.spend(len(option))]
    if len(required) < len(options) or not all(room.spend(len(names)) for names in required):
        return False
    for name in frozenset.intersection(*required):
        seen: set[str] = set()
        for option in options:
            values = values_within(_of(option, name), root, room)
            spelt = {json.dumps(value, sort_keys=True) for value in values or ()}
            if not spelt or seen & spelt:
                break
            seen |= spelt
        else:
            return True
    return False


def _required(schema: Schema) -> frozenset[str]:
    names = schema.get("required")
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def _of(schema: Schema, name: str) -> Any:
    properties = schema.get("properties")
    return properties.get(name, {}) if isinstance(properties, dict) else {}


def _spell(schema: Schema, give_up: Callable[[str], None]) -> None:
    if (format_ := schema.get("format")) in _READABLE:
        schema.setdefault("pattern", _READABLE[format_])
    pattern, together = schema.get("pattern"), schema.get("allOf", [])
    if not isinstance(pattern, str) or not isinstance(together, list):
        return
    spelt = patterns.restated(pattern)
    if spelt is not None:
        *others, schema["pattern"] = spelt
        if others:
            schema["allOf"] = [*together, *({"pattern": other} for other in others)]
    elif "format" in schema:
        # zod writes both; the format's own rule is the better part of it.
        del schema["pattern"]
        give_up("pattern")
