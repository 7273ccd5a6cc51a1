"""Which part of a JSON schema the grammar compiler cannot take: it says why, but not where.

Found by compiling parts alone, from the top down. Costs as many compiles as there are parts on the way; only ever
done after a failure, on the compiler's threads, whose stacks are deep.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from llguidance import LLMatcher

from qqvl_server.generation.constraints.subschema import Place, Schema, assertions, inside, place_of, resolved

# Of one thread's time. Past it the part that was found so far is named.
_PATIENCE_S: Final = 1.0
_QUOTED: Final = re.compile(r'"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Fault:
    """``part`` is the smallest schema that cannot be compiled, ``error`` the compiler's own words.

    ``keyword`` of it is to blame, if one alone is.
    """

    part: Place
    keyword: str | None
    error: str

    @property
    def place(self) -> Place:
        return self.part if self.keyword is None else self.part.under(self.keyword)


def fault_in(root: Schema) -> Fault | None:
    """None: it can be compiled."""
    error = _error(root)
    if not error:
        return None
    place, part = _located(root, error)
    return Fault(place, _keyword(part, root, error), error)


def _located(root: Schema, error: str) -> tuple[Place, Schema]:
    deadline = time.thread_time() + _PATIENCE_S
    place, part = Place(), root
    seen = {id(root)}
    while True:
        for child, where in _children(part, place, root):
            if time.thread_time() > deadline:
                return place, part
            if id(child) not in seen and _is_same(_error(_alone(child, root)), error):
                place, part = where, child
                seen.add(id(child))
                break
        else:
            return place, part


def _children(value: Any, place: Place, root: Schema) -> Iterator[tuple[Schema, Place]]:
    """The schemas right inside one, and the one it refers to; definitions that nobody refers to are never compiled."""
    for item, where in inside(assertions(value) if isinstance(value, dict) else value, place):
        if isinstance(item, dict):
            yield item, where
        elif isinstance(item, list):
            yield from _children(item, where, root)
    if isinstance(value, dict) and isinstance(target := resolved(value.get("$ref"), root), dict):
        yield target, place_of(value["$ref"])


def _alone(part: Schema, root: Schema) -> Schema:
    """A part as a schema of its own, beside what it may refer to."""
    return {key: root[key] for key in ("$defs", "definitions", "components", "x-guidance") if key in root} | part


def _keyword(part: Schema, root: Schema, error: str) -> str | None:
    if "nsatisfiable" in error and len(assertions(part)) > 1:
        # Each by itself can be satisfied.
        return None
    told: list[str] = _QUOTED.findall(error) if "Unimplemented keys" in error else []
    if (named := next((key for key in told if key in part), None)) is not None:
        return named
    for key in part:
        if not _is_same(_error(_alone({name: value for name, value in part.items() if name != key}, root)), error):
            return key
    return None


def _is_same(error: str, other: str) -> bool:
    return error == other or ("nsatisfiable" in error and "nsatisfiable" in other)


def _error(schema: Schema) -> str:
    try:
        return LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    except ValueError as error:
        return str(error) or "invalid"
