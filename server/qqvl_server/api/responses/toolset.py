"""``tools`` and ``tool_choice`` as Responses spells them. Only functions: OpenAI's own tools run on its servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qqvl_server.api.tools import Toolset, chosen, function
from qqvl_server.api.validation import bad
from qqvl_server.generation.port import Tool


def read(tools: Sequence[dict[str, Any]], choice: Any, parallel: bool | None) -> Toolset:
    """Raises InvalidRequest: a tool that is no function, a bad name or schema, or a choice that is none of them."""
    known = [_tool(item, f"tools[{index}]") for index, item in enumerate(tools)]
    return chosen(known, choice, _named(choice), parallel)


def _tool(item: dict[str, Any], where: str) -> Tool:
    if item.get("type") != "function":
        raise bad(f"{where}.type", "只支持 function，不支持 OpenAI 自带的工具（only function is supported）")
    return function(item, where)


def _named(choice: Any) -> str | None:
    name = choice.get("name") if isinstance(choice, dict) and choice.get("type") == "function" else None
    return name if isinstance(name, str) else None
