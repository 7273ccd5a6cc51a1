"""Parts of a JSON schema, and what they refer to, as far as that can be read without a compiler."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

Schema = dict[str, Any]
_ASSERTIONS: Final = frozenset(
    ("type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength",
     "minLength", "pattern", "format", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains", "contains",
     "prefixItems", "items", "additionalItems", "unevaluatedItems", "maxProperties", "minProperties", "required",
     "dependentRequired", "dependencies", "properties", "patternProperties", "additionalProperties", "propertyNames",
     "unevaluatedProperties", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "$ref",
     "$dynamicRef", "$recursiveRef")
)  # fmt: skip
# Values, not schemas: nothing in them is a keyword.
_VALUES: Final = frozenset(("enum", "const", "default", "examples", "example"))
# Maps from names that callers choose to schemas.
_NAMED: Final = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
# Of a caller's own names, so that a message stays short whatever they are.
_LONGEST_STEP: Final = 40
_MOST_STEPS: Final = 12
_MOST_VALUES: Final = 1000
_MOST_WRITTEN: Final = 100_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands in a schema, as a chain: most places are never told. ``str`` is ``$.properties.a.items``.

    ``depth`` counts schemas and lists, 1 at the top; a map from names to schemas is no level of its own.
    """

    above: Place | None = None
    step: str | int = ""
    depth: int = 1

    def under(self, step: str | int) -> Place:
        return Place(self, step, self.depth + 1)

    def steps(self) -> list[str | int]:
        """From the top."""
        return [place.step for place in self._chain() if place.above is not None][::-1]

    def _chain(self) -> Iterator[Place]:
        place: Place | None = self
        while place is not None:
            yield place
            place = place.above

    def __str__(self) -> str:
        steps = self.steps()
        shown = ["…"] * (len(steps) > _MOST_STEPS) + [_shown(step) for step in steps[-_MOST_STEPS:]]
        return "$" + "".join(shown)


def remove(schema: Schema, place: Place, keyword: str | None) -> None:
    """Takes a keyword of the part at ``place`` out, or all of them."""
    part: Any = schema
    for step in place.steps():
        part = part[step]
    if keyword is None:
        part.clear()
    else:
        del part[keyword]


def _shown(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    plain = "".join(letter if letter.isprintable() else "?" for letter in step[:_LONGEST_STEP])
    return "." + plain + "…" * (len(step) > _LONGEST_STEP)


def inside(value: Any, place: Place) -> Iterator[tuple[Any, Place]]:
    """The values of a schema, or of a list of them, that may be schemas."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield item, place.under(index)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in _NAMED and isinstance(item, dict):
                named = Place(place, key, place.depth)
                for name, schema in item.items():
                    yield schema, named.under(name)
            elif key not in _VALUES:
                yield item, place.under(key)


def is_anything(schema: Any) -> bool:
    return schema is True or (isinstance(schema, dict) and not _ASSERTIONS & schema.keys())


def assertions(schema: Schema) -> Schema:
    """What of it restricts anything."""
    return {key: value for key, value in schema.items() if key in _ASSERTIONS and value is not None}


def said(schema: Any, root: Schema) -> Schema:
    """The assertions of a schema, its own or, if it has none, those it refers to."""
    for _ in range(20):
        if not isinstance(schema, dict):
            return {} if schema is True else {"not": {}}
        own = assertions(schema)
        if own.keys() != {"$ref"}:
            return own
        schema = resolved(own["$ref"], root)
    return {"not": {}}


def resolved(reference: Any, root: Schema) -> Any:
    """What a reference inside the same schema points at; None if it is none or points at nothing."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    value: Any = root
    for step in _steps(reference):
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            return None
    return value


def place_of(reference: str) -> Place:
    """Where a reference inside the same schema points."""
    place = Place()
    for step in _steps(reference):
        place = place.under(step)
    return place


def _steps(reference: str) -> Iterator[str]:
    for step in reference.removeprefix("#").split("/")[1:]:
        plain = re.sub(r"%([0-9A-Fa-f]{2})", lambda found: chr(int(found[1], 16)), step)
        yield plain.replace("~1", "/").replace("~0", "~")


class Room:
    """What one schema may cost, in characters written and values looked at: what is written out here may be referred
    to from thousands of places."""

    def __init__(self) -> None:
        self._left = _MOST_WRITTEN

    def spend(self, cost: int) -> bool:
        """Whether there was room for it. Asks for nothing where there was none."""
        if cost > self._left:
            return False
        self._left -= cost
        return True


def values_within(schema: Any, root: Schema, room: Room) -> list[Any] | None:
    """As ``finite``, while there is room."""
    values = finite(schema, root) if room.spend(1) else None
    return values if values is None or room.spend(len(values)) else None


def finite(schema: Any, root: Schema) -> list[Any] | None:
    """The values of a schema that lists them; None if it does not, or lists too many."""
    own = said(schema, root)
    if not own.keys() <= {"const", "enum", "type"}:
        return None
    match own:
        case {"const": value}:
            values = [value]
        case {"enum": [*listed]} if len(listed) <= _MOST_VALUES:
            values = listed
        case {"type": "boolean"}:
            values = [False, True]
        case {"type": "null"}:
            values = [None]
        case _:
            return None
    kinds = own.get("type")
    wanted = kinds if isinstance(kinds, list) else [kinds]
    unique = {json.dumps(value, sort_keys=True): value for value in values}
    return [value for value in unique.values() if kinds is None or any(_is_a(value, kind) for kind in wanted)]


def _is_a(value: Any, kind: Any) -> bool:
    match value:
        case None:
            return bool(kind == "null")
        case bool():
            return bool(kind == "boolean")
        case int() | float():
            return kind == "number" or (kind == "integer" and float(value).is_integer())
        case str():
            return bool(kind == "string")
    return bool(kind == ("array" if isinstance(value, list) else "object"))
