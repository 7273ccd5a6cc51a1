"""``tool_choice: allowed_tools``: the model reads of all tools and can call those named, as either door spells it."""

from __future__ import annotations

from typing import Any

import pytest

from qqvl_server.generation.constraints.grammar import constraint
from qqvl_server.generation.port import ToolChoice, ToolMode
from tests.api.stage import CALL, CANARY, Chat, Responses, Stage, check_named
from tests.api.wire import WEATHER

pytestmark = pytest.mark.anyio
NAMES = ("get_weather", "get_time", "get_news")


def tools(door: type[Stage]) -> list[dict[str, Any]]:
    functions: list[dict[str, Any]] = [WEATHER, {"name": "get_time"}, {"name": "get_news"}]
    return [
        {"type": "function", "function": function} if door is Chat else {"type": "function", **function}
        for function in functions
    ]


def allowed(door: type[Stage], mode: Any, *names: str) -> dict[str, Any]:
    if door is Chat:
        named = [{"type": "function", "function": {"name": name}} for name in names]
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}
    return {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": name} for name in names]}


@pytest.mark.parametrize("door", [Chat, Responses])
async def test_all_are_shown_and_only_those_named_can_be_called(door: type[Stage]) -> None:
    async with door.open(lambda _: CALL) as on:
        free = await on.asked(tools=tools(door), tool_choice=allowed(door, "auto", "get_time", "get_news"))
        assert tuple(tool.name for tool in free.tools) == NAMES
        assert free.tool_choice == ToolChoice(allowed=("get_time", "get_news"))
        forced = await on.asked(tools=tools(door), tool_choice=allowed(door, "required", "get_time", "get_news"))
        assert tuple(tool.name for tool in forced.tools) == NAMES
        assert forced.tool_choice == ToolChoice(ToolMode.REQUIRED, allowed=("get_time", "get_news"))
        grammar = constraint(forced)
        assert grammar is not None
        assert "get_time" in grammar.text
        assert "get_weather" not in grammar.text
        # Were it called all the same, nobody would be told to run it.
        for name, calls in (("get_time", 0), ("get_weather", 1)):
            whole = await on.whole(tools=tools(door), tool_choice=allowed(door, "auto", name))
            if door is Chat:
                assert len(whole["choices"][0]["message"].get("tool_calls", ())) == calls
            else:
                assert [item["type"] for item in whole["output"]] == ["function_call" if calls else "message"]


@pytest.mark.parametrize("door", [Chat, Responses])
@pytest.mark.parametrize(
    ("mode", "names", "field"),
    [("auto", (), "tools"), ("required", (CANARY,), "tools"), ("none", ("get_time",), "mode"), (None, (), "mode")],
)
async def test_a_choice_of_none_of_them_is_named(
    door: type[Stage], mode: Any, names: tuple[str, ...], field: str
) -> None:
    where = "tool_choice.allowed_tools" if door is Chat else "tool_choice"
    fields = {"tools": tools(door), "tool_choice": allowed(door, mode, *names)}
    await check_named(door, fields, f"{where}.{field}")


@pytest.mark.parametrize("door", [Chat, Responses])
@pytest.mark.parametrize("odd", [None, [], 5, CANARY, [CANARY], [None], [{"function": CANARY}], [{"name": [CANARY]}]])
async def test_odd_lists_are_refused(door: type[Stage], odd: Any) -> None:
    inner = {"mode": "auto", "tools": odd}
    choice = {"type": "allowed_tools", **({"allowed_tools": inner} if door is Chat else inner)}
    where = "tool_choice.allowed_tools" if door is Chat else "tool_choice"
    await check_named(door, {"tools": tools(door), "tool_choice": choice}, f"{where}.tools")
