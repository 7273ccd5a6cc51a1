"""The QQ doors' JSON: the spec's shapes and types, the optional fields, repeats, errors; and what admin lists."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api.wire import check_error, contract
from tests.pictures import base64_picture
from tests.running import RunningServer, group_body, private_body


def quietly(server: RunningServer, kind: str, body: dict[str, Any]) -> Any:
    """Post without a model call: what is only remembered is checked and stored like the rest."""
    return server.post(kind, body | {"context_only": True})


def test_health_is_the_specs(server: RunningServer) -> None:
    answer = server.http.get("/health")
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["status", "model_loaded", "processor_loaded", "device"]
    assert body["status"] == "healthy"
    assert body["model_loaded"] is True
    assert body["processor_loaded"] is True
    assert body["device"]


@pytest.mark.parametrize("name", ["group_message", "group_message_full", "private_message"])
def test_the_contracts_messages_are_answered_in_the_contracts_shape(server: RunningServer, name: str) -> None:
    kind = name.partition("_")[0]
    answer = server.post(kind, contract(name))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    wanted = contract(f"{kind}_reply")
    optional = {"request_id", "warnings", "usage", "messages"}
    assert wanted.keys() - optional <= body.keys() <= wanted.keys() | optional
    assert body["status"] == "success"
    assert isinstance(body["reply"], str)
    assert body["reply"]
    assert body["warnings"] == []
    assert all(type(body["usage"][count]) is int for count in wanted.get("usage", {}))
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    if kind == "group":
        assert body["should_reply"] is True
    else:
        assert "should_reply" not in body


def test_errors_have_the_contracts_shape(server: RunningServer) -> None:
    wanted = contract("error")
    body = server.post("private", {}).json()
    assert body.keys() == wanted.keys()
    assert body["error"].keys() == wanted["error"].keys()


@pytest.mark.parametrize("kind", ["group", "private"])
def test_a_bare_message_needs_ids_and_words_only(server: RunningServer, kind: str) -> None:
    body = {"user_id": "bare1", "content": "你好"} | ({"group_id": "bare1"} if kind == "group" else {})
    assert server.post(kind, body).json()["status"] == "success"
    for missing in body:
        less = {name: value for name, value in body.items() if name != missing}
        check_error(server.post(kind, less), 400)


OPTIONAL: list[dict[str, Any]] = [
    {"message_id": "abc"}, {"message_id": 12345}, {"message_id": -7}, {"message_id": None}, {"message_id": ""},
    {"self_id": ""}, {"context_only": None},
    {"self_id": "1"}, {"self_id": 1}, {"self_id": None},
    {"at_me": True}, {"at_me": False}, {"at_me": None},
    {"reply_to": None}, {"reply_to": {}}, {"reply_to": {"id": 5, "text": "早"}}, {"reply_to": {"images": []}},
    {"reply_to": {"id": "5", "text": "早", "user_id": 7, "user_nickname": "李四", "later": 1}},
    {"segments": []}, {"segments": None}, {"segments": [{"type": "text", "text": "你好"}, {"type": "new", "x": []}]},
    {"self_nickname": "小Q"}, {"self_nickname": ""}, {"self_nickname": None}, {"self_id": 0}, {"message_id": 0},
    {"sender_role": "owner"}, {"sender_role": "someone"}, {"sender_role": ""}, {"sender_role": None},
    {"message_type": "group"}, {"message_type": None}, {"sub_type": "normal"}, {"sub_type": 3},
    {"images": []}, {"images": None}, {"user_nickname": None}, {"user_nickname": ""}, {"user_card": "三哥"},
    {"timestamp": 0}, {"timestamp": 1234567890}, {"timestamp": None}, {"timestamp": -1.5}, {"timestamp": 1e18},
    {"unknown": {"deep": [1, {"x": None}]}},
    {"__class__": "x"}, {"": ""}, {"名字": "值"}, {"prompt": "x", "model": "y"},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["group", "private"])
def test_optional_and_unknown_fields_are_tolerated(server: RunningServer, kind: str) -> None:
    for number, extra in enumerate(OPTIONAL):
        chat = f"optional{number}"
        body = (group_body("你好", group=chat) if kind == "group" else private_body("你好", user=chat)) | extra
        answer = quietly(server, kind, body)
        assert answer.status_code == 200, (extra, answer.text)
        assert server.messages(kind, f"optional{number}")[-1]["content"].endswith("你好")


def test_ids_are_the_same_as_string_or_number(server: RunningServer) -> None:
    for user, group in (("880001", "990001"), (880001, 990001), (" 880001 ", "990001")):
        assert quietly(server, "group", group_body("一", user_id=user, group_id=group)).status_code == 200
        assert quietly(server, "private", private_body("一", user_id=user)).status_code == 200
    assert len(server.messages("group", "990001")) == 3
    assert len(server.messages("private", "880001")) == 3
    assert {m["speaker"]["id"] for m in server.messages("group", "990001")} == {"880001"}


def test_a_repeated_message_id_returns_the_first_answer_and_runs_once(server: RunningServer) -> None:
    body = private_body("你好", user="repeat", message_id=42)
    first = server.post("private", body).json()
    for again in (body, body | {"message_id": "42"}, body | {"user_nickname": "三哥"}):
        later = server.post("private", again).json()
        assert {**later, "request_id": ""} == {**first, "request_id": ""}
        assert later["request_id"] != first["request_id"]
    assert [m["role"] for m in server.messages("private", "repeat")] == ["user", "assistant"]
    other = server.post("private", body | {"user_id": "repeat2", "content": "另一个会话"})
    assert other.status_code == 200
    assert server.messages("private", "repeat2")[0]["content"] == "另一个会话"


def test_an_id_that_comes_again_with_another_message_is_a_new_message(server: RunningServer) -> None:
    """Implementations number from the same start after a restart."""
    body = group_body("我叫小明", group="renumbered", message_id="10001", at_me=True)
    changes: list[dict[str, Any]] = [
        {"content": "你好"},
        {"user_id": "10002"},
        {"timestamp": 1234567890.0 + 86400},
        {"images": [{"data": base64_picture()}]},
        {"images": [{"data": base64_picture((0, 0, 255))}]},
        {"self_id": "77"},
    ]
    for change in ({}, *changes):
        assert quietly(server, "group", body | change).status_code == 200
    assert len(server.messages("group", "renumbered")) == 1 + len(changes)
    for change in ({}, *changes):
        assert quietly(server, "group", body | change).status_code == 200
    assert len(server.messages("group", "renumbered")) == 1 + len(changes)


@pytest.mark.parametrize("unknown", [0, "0", "", " ", None, "00"])
def test_zero_and_empty_are_no_message_id(server: RunningServer, unknown: int | str | None) -> None:
    user = f"unknown-id-{unknown!r}"
    for _ in range(2):
        assert quietly(server, "private", private_body("你好", user=user, message_id=unknown)).status_code == 200
    assert [line["message_id"] for line in server.messages("private", user)] == [None, None]


def test_a_repeat_while_the_first_still_runs_waits_for_its_answer(server: RunningServer) -> None:
    body = group_body("你好", group="together", message_id="m1")
    with ThreadPoolExecutor(6) as pool:
        answers = [a.json() for a in pool.map(lambda _: server.post("group", body), range(6))]
    assert len({a["reply"] for a in answers}) == 1
    assert len({a["request_id"] for a in answers}) == 6
    assert [m["role"] for m in server.messages("group", "together")] == ["user", "assistant"]


def test_context_only_messages_are_remembered_and_not_answered(server: RunningServer) -> None:
    answer = server.group("我先说一句", group="quiet", context_only=True, message_id="q1")
    assert answer["should_reply"] is False
    assert answer["reply"] == ""
    assert server.group("我先说一句", group="quiet", context_only=True, message_id="q1")["should_reply"] is False
    assert [m["content"] for m in server.messages("group", "quiet")] == ["我先说一句"]


@pytest.mark.parametrize("word", ["/reset", "重置", " /RESET ", "@小助手 /reset"])
def test_reset_clears_one_chat(server: RunningServer, word: str) -> None:
    for chat in ("reset-a", "reset-b"):
        quietly(server, "private", private_body("记住", user=chat))
    before = len(server.messages("private", "reset-b"))
    assert server.private(word, user="reset-a")
    assert server.messages("private", "reset-a") == []
    assert len(server.messages("private", "reset-b")) == before


def test_in_a_group_reset_is_for_owners_and_admins_who_say_it_to_the_bot(server: RunningServer) -> None:
    told = {"at_me": True, "self_nickname": "小助手"}
    refused: list[dict[str, Any]] = [
        told,
        told | {"sender_role": "member"},
        told | {"sender_role": "owner", "at_me": False},
        told | {"at_me": False},
    ]
    quietly(server, "group", group_body("记住", group="reset-g"))
    for extra in refused:
        assert "已清空" not in server.group("重置", group="reset-g", **extra)["reply"]
        assert server.messages("group", "reset-g")[0]["content"] == "记住"
    for extra, word in (
        ({"sender_role": "admin"}, "重置"),
        ({"sender_role": "owner", "at_me": False}, "小助手 重置"),
        ({}, "重置"),
    ):
        quietly(server, "group", group_body("记住", group="reset-g"))
        bare = not extra
        assert "已清空" in server.group(word, group="reset-g", **({} if bare else told | extra))["reply"]
        assert server.messages("group", "reset-g") == []


def test_a_group_is_answered_when_it_speaks_to_the_bot(server: RunningServer) -> None:
    quoted = {"id": "1", "text": "红色", "user_id": 700}
    record = [{"speaker": "小助手", "text": "小助手，在吗"}, {"speaker": "甲", "text": "小助手"}]
    forwarding: dict[str, Any] = {"at_me": False, "self_nickname": "小助手", "forward": record}
    said: list[tuple[dict[str, Any], str, bool]] = [
        ({}, "大家好", True),
        ({"at_me": None}, "大家好", True),
        ({"at_me": False}, "大家好", False),
        ({"at_me": True}, "大家好", True),
        ({"at_me": False, "self_nickname": "小助手"}, "小助手，你好", True),
        ({"at_me": False, "self_nickname": "Bot", "self_card": "小助手"}, "小助手 你好", True),
        ({"at_me": False, "self_nickname": "小助手"}, "我家小助手2号", False),
        (
            {"at_me": False, "self_nickname": "小助手", "segments": [{"type": "forward", "text": "小助手：好"}]},
            "小助手：好",
            False,
        ),
        # What others said is no call, however it is told: as a record, with segments of its own or without.
        (forwarding, "看这个", False),
        (forwarding, "", False),
        (forwarding | {"segments": [{"type": "text", "text": "看这个"}]}, "看这个", False),
        (forwarding, "小助手，看这个", True),
        (
            {"at_me": False, "self_nickname": "小助手", "segments": [{"type": "mface", "text": "[表情:小助手]"}]},
            "[表情:小助手]",
            False,
        ),
        ({"at_me": False, "self_id": "700", "reply_to": quoted}, "真的？", True),
        ({"at_me": False, "self_id": "700", "reply_to": quoted | {"user_id": "5"}}, "真的？", False),
    ]
    for extra, words, answered in said:
        assert server.group(words, group="spoken-to", **extra)["should_reply"] is answered, extra


def test_segments_place_pictures_between_words_and_lose_none(server: RunningServer) -> None:
    red, blue = base64_picture((255, 0, 0)), base64_picture((0, 0, 255))
    images = [{"data": red}, {"data": blue}]
    words = [{"type": "text", "text": "甲"}, {"type": "face", "text": "乙"}]
    orders: list[tuple[list[dict[str, Any]], str, int]] = [
        ([{"type": "image", "index": 1}, words[0], {"type": "image", "index": 0}, words[1]], "甲乙", 2),
        ([{"type": "image", "index": 1}, {"type": "image", "index": 0}], "原话", 2),
        ([{"type": "image", "index": 1}, words[0]], "原话", 2),
        ([{"type": "image", "index": 0}, {"type": "image", "index": 7}], "原话", 2),
        ([{"type": "image", "index": None}, {"type": "image", "index": -1}], "原话", 2),
    ]
    for number, (segments, content, count) in enumerate(orders):
        body = private_body("原话", user=f"order{number}", images=(), segments=segments) | {"images": images}
        assert quietly(server, "private", body).status_code == 200
        (stored,) = server.messages("private", f"order{number}")
        assert stored["content"] == content
        assert len(stored["images"]) == count
    first, second = (server.messages("private", f"order{n}")[0]["images"] for n in (0, 4))
    assert first == second[::-1]


def test_a_quote_is_kept_with_its_speaker_and_pictures(server: RunningServer) -> None:
    quote = {"id": "9", "text": "昨天画的", "user_nickname": "李四", "images": [{"data": base64_picture()}]}
    quietly(server, "group", group_body("看这个", group="quote", reply_to=quote))
    (stored,) = server.messages("group", "quote")
    assert "李四" in stored["content"]
    assert "昨天画的" in stored["content"]
    assert stored["content"].endswith("看这个")
    assert len(stored["images"]) == 1


def test_admin_lists_what_is_stored(server: RunningServer) -> None:
    server.group("看图", group="listed", images=(base64_picture(),), message_id="L1")
    lines = server.messages("group", "listed")
    assert [set(line) for line in lines] == [
        {"seq", "role", "speaker", "content", "images", "message_id", "time", "decision", "reply_seq"}
    ] * len(lines)
    assert lines[0]["speaker"] == {"id": "10001", "name": "张三"}
    assert lines[0]["message_id"] == "L1"
    assert len(lines[0]["images"][0]) == 64
    assert [line["seq"] for line in lines] == [1, 2]
    chats = server.http.get("/admin/chats").json()["chats"]
    (chat,) = [c for c in chats if c["id"] == "listed"]
    assert chat["kind"] == "group"
    assert chat["name"] == "测试群"
    assert chat["messages"] == 2
    page = server.http.get("/admin/chats/group/listed/messages", params={"before": 2, "limit": 1}).json()["messages"]
    assert [line["seq"] for line in page] == [1]


REFUSED = [
    ("GET", "/nothing", 404), ("GET", "/assets/x", 404), ("GET", "/api/chat/group", 405),
    ("PUT", "/api/chat/private", 405),
    ("DELETE", "/admin/chats", 405), ("POST", "/health", 405), ("OPTIONS", "/api/chat/group", 405),
    ("GET", "/admin/chats/group/never-heard-of/messages", 404), ("GET", "/admin/chats/channel/1/messages", 404),
    ("GET", "/admin/chats/group/listed/messages?limit=0", 400), ("GET", "/admin/chats/group/x/messages?limit=a", 400),
    ("GET", "/admin/chats/group/x/messages?before=-1", 400), ("GET", "/admin/chats/group/x/messages?before=9e99", 400),
    ("GET", "/admin/chats/group/x/messages?before=99999999999999999999999", 400),
    ("GET", "/admin/chats/group/..%2f..%2fetc%2fpasswd/messages", 404), ("GET", "/../../etc/passwd", 404),
]  # fmt: skip


def test_wrong_addresses_and_methods_are_refused_in_the_same_shape(server: RunningServer) -> None:
    for method, path, status in REFUSED:
        sent: dict[str, Any] | None = {} if method in ("POST", "PUT") else None
        answer = server.http.request(method, path, json=sent, headers=server.owner)
        assert answer.status_code in (status, 307), (method, path, answer.status_code)
        if answer.status_code != 307:
            check_error(answer, status, hidden=("passwd",))
