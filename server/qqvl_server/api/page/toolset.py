"""Functions that a conversation offers the model, as it is kept: spelled as chat completions spell them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.tools import chosen, function, functions
from qqvl_server.api.validation import bad
from qqvl_server.generation.port import Tool, ToolChoice


def read(kept: Mapping[str, Any]) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The functions, and whether they may, must or may not be called. Nobody is there to run any other kind of tool.

    Raises:
        InvalidRequest: a bad name or schema, another kind, or a choice that is none of the functions.
    """
    tools, choice = kept.get("tools", []), kept.get("tool_choice")
    left_out = LeftOut()
    known = functions(tools, _tool, left_out)
    if left_out.count:
        raise bad("tools", "这里只能用函数（type 为 function）（holds tools that are no functions）")
    fields = choice.get("function", choice) if isinstance(choice, dict) else {}
    name = fields.get("name") if isinstance(fields, dict) else None
    return known, chosen(known, choice, name if isinstance(name, str) else None, None)


def _tool(item: dict[str, Any], where: str) -> Tool:
    # Also the flat spelling of Responses, as it is copied from elsewhere.
    fields = item.get("function", item)
    if not isinstance(fields, dict):
        raise bad(f"{where}.function", "应是对象（must be an object）")
    return function(fields, f"{where}.function")
