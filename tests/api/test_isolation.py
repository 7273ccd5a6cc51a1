"""Chats never mix: not by odd ids, not in history, not in what a prompt costs."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.api.wire import check_error
from tests.pictures import base64_picture
from tests.running import RunningServer, group_body, private_body

ODD_IDS = (
    "7", "07", "7.0", "７", "group:7", "private:7", "group:group:7", "1 OR 1=1", "' OR ''='", "1; DROP TABLE chats",
    "%",
    "_",
    "__", "%25", "a%", "NULL", "None", "-1", "*", "?", "\\", '"', "测试", "é", "e\u0301", "\U0001f600", "\u202eabc",
    "x" * 64,
    "x" * 63, "A", "a", "<script>", "{}", "a:b", "0", "-", "true",
)  # fmt: skip


def test_odd_ids_each_have_a_chat_of_their_own(server: RunningServer) -> None:
    for kind in ("group", "private"):
        for chat in ODD_IDS:
            said = f"{kind} 里的 {chat}"
            body = group_body(said, group=chat) if kind == "group" else private_body(said, user=chat)
            assert server.post(kind, body | {"context_only": True}).status_code == 200, chat
    for kind in ("group", "private"):
        for chat in ODD_IDS:
            lines = server.messages(kind, quote(chat, safe=""))
            # Other tests of the shared server use short ids too.
            ours = [line["content"] for line in lines if "里的" in line["content"]]
            assert ours == [f"{kind} 里的 {chat}"], (kind, chat)


def test_ids_that_are_none_are_refused(server: RunningServer) -> None:
    nobody: tuple[Any, ...] = ("", " ", "x" * 65, None, True, 1.5, [], {})
    for chat in nobody:
        check_error(server.post("group", group_body("你好") | {"group_id": chat}), 400)
        check_error(server.post("private", private_body("你好") | {"user_id": chat}), 400)


def test_a_new_chats_prompt_costs_the_same_whatever_others_said(server: RunningServer) -> None:
    def cost(number: int) -> tuple[int, int]:
        ours = server.post("private", private_body("你好", user=f"cost-{number}")).json()
        group = server.post("group", group_body("你好", group=f"cost-{number}", user="55")).json()
        return ours["usage"]["prompt_tokens"], group["usage"]["prompt_tokens"]

    first = cost(1)
    for said in ("我叫小红", "秘密是四十二", "很长的话" * 50):
        server.private(said, user="cost-other", images=(base64_picture(),))
        server.group(said, group="cost-other", user="55")
    assert cost(2) == first
    assert cost(3) == first


def test_a_group_and_a_private_chat_of_one_number_do_not_share(server: RunningServer) -> None:
    server.private("私下说的", user="66601", context_only=True)
    server.group("群里说的", group="66601", user="66601", context_only=True)
    assert [m["content"] for m in server.messages("private", "66601")] == ["私下说的"]
    assert [m["content"] for m in server.messages("group", "66601")] == ["群里说的"]


def test_a_message_id_belongs_to_its_chat(server: RunningServer) -> None:
    for chat in ("mid-a", "mid-b"):
        server.private(f"给 {chat}", user=chat, message_id="same", context_only=True)
        server.group(f"给 {chat}", group=chat, message_id="same", context_only=True)
    for kind in ("private", "group"):
        assert [m["content"] for m in server.messages(kind, "mid-b")] == ["给 mid-b"]


def test_a_name_told_in_one_chat_is_not_known_in_another(server: RunningServer) -> None:
    server.private("我叫小明", user="knows")
    assert "小明" in server.private("我叫什么名字？", user="knows")
    assert "小明" not in server.private("我叫什么名字？", user="knows-not")
