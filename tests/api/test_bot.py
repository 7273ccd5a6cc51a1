"""The bot as its owner has it: commands and settings through the doors of a running server, and the ledger's sum."""

from __future__ import annotations

import re
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from tests.api.wire import check_error
from tests.running import RunningServer, group_body, private_body

OURS: dict[str, Any] = {"self_id": "7"}


def told(text: str, number: int, group: str, **more: Any) -> dict[str, Any]:
    ours: dict[str, Any] = {
        "message_id": str(number), "self_id": "7", "self_card": "小助手", "at_me": True, "timestamp": time.time(),
        "sender_role": "admin",
    }  # fmt: skip
    return group_body(text, group=group, **(ours | more))


def said(server: RunningServer, body: dict[str, Any]) -> dict[str, Any]:
    answer = server.post(body["type"], body)
    assert answer.status_code == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


def test_why_tells_what_the_model_was_shown_and_had_read_before(server: RunningServer) -> None:
    for number in range(3):
        said(server, told(f"第{number}句，你好", number, "why", user_id=str(number + 1)))
    why = said(server, told("/why", 9, "why"))
    assert (why["should_reply"], why["reason"]) == (True, "command")
    match = re.search(r"看了 5 条、(\d+) token（(\d+) 个在缓存里），用了 [\d.]+ 秒，模型是 .*qqvl-demo", why["reply"])
    assert match is not None, why["reply"]
    assert 0 < int(match[2]) < int(match[1])
    assert len(server.messages("group", "why")) == 6


def test_the_demos_own_gate_is_found_and_asked(server: RunningServer) -> None:
    """It ships beside the checkpoint; what it says of a talk is the benchmark's business."""
    chosen = {"group_reply": "smart"}
    server.http.post("/admin/chats/group/smart/settings", json=chosen, headers=server.owner).raise_for_status()
    answer = said(server, told("谁知道一加一等于几", 1, "smart", at_me=False))
    assert answer["reason"] in ("smart", "silent")
    assert answer["should_reply"] is (answer["reason"] == "smart")
    assert "校准" not in said(server, told("/status", 2, "smart"))["reply"]
    found = re.search(r"^qqvl_chat_gate_score_count (.*)$", server.http.get("/metrics").text, re.MULTILINE)
    assert found is not None
    assert float(found[1]) >= 1


def test_commands_through_the_door(server: RunningServer) -> None:
    assert "qqvl-demo" in said(server, told("/模型", 1, "commands"))["reply"]
    assert "cpu" in said(server, told("@小助手 /status", 2, "commands", sender_role="member"))["reply"]
    assert "没有这个命令" in said(server, told("/nonsense", 3, "commands"))["reply"]
    member = said(server, told("/mute", 4, "commands", sender_role="member"))
    assert "只有群主、管理员" in member["reply"]
    bare = private_body("/help", user="commands")
    assert "你能用的命令" not in said(server, bare)["reply"]


def test_settings_of_one_chat_through_the_admins_door(server: RunningServer) -> None:
    path = "/admin/chats/group/own-settings/settings"
    silent = told("大家好", 1, "own-settings", at_me=False)
    assert not said(server, silent)["should_reply"]
    owner = server.owner
    changed = server.http.post(path, json={"group_reply": "all", "wake_words": ["喂"]}, headers=owner).json()
    wanted = {"group_reply": "all", "wake_words": ["喂"]}
    assert (changed["kind"], changed["id"], changed["settings"]) == ("group", "own-settings", wanted)
    assert changed["effective"]["group_reply"] == "all"
    assert said(server, silent | {"message_id": "2"})["reason"] == "always"
    wrong: list[Any] = [{"owners": ["1"]}, {"group_reply": "loud"}, {"persona": "没有这个"}, {"x": 1}, []]
    for bad in wrong:
        check_error(server.http.post(path, json=bad, headers=owner), 400)
    check_error(server.http.post("/admin/chats/room/1/settings", json={}, headers=owner), 404)
    assert server.http.get(path).json()["settings"] == wanted
    # Blank words stand in every text, and in none.
    blank = {
        "group_reply": None,
        "wake_words": ["", " "],
        "wake_patterns": [""],
        "bot_names": [" "],
        "known_bots": [""],
    }
    assert server.http.post(path, json=blank, headers=owner).status_code == 200
    for number, words in enumerate(("大家好", "，", "a")):
        assert not said(server, silent | {"message_id": f"blank{number}", "content": words})["should_reply"]
    server.http.post(path, json=dict.fromkeys(blank), headers=owner)
    assert server.http.get(path).json()["settings"] == {}
    assert not said(server, silent | {"message_id": "3"})["should_reply"]


def test_the_ledger_knows_where_the_models_time_went(server: RunningServer) -> None:
    """Private chats are compared: groups that other tests left are read in the meantime."""
    before = spent(server)
    with ThreadPoolExecutor(4) as pool:
        asking = [
            pool.submit(said, server, private_body("讲个故事", user=f"ledger-{number % 4}", **OURS, message_id=number))
            for number in range(12)
        ]
        asking.append(pool.submit(said, server, told("讲个故事", 1, "ledger", user_id="ledger-0")))
        assert all(answer.result()["reply"] or answer.result()["merged_into"] for answer in asking)
    now = spent(server)
    booked = sum(ledger(server, "user", f"ledger-{number}") for number in range(4))
    group = ledger(server, "group", "ledger")
    assert group > 0
    assert booked - group == pytest.approx(now["private"] - before["private"], rel=0.02)
    assert sum(now[kind] for kind in ("group", "private", "api")) == pytest.approx(now["busy"], rel=0.02)
    quota = said(server, private_body("/quota", user="ledger-1", **OURS, message_id=99))["reply"]
    assert "你今天：3 条" in quota


def spent(server: RunningServer) -> dict[str, float]:
    text = server.http.get("/metrics").text
    found = {kind: float(value) for kind, value in re.findall(r'^qqvl_model_seconds{kind="(\w+)"} (\S+)$', text, re.M)}
    busy = re.search(r"^qqvl_model_busy_seconds (\S+)$", text, re.M)
    assert busy is not None
    return {"busy": float(busy[1]), **found}


def ledger(server: RunningServer, kind: str, one: str) -> float:
    with closing(sqlite3.connect(server.data_dir / "qqvl.sqlite3")) as database:
        row = database.execute(
            "SELECT sum(seconds) FROM ledger WHERE kind = ? AND external_id = ?", (kind, one)
        ).fetchone()
    return float(row[0] or 0)
