"""What a reply may be: OpenAI's ``response_format`` and vLLM's ``guided_*`` and ``structured_outputs``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from qqvl_server.api.openai.schema import Generate
from qqvl_server.api.validation import bad
from qqvl_server.generation.port import Grammar, GrammarKind

_ANY_OBJECT: Final = Grammar(GrammarKind.JSON_SCHEMA, '{"type":"object"}')


def read(body: Generate) -> Grammar | None:
    """The one constraint a request asks for.

    Raises:
        InvalidRequest: more than one, or one of a wrong shape. Whether it compiles the voice says.
    """
    asked = [*_response_format(body.response_format), *_structured(body.structured_outputs), *_guided(body)]
    if len(asked) > 1:
        raise bad("response_format", "和其他约束只能用一个（only one constraint can be used）")
    return asked[0] if asked else None


def _response_format(value: dict[str, Any] | None) -> Iterator[Grammar]:
    kind = "text" if value is None else value.get("type")
    if value is None or kind == "text":
        return
    if kind == "json_object":
        schema = value.get("schema")
        yield _ANY_OBJECT if schema is None else _schema(schema, "response_format.schema")
        return
    if kind != "json_schema":
        raise bad("response_format.type", "应是 text、json_object 或 json_schema（is not a known type）")
    named = value.get("json_schema")
    if not isinstance(named, dict):
        raise bad("response_format.json_schema", "应是对象（must be an object）")
    yield _schema(named.get("schema"), "response_format.json_schema.schema")


def _structured(value: dict[str, Any] | None) -> Iterator[Grammar]:
    for name, given in (value or {}).items():
        if given is None or given is False:
            continue
        match name:
            case "json":
                yield _schema(given, "structured_outputs.json")
            case "json_object":
                yield _ANY_OBJECT
            case "regex":
                yield _text(GrammarKind.REGEX, given, "structured_outputs.regex")
            case "choice":
                yield _choice(given, "structured_outputs.choice")
            case "grammar":
                yield _text(GrammarKind.LARK, given, "structured_outputs.grammar")
            case "structural_tag":
                raise bad("structured_outputs.structural_tag", "不支持（is not supported）")


def _guided(body: Generate) -> Iterator[Grammar]:
    if body.guided_json is not None:
        yield _schema(body.guided_json, "guided_json")
    if body.guided_regex is not None:
        yield _text(GrammarKind.REGEX, body.guided_regex, "guided_regex")
    if body.guided_choice is not None:
        yield _choice(list(body.guided_choice), "guided_choice")
    if body.guided_grammar is not None:
        yield _text(GrammarKind.LARK, body.guided_grammar, "guided_grammar")


def _schema(value: Any, where: str) -> Grammar:
    """vLLM takes a schema as JSON text as well."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise bad(where, "应是 JSON schema（must be a JSON schema）") from None
    if not isinstance(value, dict):
        raise bad(where, "应是对象（must be an object）")
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(value, ensure_ascii=False), (where,))


def _text(kind: GrammarKind, value: Any, where: str) -> Grammar:
    if not isinstance(value, str) or not value:
        raise bad(where, "应是字符串，不能为空（must be a non-empty string）")
    return Grammar(kind, value, (where,))


def _choice(value: Any, where: str) -> Grammar:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise bad(where, "应是非空字符串的列表（must be an array of non-empty strings）")
    return Grammar(GrammarKind.CHOICE, json.dumps(value, ensure_ascii=False), (where,))
