"""A group that is played before it is real: at the real door, at nobody's cost, by a clock of its own; as a script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from qqvl_server.chat.playscript import answered, parsed
from qqvl_server.errors import ConfigError, InvalidRequest
from qqvl_server.trying.script import read
from tests.api.wire import check_error, metric
from tests.pictures import base64_picture
from tests.running import RunningServer, group_body, run_cli

BOT: dict[str, Any] = {"self_id": "10000", "self_nickname": "小Q", "at_me": False, "sender_role": "member"}
START = 1_700_000_000.0


def say(server: RunningServer, group: str, number: int, text: str, at_s: float, **extra: Any) -> dict[str, Any]:
    body = group_body(text, group=group, **BOT, timestamp=START + at_s, message_id=f"m{number}") | extra
    answer = server.post("group", body)
    assert answer.status_code == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


def test_a_played_group_costs_nobody_anything_and_is_in_no_list(server: RunningServer) -> None:
    group = "try-costs0001"
    path = f"/admin/chats/group/{group}"
    wanted = {"group_reply": "all", "group_messages_per_day": 1}
    assert server.http.post(f"{path}/settings", json=wanted, headers=server.owner).status_code == 200
    server.group("你好", group="no-play")
    before = metric(server, 'qqvl_chat_decisions_total{reason="always"}')
    said = [say(server, group, number, f"我叫小明 {number}", number, user_id="try-member") for number in range(3)]
    assert metric(server, 'qqvl_chat_decisions_total{reason="always"}') == before
    assert [one["reason"] for one in said] == ["always"] * 3, "a real group had had its day"
    assert group not in json.dumps(server.http.get("/admin/chats").json())
    quota = say(server, group, 9, "/quota", 9, user_id="try-member", at_me=True)
    assert "0 条" in quota["reply"]
    gone = server.http.delete(f"/api/page/tries/{group}", headers=server.owner)
    assert gone.json() == {"deleted": True}
    check_error(server.http.get(f"{path}/messages"), 404)
    assert server.http.get(f"{path}/settings").json()["settings"] == {}
    server.group("你好", group="not-played", context_only=True)
    check_error(server.http.delete("/api/page/tries/not-played", headers=server.owner), 404)
    check_error(server.http.delete(f"/api/page/tries/{group}"), 401, 403)


def test_its_clock_is_that_of_its_messages(server: RunningServer) -> None:
    group = "try-clock0001"
    wanted = {"group_reply": "all", "cooldown_s": 60}
    server.http.post(f"/admin/chats/group/{group}/settings", json=wanted, headers=server.owner)
    reasons = [say(server, group, n, "我叫小明", at_s)["reason"] for n, at_s in enumerate((0, 30, 65, 100, 200))]
    assert reasons == ["always", "cooldown", "always", "cooldown", "always"]
    server.http.delete(f"/api/page/tries/{group}", headers=server.owner)


def test_why_it_spoke_is_told_line_by_line(server: RunningServer) -> None:
    group = "try-why000001"
    path = f"/admin/chats/group/{group}"
    say(server, group, 1, "大家好", 0)
    say(server, group, 2, "小Q，我叫小明", 1)
    told = server.http.get(f"{path}/decisions").json()["decisions"]
    assert [(one["message_id"], one["speak"], one["reason"]) for one in told] == [
        ("m2", True, "name"), ("m1", False, "silent")
    ]  # fmt: skip
    assert told[0]["effort"]["prompt_tokens"] > 0
    assert told[0]["effort"]["model"] == "qqvl-demo"
    assert told[1]["effort"] is None
    assert told[1]["cost_ms"] >= 0
    assert server.http.get(f"{path}/decisions", params={"before": told[0]["id"]}).json()["decisions"] == told[1:]
    lines = server.http.get(f"{path}/messages").json()["messages"]
    assert [line["role"] for line in lines] == ["user", "user", "assistant"]
    assert lines[1]["decision"]["reason"] == "name"
    assert lines[1]["reply_seq"] == lines[2]["seq"]
    assert lines[0]["reply_seq"] is None
    assert lines[2]["decision"] is None
    server.http.delete(f"/api/page/tries/{group}", headers=server.owner)


SCRIPT: dict[str, Any] = {
    "qqvl_try": 1,
    "name": "认人",
    "settings": {"group_reply": "addressed"},
    "members": [{"id": 20001, "name": "小明", "role": "owner"}, {"id": "20002", "card": "老王"}],
    "lines": [
        {"id": "a", "from": "20001", "text": "大家好", "expect": {"speaks": False, "reason": "silent"}},
        {"id": "b", "at_s": 20, "from": "20001", "text": "@小Q 我叫小明", "at": ["10000"],
         "expect": {"speaks": True, "reason": "addressed", "contains": ["小明"], "not_contains": ["老王"]}},
        {"id": "c", "at_s": 40, "from": "20002", "text": "这是什么颜色？", "quote": "b/reply",
         "images": [base64_picture((255, 0, 0))], "expect": {"reason": "reply", "matches": "红"}},
        {"id": "d", "at_s": 60, "recall": "b"},
        {"id": "e", "at_s": 80, "from": "20001", "text": "@小Q 我叫什么？", "at": ["10000"],
         "expect": {"not_contains": ["小明"]}},
    ],
}  # fmt: skip


def saved(folder: Path, script: Any) -> str:
    file = folder / "script.json"
    file.write_text(json.dumps(script, ensure_ascii=False), "utf-8")
    return str(file)


def test_a_script_is_a_test(server: RunningServer, tmp_path: Path) -> None:
    at = ("--url", server.base, "--data-dir", str(server.data_dir))
    done = run_cli("try", saved(tmp_path, SCRIPT), *at)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line[:3] for line in done.stdout.splitlines()[:5]] == ["✓ a", "✓ b", "✓ c", "  d", "✓ e"]
    assert done.stdout.splitlines()[-1] == "4 句都和预期一样"
    lines = [{**line, "expect": {"speaks": line["id"] == "a", "contains": ["没有的"]}} for line in SCRIPT["lines"][:2]]
    wrong = run_cli("try", saved(tmp_path, SCRIPT | {"lines": lines}), *at)
    assert wrong.returncode == 1
    assert "✗ a 小明：大家好 → 不说话（silent）" in wrong.stdout
    assert "应该回答，却没说话" in wrong.stdout
    assert "不该说话，却说了" in wrong.stdout
    assert "try-" not in json.dumps(server.http.get("/admin/chats").json())


def test_a_play_is_kept_on_the_server_and_played_again_by_name(server: RunningServer) -> None:
    def kept(script: Any) -> httpx.Response:
        return server.http.post("/api/page/plays", json=script, headers=server.owner)

    at = ("--data-dir", str(server.data_dir))
    assert "一个都没有" in run_cli("try", "--saved", "认人", *at).stderr
    first = kept(SCRIPT | {"lines": SCRIPT["lines"][:1]}).json()
    short = SCRIPT | {"lines": SCRIPT["lines"][:2]}
    second = kept(short).json()
    assert (second["id"], second["name"], second["lines"]) == (first["id"], "认人", 2)
    wrong = {**short, "name": "不对的", "lines": [{**SCRIPT["lines"][0], "expect": {"speaks": True}}]}
    other = kept(wrong).json()
    listed = server.http.get("/api/page/plays", headers=server.owner).json()["plays"]
    assert [one["name"] for one in listed] == ["不对的", "认人"]
    assert server.http.get(f"/api/page/plays/{first['id']}", headers=server.owner).json() == short
    done = run_cli("try", "--saved", "认人", *at)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "— 认人"
    assert done.stdout.splitlines()[-1] == "2 句都和预期一样"
    every = run_cli("try", "--saved", "all", "--url", server.base, *at)
    assert every.returncode == 1
    assert "✗ a" in every.stdout
    assert "认人、不对的" in (told := run_cli("try", "--saved", "没有", *at).stderr) or "不对的、认人" in told
    for bad in (SCRIPT | {"name": " "}, SCRIPT | {"name": "x" * 81}, BAD["lines.0.from"], {}):
        check_error(kept(bad), 400)
    for one in (first, other):
        path = f"/api/page/plays/{one['id']}"
        assert server.http.delete(path, headers=server.owner).json() == {"deleted": True}
        check_error(server.http.delete(path, headers=server.owner), 404)
        check_error(server.http.get(path, headers=server.owner), 404)
    check_error(server.http.get("/api/page/plays"), 401)


def test_what_the_bot_said_is_named_by_its_line_and_its_place() -> None:
    lines = [*SCRIPT["lines"][:2], {"id": "c", "at_s": 40, "recall": "b/reply2"}]
    assert parsed(SCRIPT | {"lines": lines}).lines[2].recall == "b/reply2"
    assert [answered(name) for name in ("b", "b/reply", "b/reply3")] == [None, ("b", 0), ("b", 2)]
    with pytest.raises(InvalidRequest, match=r"lines\.2\.recall"):
        parsed(SCRIPT | {"lines": [*lines[:2], {"id": "c", "at_s": 40, "recall": "x/reply2"}]})


BAD: dict[str, Any] = {
    "qqvl_try": SCRIPT | {"qqvl_try": 2},
    "members": SCRIPT | {"members": []},
    "lines.0.from": SCRIPT | {"lines": [{"id": "a", "from": "3"}]},
    "lines.1.id": SCRIPT | {"lines": [{"id": "a", "from": "20001"}, {"id": "a", "from": "20001"}]},
    "lines.1.at_s": SCRIPT | {"lines": [{"id": "a", "from": "20001", "at_s": 5}, {"id": "b", "from": "20001"}]},
    "lines.0.quote": SCRIPT | {"lines": [{"id": "a", "from": "20001", "quote": "b"}]},
    "lines.0.expect.speak": SCRIPT | {"lines": [{"id": "a", "from": "20001", "expect": {"speak": True}}]},
    "lines.0.expect.matches": SCRIPT | {"lines": [{"id": "a", "from": "20001", "expect": {"matches": "("}}]},
    "最外层": [],
}


@pytest.mark.parametrize("where", ["lines.1.at_s", "lines.0.expect.matches", "最外层"])
def test_a_wrong_script_is_one_line_that_says_where(where: str, tmp_path: Path) -> None:
    done = run_cli("try", saved(tmp_path, BAD[where]))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("错误：脚本 ")
    assert where in line


def test_every_kind_of_wrong_script_is_told_where(tmp_path: Path) -> None:
    for where, script in BAD.items():
        with pytest.raises(ConfigError, match=where.replace(".", r"\.")):
            read(Path(saved(tmp_path, script)))


def test_a_script_needs_a_server_that_is_there(tmp_path: Path) -> None:
    nobody = run_cli("try", saved(tmp_path, SCRIPT), "--url", "http://127.0.0.1:9")
    assert nobody.returncode == 1
    assert "连不上服务器" in nobody.stderr
    mixed = run_cli("try", saved(tmp_path, SCRIPT), "--url", "http://127.0.0.1:9", "--device", "cpu")
    assert mixed.returncode == 2
    assert "--device" in mixed.stderr


@pytest.mark.long
def test_without_an_address_it_plays_on_a_server_of_its_own(tmp_path: Path) -> None:
    done = run_cli("try", saved(tmp_path, SCRIPT), timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "4 句都和预期一样"
