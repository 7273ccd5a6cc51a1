"""What agents bring beside functions: tools that are not run here and their traces in the history are left out, and
told in a header; the rest goes on. On a voice that says what a test tells it to: the real routes, no model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qqvl_server.generation.port import ChatMessage, ImagePart
from tests.api.stage import Chat, Messages, Responses, Stage

pytestmark = pytest.mark.anyio
WARNING = "X-Qqvl-Warning"
LOST = "[附件无法打开]"
SHOWN = "data:image/png;base64,AAAA"
SCHEMA = {"type": "object", "properties": {"cmd": {"type": "string"}}}
# As each door has functions, and what else may stand in ``tools``.
FUNCTION: dict[type[Stage], dict[str, Any]] = {
    Chat: {"type": "function", "function": {"name": "shell", "parameters": SCHEMA}},
    Responses: {"type": "function", "name": "shell", "parameters": SCHEMA},
    Messages: {"name": "shell", "input_schema": SCHEMA},
}
OTHERS: dict[type[Stage], tuple[dict[str, Any], ...]] = {
    Chat: (
        {"type": "custom", "custom": {"name": "apply_patch", "format": {"type": "text"}}},
        {"type": "web_search"}, {"type": "of the future", "x": [1]},
    ),
    Responses: (
        {"type": "web_search"}, {"type": "web_search_preview"}, {"type": "file_search", "vector_store_ids": ["vs_1"]},
        {"type": "computer"}, {"type": "computer_use_preview", "display_width": 9, "display_height": 9},
        {"type": "code_interpreter", "container": {"type": "auto"}}, {"type": "mcp", "server_label": "x"},
        {"type": "image_generation"}, {"type": "local_shell"}, {"type": "shell"}, {"type": "apply_patch"},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
        {"type": "namespace", "name": "mcp__x", "tools": [{"type": "function", "name": "y"}]}, {"type": "tool_search"},
        {"type": "programmatic_tool_calling"}, {"type": "of the future", "x": [1]},
    ),
    Messages: (
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}, {"type": "web_fetch_20250910"},
        {"type": "bash_20250124", "name": "bash"}, {"type": "text_editor_20250728", "name": "edit"},
        {"type": "computer_20250124", "name": "computer", "display_width_px": 9, "display_height_px": 9},
        {"type": "code_execution_20250825", "name": "code_execution"}, {"type": "memory_20250818", "name": "memory"},
        {"type": "tool_search_tool_regex_20251119", "name": "x"}, {"type": "mcp_toolset", "mcp_server_name": "x"},
        {"type": "of_the_future_20990101", "name": "y"},
    ),
}  # fmt: skip
DOORS = tuple(FUNCTION)


def told(message: ChatMessage) -> tuple[Any, ...]:
    parts = ["<image>" if isinstance(part, ImagePart) else part.text for part in message.parts]
    calls = [(call.id, call.name, json.loads(call.arguments)) for call in message.tool_calls]
    return (message.role, *parts, *calls, *([message.tool_call_id] if message.tool_call_id else []))


async def read(door: Stage, **fields: Any) -> tuple[list[tuple[Any, ...]], str]:
    """What the voice was told, and the warning; a stream tells the same."""
    whole = await door.post(**fields)
    assert whole.status_code == 200, whole.text
    first = [told(message) for message in door.voice.asked[-1].messages]
    streamed = await door.post(**fields, stream=True)
    assert streamed.status_code == 200
    assert [told(message) for message in door.voice.asked[-1].messages] == first
    warning = whole.headers.get(WARNING, "")
    assert streamed.headers.get(WARNING, "") == warning
    return first, warning


@pytest.mark.parametrize(("door", "other"), [(door, other) for door in DOORS for other in OTHERS[door]], ids=str)
async def test_a_tool_that_is_not_run_here_is_left_out(door: type[Stage], other: dict[str, Any]) -> None:
    async with door.open() as on:
        for tools, place in (([FUNCTION[door], other], "tools[1]"), ([other, FUNCTION[door]], "tools[0]")):
            _, warning = await read(on, tools=tools)
            assert warning == f"left out: {place}"
            assert [tool.name for tool in on.voice.asked[-1].tools] == ["shell"]
        await read(on, tools=[other])
        assert on.voice.asked[-1].tools == ()
        assert (await read(on, tools=[FUNCTION[door]]))[1] == ""


async def test_the_answer_repeats_the_tools_that_may_be_called() -> None:
    async with Responses.open() as on:
        response = await on.whole(tools=[FUNCTION[Responses], *OTHERS[Responses]])
    assert [tool["name"] for tool in response["tools"]] == ["shell"]


async def test_servers_of_tools_are_left_out() -> None:
    async with Messages.open() as on:
        servers = [{"type": "url", "url": "https://x", "name": "x"}]
        assert (await read(on, mcp_servers=servers, container="c"))[1] == "left out: container, mcp_servers"
        assert (await read(on, mcp_servers=[], container=None))[1] == ""
    async with Responses.open() as on:
        wished = {
            "context_management": [{"type": "compaction", "compact_threshold": 1000}],
            "include": ["future.thing"],
        }
        assert (await read(on, **wished))[1] == "ignored: context_management; left out: include[0]"


CODE = {"id": "ci_1", "code": "1", "container_id": "c", "outputs": [], "status": "completed"}
ITEMS: tuple[dict[str, Any], ...] = (
    {"type": "item_reference", "id": "msg_1"}, {"type": "code_interpreter_call", **CODE},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
    {"type": "file_search_call", "id": "fs_1", "queries": ["x"], "status": "completed", "results": None},
    {"type": "computer_call", "id": "cu_1", "call_id": "c", "action": {"type": "click"}, "status": "completed"},
    {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "file_id": "f"}},
    {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "AAAA"},
    {"type": "local_shell_call", "id": "ls_1", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}},
    {"type": "local_shell_call_output", "id": "ls_1", "output": "x"}, {"type": "shell_call", "call_id": "c"},
    {"type": "shell_call_output", "call_id": "c", "output": []}, {"type": "apply_patch_call", "call_id": "c"},
    {"type": "apply_patch_call_output", "call_id": "c", "status": "completed"},
    {"type": "mcp_call", "id": "mcp_1", "server_label": "x", "name": "f", "arguments": "{}", "output": "y"},
    {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "x", "tools": []},
    {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "x", "name": "f", "arguments": "{}"},
    {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
    {"type": "compaction", "id": "cmp_1", "encrypted_content": "x"}, {"type": "compaction_trigger"},
    {"type": "tool_search_call", "id": "ts_1", "arguments": {}}, {"type": "tool_search_output", "tools": []},
    {"type": "additional_tools", "tools": []}, {"type": "program"}, {"type": "program_output"},
    {"type": "of the future", "role": 5, "content": {"x": [1]}},
)  # fmt: skip


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["type"])
async def test_an_item_of_openais_own_locks_no_conversation(item: dict[str, Any]) -> None:
    ask = {"role": "user", "content": "你好"}
    answer = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "好"}]}
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c1", "output": "晴"}
    async with Responses.open() as on:
        talk, warning = await read(on, input=[ask, item, answer, item, call, item, result, ask])
        assert warning == "left out: input[1], input[3], input[5]"
        assert talk == [("user", "你好"), ("assistant", "好", ("c1", "f", {})), ("tool", "晴", "c1"), ("user", "你好")]


async def test_thoughts_of_another_model_are_passed_over_without_a_word() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    async with Responses.open() as on:
        assert await read(on, input=[thought, {"role": "user", "content": "你好"}]) == ([("user", "你好")], "")
    thoughts = [{"type": "thinking", "thinking": "x", "signature": "y"}, {"type": "redacted_thinking", "data": "z"}]
    ask = {"role": "user", "content": "你好"}
    async with Messages.open() as on:
        answer = {"role": "assistant", "content": [*thoughts, {"type": "text", "text": "好"}]}
        talk = [("user", "你好"), ("assistant", "好"), ("user", "你好")]
        assert await read(on, messages=[ask, answer, ask]) == (talk, "")


async def test_a_custom_tools_calls_are_told_like_a_functions() -> None:
    ask: dict[str, Any] = {"role": "user", "content": "改"}
    expected = [("user", "改"), ("assistant", ("c1", "apply_patch", {"input": "*** 补丁"})), ("tool", "好了", "c1")]
    async with Responses.open() as on:
        call = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "apply_patch", "input": "*** 补丁"}
        result = {"type": "custom_tool_call_output", "call_id": "c1", "output": "好了"}
        assert await read(on, input=[ask, call, result]) == (expected, "")
    async with Chat.open() as on:
        custom = {"id": "c1", "type": "custom", "custom": {"name": "apply_patch", "input": "*** 补丁"}}
        future = {"id": "c2", "type": "of the future", "x": 1}
        answers = [{"role": "assistant", "content": None, "tool_calls": [custom, future]},
                   {"role": "tool", "tool_call_id": "c1", "content": "好了"}]  # fmt: skip
        assert await read(on, messages=[ask, *answers]) == (expected, "left out: messages[1].tool_calls[1]")


SERVER_USE = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
BLOCKS: tuple[dict[str, Any], ...] = (
    SERVER_USE,
    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"type": "web_search_result"}]},
    {"type": "web_fetch_tool_result", "tool_use_id": "srvtoolu_1", "content": {"type": "web_fetch_result", "url": "x"}},
    {"type": "code_execution_tool_result", "tool_use_id": "srvtoolu_1", "content": {"type": "code_execution_result"}},
    {"type": "bash_code_execution_tool_result", "tool_use_id": "srvtoolu_1", "content": {}},
    {"type": "text_editor_code_execution_tool_result", "tool_use_id": "srvtoolu_1", "content": {}},
    {"type": "tool_search_tool_result", "tool_use_id": "srvtoolu_1", "content": {}},
    {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "x", "server_name": "y", "input": {}},
    {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "content": [{"type": "text", "text": "x"}]},
    {"type": "container_upload", "file_id": "file_1"}, {"type": "fallback"}, {"type": "of_the_future", "content": 5},
)  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["type"])
async def test_a_block_of_anthropics_own_locks_no_conversation(block: dict[str, Any]) -> None:
    ask, text = {"role": "user", "content": "你好"}, {"type": "text", "text": "好"}
    async with Messages.open() as on:
        answers = [{"role": "assistant", "content": [block, text]}, ask, {"role": "assistant", "content": [block]}, ask]
        talk, warning = await read(on, messages=[ask, *answers])
        assert talk == [("user", "你好"), ("assistant", "好"), ("user", "你好"), ("user", "你好")]
        assert warning == "left out: messages[1].content[0], messages[3].content[0]"
        talk, warning = await read(on, messages=[{"role": "user", "content": [block, text]}], system=[block, text])
        assert talk == [("system", "好"), ("user", LOST, "\n好")]
        assert warning == "left out: system[0], messages[0].content[0]"


async def test_a_summary_of_what_was_said_before_is_read() -> None:
    summary = {"role": "assistant", "content": [{"type": "compaction", "content": "他叫小明"}]}
    async with Messages.open() as on:
        ask = {"role": "user", "content": "我叫什么？"}
        assert await read(on, messages=[summary, ask]) == ([("assistant", "他叫小明"), ("user", "我叫什么？")], "")


PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
ATTACHED: tuple[tuple[type[Stage], str, dict[str, Any]], ...] = (
    (Chat, "messages", {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}}),
    (Chat, "messages", {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
    (Chat, "messages", {"type": "audio_url", "audio_url": {"url": "https://x/a.wav"}}),
    (Chat, "messages", {"type": "video_url", "video_url": {"url": "https://x/a.mp4"}}),
    (Chat, "messages", {"type": "of the future"}),
    (Responses, "input", {"type": "input_file", "file_id": "file-1"}),
    (Responses, "input", {"type": "input_file", "file_data": "data:application/pdf;base64,JVBERi0="}),
    (Responses, "input", {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}}),
    (Responses, "input", {"type": "input_image", "file_id": "file-1"}),
    (Responses, "input", {"type": "of the future"}),
    (Messages, "messages", {"type": "document", "source": PDF}),
    (Messages, "messages", {"type": "document", "source": {"type": "file", "file_id": "file_1"}}),
    (Messages, "messages", {"type": "document", "source": {"type": "url", "url": "https://x/a.pdf"}}),
    (Messages, "messages", {"type": "image", "source": {"type": "file", "file_id": "file_1"}}),
    (Messages, "messages", {"type": "of the future"}),
)  # fmt: skip


@pytest.mark.parametrize(("door", "field", "part"), ATTACHED, ids=str)
async def test_the_model_is_told_of_what_it_cannot_read(door: type[Stage], field: str, part: dict[str, Any]) -> None:
    async with door.open() as on:
        talk, warning = await read(on, **{field: [{"role": "user", "content": [part]}]})
        assert talk == [("user", LOST)]
        assert warning == f"left out: {field}[0].content[0]"


async def test_what_an_answer_of_another_model_held_is_left_out() -> None:
    ask = {"role": "user", "content": "你好"}
    odd: tuple[tuple[type[Stage], str, dict[str, Any], str], ...] = (
        (Chat, "messages", {"role": "assistant", "content": [{"type": "of the future"}]}, "content[0]"),
        (Chat, "messages", {"role": "assistant", "content": None, "audio": {"id": "audio_1"}}, "audio"),
        (Chat, "messages", {"role": "assistant", "content": None, "tool_calls": [{"type": "x"}]}, "tool_calls[0]"),
        (Responses, "input", {"role": "assistant", "content": [{"type": "of the future"}]}, "content[0]"),
    )
    for door, field, answer, place in odd:
        async with door.open() as on:
            talk, warning = await read(on, **{field: [ask, answer, ask]})
            assert talk == [("user", "你好"), ("user", "你好")]
            assert warning == f"left out: {field}[1].{place}"
    async with Chat.open() as on:
        refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "不"}]}
        assert await read(on, messages=[ask, refusal, ask]) == (
            [("user", "你好"), ("assistant", "不"), ("user", "你好")],
            "",
        )


MCP = [
    {"type": "text", "text": "看", "annotations": {"audience": ["user"]}},
    {"type": "image", "data": "AAAA", "mimeType": "image/png"},
    {"type": "resource", "resource": {"uri": "file:///a.txt", "mimeType": "text/plain", "text": "甲"}},
    {"type": "resource", "resource": {"uri": "file:///b.png", "mimeType": "image/png", "blob": "BBBB"}},
    {"type": "resource", "resource": {"uri": "file:///c.bin", "mimeType": "application/zip", "blob": "CCCC"}},
    {"type": "resource_link", "uri": "file:///d", "name": "丁"},
    {"type": "audio", "data": "AAAA", "mimeType": "audio/wav"},
]


def results(door: type[Stage], content: Any) -> list[dict[str, Any]]:
    """Requests with this as a tool's result, in every place where one may stand."""
    if door is Chat:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        asked, answer = {"role": "assistant", "tool_calls": [call]}, {"tool_call_id": "c", "content": content}
        return [{"messages": [asked, {"role": role, **answer}]} for role in ("tool", "function")]
    if door is Responses:
        return [{"input": [{"role": "user", "content": "x"}, {"type": kind, "call_id": "c", "output": content}]}
                for kind in ("function_call_output", "custom_tool_call_output")]  # fmt: skip
    use = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "c", "content": content}
    return [{"messages": [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]}]


@pytest.mark.parametrize("door", DOORS)
async def test_results_as_the_context_protocol_has_them_are_read_and_seen(door: type[Stage]) -> None:
    async with door.open() as on:
        for content in (MCP, {"content": MCP, "isError": False, "structuredContent": {"x": 1}}):
            for fields in results(door, content):
                talk, warning = await read(on, **fields)
                parts = [part.strip() for part in talk[-1][1:]]
                assert talk[-1][0] == "tool"
                assert parts == ["看", "<image>", "甲", "<image>", LOST, "丁: file:///d", LOST, "c"]
                assert len(warning.removeprefix("left out: ").split(", ")) == 2
        assert set(on.shelf.asked) == {"AAAA", "BBBB"}
        for fields in results(door, [{"type": "image", "data": "https://a/b.png", "mimeType": "image/png"}]):
            assert (await on.post(**fields)).status_code == 400


async def test_a_long_list_of_what_was_left_out_is_cut_short() -> None:
    async with Responses.open() as on:
        _, warning = await read(on, input=[{"role": "user", "content": "x"}] + [{"type": "x"}] * 5000)
    assert warning.startswith("left out: input[1], input[2], ")
    assert warning.endswith(", 4980 more")
    assert len(warning) < 1000
