"""Grammars in their callers' spellings become llguidance's, and its refusals become words of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.constraints.json_schema import check, tightened
from qqvl_server.generation.port import Grammar, GrammarKind

# Converted by plain Python that holds the interpreter.
_MAX_EBNF_CHARACTERS: Final = 32_000
TOO_COMPLEX: Final = "约束输出的 schema 或文法太大或太复杂"
_RULE: Final = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)
# The name, but not the word inside a text or a set of characters.
_START: Final = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|(?<![\w-])start(?![\w-])')
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_INLINE_SCHEMA: Final = re.compile(r"%json\s*")
_KEYWORDS: Final = (
    "not", "if", "then", "else", "uniqueItems", "contains", "minContains", "maxContains", "dependentRequired",
    "dependentSchemas", "propertyNames", "unevaluatedProperties", "unevaluatedItems", "contentSchema", "$dynamicRef",
)  # fmt: skip


def source_of(grammar: Grammar) -> str:
    """
    Raises:
        InvalidRequest: it cannot be a grammar of its kind.
        ValueError: likewise, found by the library.
    """
    return _SOURCES[grammar.kind](grammar.text)


def _schema_source(text: str) -> str:
    return LLMatcher.grammar_from_json_schema(tightened(text))


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


def _grammar_source(text: str) -> str:
    """Lark as it is; ``::=`` rules (GBNF, EBNF as vLLM's clients write it) converted, from ``root`` or ``start`` on."""
    for found in _INLINE_SCHEMA.finditer(text):
        try:
            check(json.JSONDecoder().raw_decode(text, found.end())[0])
        except (ValueError, RecursionError):
            raise InvalidRequest("文法里 %json 后面应紧跟一个 JSON schema") from None
    if _RULE.search(text) is None:
        return LLMatcher.grammar_from_lark(text)
    if len(text) > _MAX_EBNF_CHARACTERS:
        raise InvalidRequest(f"EBNF 文法太长，最多 {_MAX_EBNF_CHARACTERS} 个字符")
    if re.search(r"^\s*root\s*::=", text, re.MULTILINE) is None:
        text = _START.sub(lambda found: "root" if found[0] == "start" else found[0], text)
    try:
        lark = gbnf_to_lark(text)
    except Exception:
        # The converter raises bare Exception for whatever it cannot read.
        raise InvalidRequest(reason(GrammarKind.LARK, "")) from None
    return LLMatcher.grammar_from_lark(lark)


_SOURCES: Final[dict[GrammarKind, Callable[[str], str]]] = {
    GrammarKind.JSON_SCHEMA: _schema_source,
    GrammarKind.REGEX: _regex_source,
    GrammarKind.CHOICE: _choice_source,
    GrammarKind.LARK: _grammar_source,
}


def reason(kind: GrammarKind, error: str) -> str:
    """Why, in words of our own: the library's messages quote the caller's text."""
    if "Unimplemented keys" in error:
        named = "、".join(word for word in _KEYWORDS if f'"{word}"' in error)
        return f"JSON schema 用了不支持的关键字 {named}".rstrip()
    if "oneOf" in error:
        return "JSON schema 的 oneOf 各项有重叠，不支持；请改用 anyOf"
    if "not present in a registry" in error:
        return "JSON schema 的 $ref 只能指向它自己里面的定义"
    if "nsatisfiable" in error:
        return "没有任何值能满足这个 JSON schema"
    if is_too_complex(error):
        return TOO_COMPLEX
    if kind is GrammarKind.REGEX or "regex" in error:
        return "正则表达式不对，或用了不支持的写法（环视、反向引用、\\b）"
    if kind is GrammarKind.JSON_SCHEMA:
        return "JSON schema 不对，或用了不支持的写法"
    return "文法或工具的 parameters 不对，或用了不支持的写法"


def is_too_complex(error: str) -> bool:
    """Whether one of the library's limits was met, at the start or on the way."""
    return any(words in error for words in ("too large", "too many", "limit", "max is", "fuel"))
