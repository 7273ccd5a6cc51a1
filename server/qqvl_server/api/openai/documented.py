"""The OpenAPI document's view of the requests: what is parsed by hand is written out here."""

from __future__ import annotations

from typing import Any, Final

_OBJECTS: Final = {"type": "array", "items": {"type": "object"}}
MESSAGES: Final[dict[str, Any]] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
            "content": {"anyOf": [{"type": "string"}, {"type": "null"}, _OBJECTS]},
            "tool_calls": _OBJECTS,
            "tool_call_id": {"type": "string"},
        },
    },
}
TOOLS: Final[dict[str, Any]] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["type", "function"],
        "properties": {
            "type": {"const": "function"},
            "function": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string"},
                    "description": {"type": "string"},
                    "parameters": {"type": "object"},
                },
            },
        },
    },
}
TOKEN_IDS: Final[dict[str, Any]] = {"type": "array", "items": {"type": "integer", "minimum": 0}}
LOGIT_BIAS: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
}
PROMPT: Final[dict[str, Any]] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": [{"type": "string"}, TOKEN_IDS]}}, TOKEN_IDS]
}
