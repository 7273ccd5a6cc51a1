"""The QQ door's answer as a stream of events, over HTTP."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx

from tests.api.wire import check_error, contract
from tests.running import RunningServer, group_body, private_body


def events_of(answer: httpx.Response) -> list[tuple[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = []
    for block in answer.text.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        head, data = block.split("\n")
        found.append((head.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_a_stream_tells_each_message_and_then_the_plain_answer(server: RunningServer) -> None:
    for kind, body in (
        ("private", private_body("你好", user="stream1", message_id="s1")),
        ("group", group_body("你好", group="stream1", message_id="s1", self_id="7", at_me=True)),
    ):
        *messages, (name, done) = events_of(server.post(kind, body | {"stream": True}))
        plain = server.post(kind, body).json()
        assert name == "done"
        assert {**done, "request_id": ""} == {**plain, "request_id": ""}
        assert messages == [("message", element) for element in plain["messages"]]
        assert plain["reply"]


def test_what_is_not_answered_has_no_messages(server: RunningServer) -> None:
    body = group_body("你们聊", group="stream2", message_id="s1", self_id="7", at_me=False)
    ((name, done),) = events_of(server.post("group", body | {"stream": True}))
    assert (name, done["should_reply"], done["messages"], done["reason"]) == ("done", False, [], "silent")


def test_an_error_before_the_first_event_is_an_http_error(server: RunningServer) -> None:
    check_error(server.post("private", private_body("", user="stream3") | {"stream": True}), 400)
    check_error(server.post("private", private_body("你好", user="stream3") | {"stream": "yes"}), 400)


def test_the_contracts_elements_are_what_the_door_tells() -> None:
    """Those that one answer of the demo model is too short for."""
    from qqvl_server.api.qq.translate import outgoing
    from qqvl_server.chat.outgoing.messages import Node, Record, Words

    elements = (Words("第一段。", at="987654321", quote="1122334455"), Words("第二段。"))
    record = Record((Node("小助手", "10001", "第三段。"), Node("小助手", "10001", "第四段。")))
    told = [outgoing(element).model_dump(exclude_none=True, mode="json") for element in (*elements, record)]
    assert told == contract("group_reply_long")["messages"]
    stream = contract("group_stream")["events"]
    assert [event["event"] for event in stream] == ["message", "message", "message", "done"]
    assert [event["data"] for event in stream[:-1]] == stream[-1]["data"]["messages"] == told


def test_what_is_drawn_is_told_as_a_picture_as_in_the_contract() -> None:
    from qqvl_server.api.qq.translate import outgoing
    from qqvl_server.chat.outgoing.messages import Drawn, Words

    wanted = contract("group_reply_drawn")["messages"]
    png = base64.b64decode(wanted[1]["segments"][2]["data"]["file"].removeprefix("base64://"))
    drawn = Drawn(Words("print(1)", at="987654321", quote="1122334455"), png)
    told = [outgoing(element).model_dump(exclude_none=True, mode="json") for element in (Words("看："), drawn)]
    assert told == wanted
