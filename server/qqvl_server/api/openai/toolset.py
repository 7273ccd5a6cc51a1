"""``tools`` and ``tool_choice`` as chat completions spell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.tools import chosen, function, functions
from qqvl_server.api.validation import bad
from qqvl_server.generation.port import Tool, ToolChoice


def read(
    tools: Sequence[dict[str, Any]], choice: Any, parallel: bool | None, left_out: LeftOut
) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The functions, and which of them may or must be called.

    Raises:
        InvalidRequest: a bad name or schema, or a choice that is none of the functions.
    """
    known = functions(tools, _tool, left_out)
    return known, chosen(known, choice, _named(choice), parallel)


def _tool(item: dict[str, Any], where: str) -> Tool:
    # Responses' flat spelling is sent here as well.
    fields = item.get("function", item)
    if not isinstance(fields, dict):
        raise bad(f"{where}.function", "应是对象（must be an object）")
    return function(fields, f"{where}.function")


def _named(choice: Any) -> str | None:
    if not isinstance(choice, dict) or choice.get("type", "function") != "function":
        return None
    fields = choice.get("function", choice)
    name = fields.get("name") if isinstance(fields, dict) else None
    return name if isinstance(name, str) else None
