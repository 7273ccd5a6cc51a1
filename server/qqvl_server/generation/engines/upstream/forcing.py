"""A reply's grammar in the words of each kind of server."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.engines.upstream.kinds import Forcing, Kind
from qqvl_server.generation.port import Grammar, GrammarKind

_STRUCTURED: Final = {GrammarKind.REGEX: "regex", GrammarKind.CHOICE: "choice", GrammarKind.LARK: "grammar"}


def fields(grammar: Grammar, kind: Kind) -> dict[str, Any]:
    """What a request says so that its reply keeps to ``grammar``.

    Raises:
        InvalidRequest: this kind of server cannot be asked for it.
    """
    if grammar.kind is GrammarKind.JSON_SCHEMA:
        schema = json.loads(grammar.text)
        return {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": schema, "strict": True},
            }
        }
    value = json.loads(grammar.text) if grammar.kind is GrammarKind.CHOICE else grammar.text
    match kind.forcing:
        case Forcing.STRUCTURED:
            return {"structured_outputs": {_STRUCTURED[grammar.kind]: value}}
        case Forcing.GUIDED:
            return {f"guided_{_STRUCTURED[grammar.kind]}": value}
        case Forcing.SGLANG:
            if grammar.kind is GrammarKind.LARK:
                return {"ebnf": value}
            return {"regex": value if isinstance(value, str) else "(" + "|".join(map(re.escape, value)) + ")"}
        case Forcing.GBNF if grammar.kind is not GrammarKind.REGEX:
            return {"grammar": value if isinstance(value, str) else _gbnf(value)}
    param = grammar.params[0] if grammar.params else None
    raise InvalidRequest(f"上游（{kind.title}）不支持这样约束回复，只支持 JSON schema", param=param)


def _gbnf(choices: list[str]) -> str:
    """A choice as llama.cpp's grammars write it."""
    return "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
