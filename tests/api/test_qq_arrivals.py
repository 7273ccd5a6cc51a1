"""The QQ doors as a client uses them that posts each line as it comes: turns that are shared, recalls, reports."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api.wire import check_error, contract
from tests.pictures import base64_picture
from tests.running import RunningServer, group_body, private_body


def told(text: str, number: int, group: str, **more: Any) -> dict[str, Any]:
    """A body as our client sends it."""
    ours: dict[str, Any] = {
        "message_id": str(number),
        "self_id": "7",
        "self_card": "小助手",
        "at_me": True,
        "timestamp": time.time(),
    }
    return group_body(text, group=group, **(ours | more))


def at_once(server: RunningServer, *bodies: dict[str, Any]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return [answer.json() for answer in pool.map(lambda body: server.post(body["type"], body), bodies)]


def test_what_comes_together_is_answered_together_in_the_contracts_shape(server: RunningServer) -> None:
    answers = at_once(server, *(told("你好", number, "together-1", user_id=number + 1) for number in range(20)))
    replied = [answer for answer in answers if answer["should_reply"]]
    merged = [answer for answer in answers if not answer["should_reply"]]
    assert 1 <= len(replied) <= 3
    wanted = contract("group_merged")
    for answer in merged:
        assert wanted.keys() <= answer.keys()
        assert {name: answer[name] for name in ("reply", "messages", "reason")} == {
            name: wanted[name] for name in ("reply", "messages", "reason")
        }
        assert answer["merged_into"] in {str(number) for number in range(20)}
    for answer in replied:
        assert answer["messages"] == [{"text": answer["reply"]}]
        assert answer["reason"] == "addressed"
        assert "merged_into" not in answer
    assert len(server.messages("group", "together-1")) == 20 + len(replied)


def test_a_picture_then_its_question_in_private(server: RunningServer) -> None:
    ours: dict[str, Any] = {"self_id": "7", "timestamp": time.time()}
    picture = private_body("", user="apart", images=(base64_picture((255, 0, 0)),), message_id=1, **ours)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, "private", picture)
        time.sleep(0.5)
        second = server.post("private", private_body("这是什么颜色？", user="apart", message_id=2, **ours)).json()
        assert "红" in second["reply"]
        assert second["reason"] == "private"
        answer = first.result().json()
    assert answer.keys() - {"warnings", "usage"} == contract("private_merged").keys()
    assert (answer["reply"], answer["merged_into"]) == ("", "2")


def test_the_bare_client_is_told_each_reply(server: RunningServer) -> None:
    answers = at_once(server, *(group_body("你好", group="bare-many") for _ in range(5)))
    assert all(answer["should_reply"] and answer["reply"] for answer in answers)
    assert {answer["reason"] for answer in answers} == {"always"}
    assert all("merged_into" not in answer for answer in answers)


@pytest.mark.parametrize("kind", ["group", "private"])
def test_recalls_and_reports_of_the_contract(server: RunningServer, kind: str) -> None:
    recall, sent = contract(f"{kind}_recall"), contract(f"{kind}_sent")
    chat = {"group_id": "recalled"} if kind == "group" else {"user_id": "recalled"}
    asked = told("你好", 1, "recalled") if kind == "group" else private_body("你好", message_id=1, self_id="7")
    body = asked | chat | {"message_id": recall["message_id"], "timestamp": time.time()}
    assert server.post(kind, body).json()["reply"]
    reported = server.post(f"{kind}/sent", sent | chat)
    assert (reported.status_code, reported.json()) == (200, contract("sent_reply"))
    for _ in range(2):
        answer = server.post(f"{kind}/recall", recall | chat).json()
        assert answer.keys() == contract("recall_reply").keys()
        assert answer["withdraw"] == sent["sent_ids"]
    assert server.messages(kind, "recalled") == []
    again = server.post(kind, body).json()
    assert (again["reply"], again["messages"]) == ("", [])


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("group/recall", {"group_id": "1"}), ("group/recall", {"message_id": "1"}), ("private/recall", {"user_id": "1"}),
    ("private/recall", {"user_id": "1", "message_id": ""}), ("private/recall", {"user_id": "1", "message_id": None}),
    ("group/recall", {"group_id": [], "message_id": "1"}), ("group/recall", {"group_id": "1", "message_id": True}),
    ("group/sent", {"group_id": "1", "message_id": "1"}), ("private/sent", {"user_id": "1", "sent_ids": ["1"]}),
    ("group/sent", {"group_id": "1", "message_id": "1", "sent_ids": "12"}),
    ("group/sent", {"group_id": "1", "message_id": "1", "sent_ids": [None]}),
    ("group/sent", {"group_id": "1", "message_id": "1", "sent_ids": ["1"] * 1001}),
]  # fmt: skip


def test_wrong_recalls_and_reports_are_told_what_is_wrong(server: RunningServer) -> None:
    for path, body in WRONG:
        check_error(server.post(path, body), 400)


def test_what_was_never_heard_of_can_be_recalled_and_reported(server: RunningServer) -> None:
    nowhere = {"group_id": "nowhere", "message_id": "1"}
    assert server.post("group/sent", nowhere | {"sent_ids": []}).json() == {"status": "success"}
    assert server.post("group/sent", nowhere | {"sent_ids": [5, "6"]}).json() == {"status": "success"}
    assert server.post("group/recall", nowhere | {"operator_id": 0}).json() == {"status": "success", "withdraw": []}
    assert server.messages("group", "nowhere") == []


def test_a_forwarded_record_is_read_with_its_first_pictures(server: RunningServer) -> None:
    body = contract("group_message_forward") | {"group_id": "forward", "context_only": True}
    assert server.post("group", body).status_code == 200
    (line,) = server.messages("group", "forward")
    assert line["content"] == "[聊天记录]\n李四: 周末去爬山吗\n王五: 去这里"
    assert len(line["images"]) == 1
    many = [{"speaker": "李四", "text": "", "images": [{"data": base64_picture((n, 0, 0))}] * 2} for n in range(9)]
    words = {"content": "[聊天记录] 李四：看", "segments": [{"type": "forward", "text": "[聊天记录] 李四：看"}]}
    assert server.post("group", body | words | {"forward": many, "message_id": "2"}).status_code == 200
    line = server.messages("group", "forward")[-1]
    assert (line["content"], len(line["images"])) == ("[聊天记录] 李四：看", 4)


def test_everybody_being_called_is_nobody_being_called(server: RunningServer) -> None:
    everybody = told("@全体成员 开会", 1, "all", at_all=True)
    for at_me in (False, None):
        answer = server.post("group", everybody | {"at_me": at_me, "message_id": str(at_me)}).json()
        assert (answer["should_reply"], answer["reason"]) == (False, "silent")
    assert server.post("group", everybody).json()["reason"] == "addressed"


def test_a_mention_without_words_is_a_call(server: RunningServer) -> None:
    quote = {"id": "9", "text": "一加一等于几", "user_id": "5", "user_nickname": "李四"}
    answer = server.post("group", told("", 1, "nothing-said", reply_to=quote)).json()
    assert answer["should_reply"]
    assert server.messages("group", "nothing-said")[0]["content"] == "> 引用 李四: 一加一等于几\n@小助手"


def test_a_recalled_message_is_unknown_after_a_kill(server: RunningServer) -> None:
    """Both ways round; the restart is in tests/chat/test_turns.py."""
    recalled = {"group_id": "too-early", "message_id": "1"}
    assert server.post("group/recall", recalled).json()["withdraw"] == []
    answer = server.post("group", told("收回的话", 1, "too-early")).json()
    assert (answer["should_reply"], answer["reason"]) == (False, "silent")
    assert server.messages("group", "too-early") == []


def test_metrics_tell_why(server: RunningServer) -> None:
    server.post("group", told("旧话", 1, "old", timestamp=time.time() - 4000))
    server.post("group", told("你好", 2, "old", sender_is_bot=True))
    metrics = server.http.get("/metrics").text
    for reason in ("stale", "bot"):
        assert f'qqvl_chat_decisions_total{{reason="{reason}"}}' in metrics
