"""Grammars in their callers' spellings become llguidance's, and its refusals become words of ours."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from llguidance import LLMatcher, LLParserLimits
from llguidance.gbnf_to_lark import gbnf_to_lark

from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.constraints.diagnosis import Fault, fault_in
from qqvl_server.generation.constraints.json_schema import check, tightened
from qqvl_server.generation.constraints.subschema import Place, remove
from qqvl_server.generation.port import Grammar, GrammarKind

# Converted by plain Python that holds the interpreter.
_MAX_EBNF_CHARACTERS: Final = 32_000
_MOST_GIVEN_UP: Final = 20
# Of a compiler thread's time, for finding what is wrong.
_SEARCH_S: Final = 1.0
TOO_COMPLEX: Final = "约束输出的 schema 或文法太大或太复杂"
_RULE: Final = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)
# The name, but not the word inside a text or a set of characters.
_START: Final = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|(?<![\w-])start(?![\w-])')
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_INLINE_SCHEMA: Final = re.compile(r"%json\s*")


@dataclass(frozen=True, slots=True)
class Source:
    """A grammar as the library takes it. A schema is one; Lark may hold some.

    ``given_up`` are the places of what is not kept to, each with the number of its schema.
    """

    kind: GrammarKind
    text: str
    given_up: tuple[tuple[int, str], ...] = ()

    def grammar(self) -> str:
        return LLMatcher.grammar_from_json_schema(self.text) if self.kind is GrammarKind.JSON_SCHEMA else self.text

    def fault(self, limits: LLParserLimits, deadline: float) -> tuple[int, Fault] | None:
        """The first schema that cannot be compiled, by its number; as ``fault_in``."""
        for number, (_, _, schema) in enumerate(self._schemas()):
            if isinstance(schema, dict) and (fault := fault_in(schema, limits, deadline)) is not None:
                return number, fault
        return None

    def without(self, number: int, fault: Fault) -> Source:
        """The same but for one part of a schema."""
        start, end, schema = self._schemas()[number]
        remove(schema, fault.part, fault.keyword)
        text = self.text[:start] + json.dumps(schema, ensure_ascii=False) + self.text[end:]
        return replace(self, text=text, given_up=(*self.given_up, (number, str(fault.place))))

    def _schemas(self) -> list[tuple[int, int, Any]]:
        match self.kind:
            case GrammarKind.JSON_SCHEMA:
                return [(0, len(self.text), json.loads(self.text))]
            case GrammarKind.LARK:
                return list(_inline_schemas(self.text))
        return []


@dataclass(frozen=True, slots=True)
class Compiled:
    """``given_up`` are places of what is not kept to, each with the number of its schema."""

    matcher: LLMatcher
    given_up: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Why, and the number of the schema that is to blame."""

    message: str
    number: int = 0


def compiled(
    grammar: Grammar, match: Callable[[str], LLMatcher], limits: LLParserLimits, *, is_loose: bool
) -> Compiled | Refused:
    """
    Args:
        match: makes a matcher of the library's spelling.
        limits: those of the matcher.
        is_loose: what of a schema cannot be compiled is given up instead of refused.
    """
    deadline = time.thread_time() + _SEARCH_S
    try:
        source = source_of(grammar)
        matcher = match(source.grammar())
        for _ in range(_MOST_GIVEN_UP):
            if not matcher.is_error() or is_too_complex(matcher.get_error()):
                break
            found = source.fault(limits, deadline)
            if found is None or time.thread_time() > deadline + _SEARCH_S:
                break
            number, fault = found
            if not is_loose:
                return Refused(reason(grammar.kind, fault.error, fault.place), number)
            source = source.without(number, fault)
            matcher = match(source.grammar())
    except InvalidRequest as error:
        return Refused(error.message)
    except ValueError:
        return Refused(reason(grammar.kind, ""))
    if matcher.is_error():
        return Refused(reason(grammar.kind, matcher.get_error()))
    return Compiled(matcher, source.given_up)


def source_of(grammar: Grammar) -> Source:
    """
    Raises:
        InvalidRequest: it cannot be a grammar of its kind.
        ValueError: likewise, found by the library.
    """
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            tight = tightened(grammar.text)
            return Source(grammar.kind, tight.text, tuple((0, place) for place in tight.given_up))
        case GrammarKind.REGEX:
            return Source(grammar.kind, _regex_source(grammar.text))
        case GrammarKind.CHOICE:
            return Source(grammar.kind, _choice_source(grammar.text))
        case GrammarKind.LARK:
            return _grammar_source(grammar.text)


def _inline_schemas(text: str) -> Iterator[tuple[int, int, Any]]:
    """Where the schemas inside Lark begin and end, and they themselves. Raises InvalidRequest: one is no JSON."""
    end = 0
    while (found := _INLINE_SCHEMA.search(text, end)) is not None:
        try:
            value, end = json.JSONDecoder().raw_decode(text, found.end())
        except (ValueError, RecursionError):
            raise InvalidRequest("文法里 %json 后面应紧跟一个 JSON schema") from None
        yield found.end(), end, value


def _regex_source(text: str) -> str:
    """``\\d`` as JSON schemas and other servers have it: ten digits, not every script's."""
    return LLMatcher.grammar_from_regex(_ESCAPED.sub(lambda found: "[0-9]" if found[1] == "d" else found[0], text))


def _choice_source(text: str) -> str:
    try:
        choices = json.loads(text)
    except (ValueError, RecursionError):
        choices = None
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise InvalidRequest("choice 应是一个非空的字符串列表")
    return LLMatcher.grammar_from_regex("|".join(_literal(choice) for choice in choices))


def _literal(text: str) -> str:
    return "".join(c if c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


def _grammar_source(text: str) -> Source:
    """Lark as it is; ``::=`` rules (GBNF, EBNF as vLLM's clients write it) converted, from ``root`` or ``start`` on."""
    if _RULE.search(text) is None:
        return _restated(text)
    if len(text) > _MAX_EBNF_CHARACTERS:
        raise InvalidRequest(f"EBNF 文法太长，最多 {_MAX_EBNF_CHARACTERS} 个字符")
    if re.search(r"^\s*root\s*::=", text, re.MULTILINE) is None:
        text = _START.sub(lambda found: "root" if found[0] == "start" else found[0], text)
    try:
        lark = gbnf_to_lark(text)
    except Exception:
        # The converter raises bare Exception for whatever it cannot read.
        raise InvalidRequest(reason(GrammarKind.LARK, "")) from None
    return Source(GrammarKind.LARK, lark)


def _restated(lark: str) -> Source:
    """Lark with the schemas inside it as the compiler takes them; those that carry its options are so already."""
    pieces, given_up, before = [], [], 0
    for number, (start, end, schema) in enumerate(_inline_schemas(lark)):
        if isinstance(schema, dict) and "x-guidance" in schema:
            check(schema)
            continue
        given_up += [(number, place) for place in check(schema)]
        pieces += [lark[before:start], json.dumps(schema, ensure_ascii=False)]
        before = end
    return Source(GrammarKind.LARK, "".join([*pieces, lark[before:]]), tuple(given_up))


def reason(kind: GrammarKind, error: str, place: Place | None = None) -> str:
    """Why, in words of our own: the library's messages quote the caller's text. ``place`` is where in a schema."""
    where = "JSON schema " if place is None else f"JSON schema 的 {place} "
    if "Unimplemented keys" in error:
        return f"{where}是不支持的关键字（is not supported）"
    if "oneOf" in error:
        return f"{where}各项有重叠，不支持；请改用 anyOf（overlaps, use anyOf）"
    if "not present in a registry" in error:
        return f"{where}只能指向它自己里面的定义（must point inside the schema）"
    if "nsatisfiable" in error:
        return f"{where}没有任何值能满足（cannot be satisfied）"
    if "regex for" in error:
        return f"{where}的范围太大，编译不了（is too wide a range）"
    if is_too_complex(error):
        return TOO_COMPLEX
    if kind is GrammarKind.REGEX or "regex" in error:
        where = "" if kind is GrammarKind.REGEX else where
        return f"{where}正则表达式不对，或用了不支持的写法：环视、反向引用、\\b（bad pattern）"
    if kind is GrammarKind.JSON_SCHEMA or place is not None:
        return f"{where}不对，或用了不支持的写法（cannot be compiled）"
    return "文法或工具的 parameters 不对，或用了不支持的写法（cannot be compiled）"


def is_too_complex(error: str) -> bool:
    """Whether one of the library's limits was met, at the start or on the way."""
    return any(words in error for words in ("too large", "too many", "limit", "max is", "fuel"))
