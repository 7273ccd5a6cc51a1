"""Functions that callers offer the model, and which of them must, may or may not be called, whatever the door."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.validation import bad
from qqvl_server.generation.port import Tool, ToolChoice, ToolMode

# The template writes names between quotes without escaping them.
NAME: Final = re.compile(r"[\w.:/-]{1,128}")
_NO_PARAMETERS: Final = {"type": "object", "properties": {}}


def functions(
    tools: Sequence[dict[str, Any]],
    read: Callable[[dict[str, Any], str], Tool],
    left_out: LeftOut,
    kind: str = "function",
) -> tuple[Tool, ...]:
    """Those tools that are run by the caller as functions are. Others are run by OpenAI's or Anthropic's own servers,
    or are called in a way of their own, and are left out.

    Args:
        read: makes one of a function's fields and of where they stand.
        kind: the door's word for a function.

    Raises:
        InvalidRequest: a type that is no word; as ``read``.
    """
    known = []
    for index, item in enumerate(tools):
        where = f"tools[{index}]"
        given = item.get("type")
        if given is not None and not isinstance(given, str):
            raise bad(f"{where}.type", "应是字符串（must be a string）")
        if given in (None, kind):
            known.append(read(item, where))
        else:
            left_out.add(where)
    return tuple(known)


def function(fields: dict[str, Any], where: str) -> Tool:
    """A function as OpenAI describes it, whose fields stand at ``where``.

    Raises:
        InvalidRequest: a bad name, description or schema.
    """
    name, description, parameters = fields.get("name"), fields.get("description"), fields.get("parameters")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise bad(f"{where}.name", "应是 1 到 128 个字母、数字、下划线、点或短横（is not a valid name）")
    if not isinstance(description, str | None):
        raise bad(f"{where}.description", "应是字符串（must be a string）")
    if not isinstance(parameters, dict | None):
        raise bad(f"{where}.parameters", "应是对象（must be an object）")
    schema = json.dumps(_NO_PARAMETERS if parameters is None else parameters, ensure_ascii=False)
    return Tool(name, description, schema, f"{where}.parameters")


def chosen(known: Sequence[Tool], choice: Any, named: str | None, parallel: bool | None) -> ToolChoice:
    """OpenAI's ``tool_choice`` among ``known``; ``named`` is the function it names, which each door spells its way.

    Raises:
        InvalidRequest: two functions of one name, or a choice that is none of them.
    """
    names = [tool.name for tool in known]
    if len(set(names)) < len(names):
        raise bad("tools", "里有重名的函数（has two functions of one name）")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        mode, allowed = _allowed(choice, names)
        return replace(chosen(known, mode, None, parallel), allowed=allowed)
    if named is None and choice not in (None, "auto", "none", "required"):
        raise bad("tool_choice", "应是 auto、none、required 或一个函数（must be auto, none, required or a function）")
    if choice == "none":
        return ToolChoice(ToolMode.NONE)
    if choice in (None, "auto"):
        return ToolChoice(parallel=parallel is not False)
    if not known:
        raise bad(
            "tools", "里没有能调用的函数，tool_choice 却要求调用（holds no function, which tool_choice requires）"
        )
    if named is not None and named not in names:
        raise bad("tool_choice", "指定的函数不在 tools 里（names no function of tools）")
    return ToolChoice(ToolMode.REQUIRED, named, parallel=parallel is not False)


def _allowed(choice: dict[str, Any], names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """``allowed_tools``: the mode, and the names that may be called of all that the model is shown.

    Chat completions nest its fields once more than Responses do, the tools' names too.
    """
    where = "tool_choice.allowed_tools" if "allowed_tools" in choice else "tool_choice"
    fields = choice.get("allowed_tools", choice)
    mode, tools = (fields.get("mode"), fields.get("tools")) if isinstance(fields, dict) else (None, None)
    if mode not in ("auto", "required"):
        raise bad(f"{where}.mode", "应是 auto 或 required（must be auto or required）")
    if not isinstance(tools, list) or not tools or not all(isinstance(tool, dict) for tool in tools):
        raise bad(f"{where}.tools", "应是非空的列表，每项指明一个函数（must be a non-empty array of functions）")
    spelt = [tool.get("function", tool) for tool in tools]
    allowed = tuple(one["name"] for one in spelt if isinstance(one, dict) and one.get("name") in names)
    if len(allowed) < len(tools):
        raise bad(f"{where}.tools", "指定的函数不在 tools 里（names no function of tools）")
    return mode, allowed
