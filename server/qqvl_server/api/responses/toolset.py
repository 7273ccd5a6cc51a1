"""Tools, and which of them must, may or may not be called. Only functions: OpenAI's own tools run on its servers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from qqvl_server.api.validation import bad
from qqvl_server.generation.port import Tool

# The template writes names between quotes without escaping them.
_NAME: Final = re.compile(r"[\w.:/-]{1,128}")
_NO_PARAMETERS: Final = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Toolset:
    """``shown`` are what the model reads of. ``must_call``: it may say nothing but calls, of ``named`` if given."""

    shown: tuple[Tool, ...] = ()
    must_call: bool = False
    named: str | None = None
    parallel: bool = True


def read(tools: Sequence[dict[str, Any]], choice: Any, parallel: bool | None) -> Toolset:
    """Raises InvalidRequest: a tool that is no function, a bad name or schema, or a choice that is none of them."""
    known = tuple(_tool(item, f"tools[{index}]") for index, item in enumerate(tools))
    names = [tool.name for tool in known]
    if len(set(names)) < len(names):
        raise bad("tools", "里有重名的函数（has two functions of one name）")
    mode, named = _choice(choice)
    if mode == "none":
        return Toolset()
    if mode == "auto":
        return Toolset(known, parallel=parallel is not False)
    if not known:
        raise bad("tools", "没有填，tool_choice 却要求调用（is required by tool_choice）")
    if named is not None and named not in names:
        raise bad("tool_choice", "指定的函数不在 tools 里（names no function of tools）")
    return Toolset(known, True, named, parallel is not False)


def _tool(item: dict[str, Any], where: str) -> Tool:
    if item.get("type") != "function":
        raise bad(f"{where}.type", "只支持 function，不支持 OpenAI 自带的工具（only function is supported）")
    name, description, parameters = item.get("name"), item.get("description"), item.get("parameters")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise bad(f"{where}.name", "应是 1 到 128 个字母、数字、下划线、点或短横（is not a valid name）")
    if not isinstance(description, str | None):
        raise bad(f"{where}.description", "应是字符串（must be a string）")
    if not isinstance(parameters, dict | None):
        raise bad(f"{where}.parameters", "应是对象（must be an object）")
    return Tool(name, description, json.dumps(parameters or _NO_PARAMETERS, ensure_ascii=False))


def _choice(choice: Any) -> tuple[str, str | None]:
    """auto, none, required or named, and the name."""
    if choice is None:
        return "auto", None
    if choice in ("auto", "none", "required"):
        return str(choice), None
    if isinstance(choice, dict) and choice.get("type") == "function" and isinstance(choice.get("name"), str):
        return "named", choice["name"]
    raise bad("tool_choice", "应是 auto、none、required 或一个函数（must be auto, none, required or a function）")
