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

from llguidance import LLMatcher, LLParserLimits

from qqvl_server.generation.constraints.subschema import Place, Schema, assertions, inside, place_of, resolved

_SHARED: Final = ("$defs", "definitions", "components", "x-guidance")
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


def fault_in(root: Schema, limits: LLParserLimits, deadline: float) -> Fault | None:
    """
    Args:
        limits: of each compile.
        deadline: on this thread's clock; past it the part that was found so far is named.

    Returns:
        None where it can be compiled.
    """
    return _Search(root, limits, deadline).fault()


class _Search:
    def __init__(self, root: Schema, limits: LLParserLimits, deadline: float) -> None:
        self._root = root
        self._limits = limits
        self._deadline = deadline
        self._sought = self._error(root)

    def fault(self) -> Fault | None:
        if not self._sought:
            return None
        place, part = self._smallest()
        return Fault(place, self._keyword(part), self._sought)

    def _smallest(self) -> tuple[Place, Schema]:
        place, part = Place(), self._root
        seen = {id(part)}
        while True:
            for child, where in _children(part, place, self._root):
                if self._is_late():
                    return place, part
                if id(child) not in seen and self._is_in(child):
                    place, part = where, child
                    seen.add(id(child))
                    break
            else:
                return place, part

    def _keyword(self, part: Schema) -> str | None:
        own = assertions(part)
        if "nsatisfiable" in self._sought and len(own) > 1:
            # Each by itself can be satisfied.
            return None
        told: list[str] = _QUOTED.findall(self._sought) if "Unimplemented keys" in self._sought else []
        if (named := next((key for key in told if key in own), None)) is not None:
            return named
        for key in own:
            if self._is_late():
                break
            if not self._is_in({name: value for name, value in part.items() if name != key}):
                return key
        return None

    def _is_in(self, part: Schema) -> bool:
        """Whether the part, beside what it may refer to, fails by itself as the whole does."""
        shared = {key: self._root[key] for key in _SHARED if key in self._root}
        error = self._error(shared | part)
        return error == self._sought or ("nsatisfiable" in error and "nsatisfiable" in self._sought)

    def _error(self, schema: Schema) -> str:
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
            return LLMatcher.validate_grammar(grammar, limits=self._limits)
        except ValueError as error:
            return str(error) or "invalid"

    def _is_late(self) -> bool:
        return time.thread_time() > self._deadline


def _children(value: Any, place: Place, root: Schema) -> Iterator[tuple[Schema, Place]]:
    """The schemas right inside one, and the one it refers to; definitions that nobody refers to are never compiled."""
    for item, where in inside(assertions(value) if isinstance(value, dict) else value, place):
        if isinstance(item, dict):
            yield item, where
        elif isinstance(item, list):
            yield from _children(item, where, root)
    if isinstance(value, dict) and isinstance(target := resolved(value.get("$ref"), root), dict):
        yield target, place_of(value["$ref"])
