"""``tools`` and ``tool_choice`` as Responses spells them. Only functions: OpenAI's own tools run on its servers."""

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
        InvalidRequest: a tool without a type, a bad name or schema, or a choice that is none of the functions.
    """
    known = functions(tools, _tool, left_out)
    return known, chosen(known, choice, _named(choice), parallel)


def _tool(item: dict[str, Any], where: str) -> Tool:
    if "type" not in item:
        raise bad(f"{where}.type", "没有填（is required）")
    return function(item, where)


def _named(choice: Any) -> str | None:
    name = choice.get("name") if isinstance(choice, dict) and choice.get("type") == "function" else None
    return name if isinstance(name, str) else None
