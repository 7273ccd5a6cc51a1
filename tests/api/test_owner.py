"""What an owner sees and changes in the browser: chats and why, what the model saw, settings, personas, who did it."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.wire import check_error
from tests.pictures import base64_picture
from tests.running import RunningServer, group_body, run_cli

BOT: dict[str, Any] = {"self_id": "10000", "self_nickname": "小Q", "at_me": True, "sender_role": "member"}


class Owner:
    def __init__(self, server: RunningServer) -> None:
        self.server = server

    def get(self, path: str, **params: Any) -> Any:
        answer = self.server.http.get(f"/admin/{path}", headers=self.server.owner, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, /, **body: Any) -> httpx.Response:
        return self.server.http.post(f"/admin/{path}", headers=self.server.owner, json=body)

    def done(self, path: str, /, **body: Any) -> Any:
        answer = self.post(path, **body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def delete(self, path: str) -> httpx.Response:
        return self.server.http.delete(f"/admin/{path}", headers=self.server.owner)

    def setting(self, name: str) -> dict[str, Any]:
        (found,) = [one for one in self.get("settings")["settings"] if one["key"] == name]
        assert isinstance(found, dict)
        return found

    def changes(self) -> list[tuple[Any, ...]]:
        found = self.get("audit", limit=20)["changes"]
        return [(one["who"], one["what"], one["before"], one["after"]) for one in found]


@pytest.fixture
def owner(server: RunningServer) -> Owner:
    return Owner(server)


def said(server: RunningServer, group: str, number: int, text: str, **extra: Any) -> dict[str, Any]:
    body = group_body(text, group=group, **BOT, message_id=f"{group}-{number}") | {"timestamp": time.time()} | extra
    answer = server.post("group", body)
    assert answer.status_code == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


def kept_back(server: RunningServer, text: str) -> bool:
    """Whether of that line in a group only that it had a blocked word is kept."""
    said(server, "words-group", time.monotonic_ns(), text, at_me=False)
    return text not in str(server.messages("group", "words-group")[-1])


def until(holds: Callable[[], bool]) -> None:
    """Lists are looked at once a second."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.25)


def test_the_list_of_chats_tells_the_last_line_and_what_was_done(owner: Owner, server: RunningServer) -> None:
    said(server, "listed-last", 1, "我叫小明", at_me=False)
    said(server, "listed-last", 2, "大家好", at_me=False)
    path = "chats/group/listed-last"

    def listed() -> dict[str, Any]:
        return next(one for one in owner.get("chats")["chats"] if one["id"] == "listed-last")

    assert listed()["last"]["content"] == "大家好"
    assert (listed()["muted_until"], listed()["blocked"]) == (None, False)
    until = owner.done(f"{path}/mute", minutes=30)["muted_until"]
    assert time.time() + 1700 < until == listed()["muted_until"]
    assert said(server, "listed-last", 3, "在吗")["reason"] == "quiet"
    owner.done(f"{path}/unmute")
    assert owner.done(f"{path}/block", blocked=True) == {"blocked": True}
    assert listed()["blocked"]
    assert said(server, "listed-last", 4, "在吗")["reason"] == "listed"
    assert owner.setting("chat.deny_groups")["source"] == "page"
    assert owner.done(f"{path}/block", blocked=False) == {"blocked": False}
    assert said(server, "listed-last", 5, "我叫小明")["reason"] == "addressed"
    owner.done("settings", **{"chat.deny_groups": None})
    whats = [what for _, what, _, _ in owner.changes()]
    assert whats[:5] == [
        "settings chat.deny_groups", "settings chat.deny_groups", "settings chat.deny_groups",
        "group:listed-last mute", "group:listed-last mute",
    ]  # fmt: skip
    for bad in ({"minutes": 0}, {"minutes": "x"}):
        check_error(owner.post(f"{path}/mute", **bad), 400)


def test_what_the_model_saw_is_shown_and_said_again(owner: Owner, server: RunningServer) -> None:
    group = "seen"
    owner.done(f"chats/group/{group}/settings", system_prompt="你是小Q")
    said(server, group, 1, "我叫小明", at_me=False)
    said(server, group, 2, "看", at_me=False, images=[{"data": base64_picture((255, 0, 0))}])
    answer = said(server, group, 3, "我叫什么？")
    lines = server.messages("group", group)
    for seq in (lines[2]["seq"], lines[3]["seq"]):
        seen = owner.get(f"chats/group/{group}/messages/{seq}/seen")
        assert [one["role"] for one in seen["prompt"]] == ["system", "user", "user", "user"]
        assert seen["prompt"][0]["content"] == "你是小Q"
        assert "我叫小明" in seen["prompt"][1]["content"]
        assert seen["prompt"][2]["images"] == lines[1]["images"]
        assert seen["tokens"] == answer["usage"]["prompt_tokens"]
        assert (seen["exact"], seen["why"]) == (True, "")
        assert seen["decision"]["reason"] == "addressed"
    seq = lines[3]["seq"]
    first, second = (owner.done(f"chats/group/{group}/messages/{seq}/replay") for _ in range(2))
    assert first["text"] == second["text"] != ""
    assert first["said"] == answer["reply"] == lines[3]["content"]
    assert first["same"] == (first["text"] == first["said"])
    picture = server.http.get(f"/api/page/images/{lines[1]['images'][0]}", headers=server.owner)
    assert picture.headers["content-type"] == "image/png"
    # What is told apart from what was: something is missing now.
    assert owner.done(f"chats/group/{group}/forget", seq=lines[0]["seq"]) == {"forgotten": [lines[0]["seq"]]}
    later = owner.get(f"chats/group/{group}/messages/{seq}/seen")
    assert not later["exact"]
    assert later["why"]
    check_error(server.http.get(f"/admin/chats/group/{group}/messages/2/seen", headers=server.owner), 404)


def test_a_line_is_forgotten_with_its_answer_and_a_chat_is_emptied(owner: Owner, server: RunningServer) -> None:
    group = "forgotten"
    said(server, group, 1, "我叫小明")
    said(server, group, 2, "大家好", at_me=False)
    lines = server.messages("group", group)
    gone = owner.done(f"chats/group/{group}/forget", seq=lines[0]["seq"])["forgotten"]
    assert gone == [lines[0]["seq"], lines[1]["seq"]]
    assert "小明" not in json.dumps(server.messages("group", group), ensure_ascii=False)
    check_error(owner.post(f"chats/group/{group}/forget", seq=9999), 404)
    check_error(owner.post(f"chats/group/{group}/forget", seq="1"), 400)
    owner.done(f"chats/group/{group}/reset")
    assert server.messages("group", group) == []


def test_settings_change_at_once_and_have_a_way_back(owner: Owner, server: RunningServer) -> None:
    before = owner.setting("chat.bot_names")
    assert (before["source"], before["editable"], before["value"]) == ("默认", True, [])
    told: dict[str, Any] = {"at_me": False, "self_nickname": ""}
    assert said(server, "steered", 1, "阿猫，我叫小明", **told)["reason"] == "silent"
    owner.done("settings", **{"chat.bot_names": ["阿猫"]})
    assert said(server, "steered", 2, "阿猫，我叫小明", **told)["reason"] == "name"
    shown = run_cli("show-config", "--data-dir", str(server.data_dir)).stdout
    assert "chat.bot_names = ('阿猫',)    # page" in shown.splitlines()
    over = run_cli("show-config", "--data-dir", str(server.data_dir), "--bot-names", "阿狗").stdout
    assert "chat.bot_names = ('阿狗',)    # --bot-names" in over.splitlines()
    assert owner.setting("chat.bot_names")["source"] == "page"
    owner.done("settings", **{"chat.bot_names": None})
    assert owner.setting("chat.bot_names") == before
    assert said(server, "steered", 3, "阿猫，我叫小明", **told)["reason"] == "silent"
    assert owner.changes()[:2] == [
        ("local", "settings chat.bot_names", ["阿猫"], []), ("local", "settings chat.bot_names", [], ["阿猫"])
    ]  # fmt: skip
    english = {one["key"]: one["description"] for one in owner.get("settings", lang="en")["settings"]}
    assert english["observe.log_level"].isascii()
    assert not owner.setting("observe.log_level")["description"].isascii()
    assert owner.setting("observe.log_level")["choices"] == ["debug", "info", "warning", "error"]
    # By flag, of another section, unknown, bad, or a list that is not there: nothing is changed.
    wrong: dict[str, Any] = {
        "observe.log_format": "console", "server.port": 1, "generation.max_new_tokens": 5, "chat.x": 1, "x": 1,
        "chat.group_reply": "loud", "chat.cooldown_s": -1, "chat.block_words_in": ["/nowhere/words.txt"],
        "chat.system_prompts": {"group:1": "x"},
    }  # fmt: skip
    for name, value in wrong.items():
        check_error(owner.post("settings", **{name: value, "chat.bot_names": ["不"]}), 400)
    assert owner.setting("chat.bot_names") == before
    assert owner.setting("chat.block_words_in")["value"] == []


@pytest.mark.long
@pytest.mark.timeout(400)
def test_settings_of_the_page_hold_after_a_restart_below_flags(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("坏词\n", "utf-8")
    other = tmp_path / "other.txt"
    other.write_text("别的\n", "utf-8")
    with RunningServer(tmp_path / "data", "--bot-names", "小Q", "--block-words-in", str(words)) as server:
        owner = Owner(server)
        owner.done("settings", **{"chat.group_reply": "all", "chat.block_words_out": [str(other)]})
        assert not owner.setting("chat.bot_names")["editable"]
        named = {"name": "words.txt", "text": "坏词\n", "blocks": "in", "own": False}
        assert owner.get("words")["lists"] == [named]
        owner.done("words/words.txt", text="坏词\n更坏\n")
        assert words.read_text("utf-8") == "坏词\n更坏\n"
        check_error(owner.post("words/words.txt", text="x", blocks="out"), 400)
        check_error(owner.post("words/other.txt", text="x"), 400)
        check_error(owner.post("words/..%2fwords.txt", text="x"), 404)
        check_error(owner.delete("words/words.txt"), 400)
        assert words.is_file()
        with server.http.stream("GET", "/api/page/live", headers=server.owner) as live:
            server.terminate()
            live.read()
        assert server.process.wait(30) == 0
        server.http.close()
        server.start()
        assert owner.setting("chat.group_reply")["source"] == "page"
        assert said(server, "again", 1, "我叫小明", at_me=False)["reason"] == "always"
        other.unlink()
        server.terminate()
        assert server.process.wait(30) == 0
        server.http.close()
        server.start()
        # What cannot be heeded any more does not keep it from starting.
        assert owner.setting("chat.block_words_out")["value"] == []
        assert "网页里改过的设置用不了" in server.log()


def test_personas_are_written_read_and_deleted(owner: Owner, server: RunningServer) -> None:
    text = "---\nname: 猫娘\nmode: all\n---\n你是一只猫。"
    made = owner.done("personas/猫 1", text=text)
    assert (made["name"], made["mode"], made["text"], made["error"]) == ("猫娘", "all", text, None)
    assert made in owner.get("personas")["personas"]
    owner.done("chats/group/catlike/settings", persona="猫娘")
    assert said(server, "catlike", 1, "我叫小明", at_me=False)["reason"] == "always"
    for file, bad in (("猫 1", "---\nmode: loud\n---\nx"), ("猫 1", "---\n: [\n---\n"), ("x" * 65, "x"), (".x", "x")):
        check_error(owner.post(f"personas/{file}", text=bad), 400)
    for away in ("..%2fx", "a%2fb"):
        check_error(
            server.http.post(f"/admin/personas/{away}", headers=server.owner, json={"text": "x"}), 400, 404, 405
        )
    assert owner.get("personas")["personas"][0]["text"] == text
    assert owner.delete("personas/猫 1").json() == {"deleted": True}
    check_error(owner.delete("personas/猫 1"), 404)
    assert owner.changes()[0] == ("local", "persona 猫 1", text, None)


def test_word_lists_are_made_hold_at_once_and_are_deleted(owner: Owner, server: RunningServer) -> None:
    made = owner.done("words/群里 1", text="# 说明\n卖假药\n", blocks="in")
    assert made == {"name": "群里 1", "text": "# 说明\n卖假药\n", "blocks": "in", "own": True}
    assert made in owner.get("words")["lists"]
    until(lambda: kept_back(server, "有人卖假药吗"))
    owner.done("words/群里 1", text="卖真药\n")
    assert owner.get("words")["lists"] == [made | {"text": "卖真药\n"}]
    until(lambda: kept_back(server, "有人卖真药吗"))
    owner.done("words/群里 1", text="卖真药\n", blocks="out")
    until(lambda: not kept_back(server, "还有人卖真药吗"))
    assert owner.delete("words/群里 1").json() == {"deleted": True}
    assert owner.get("words")["lists"] == []
    check_error(owner.delete("words/群里 1"), 404)
    assert [what for _, what, _, _ in owner.changes()[:4]] == ["words 群里 1"] * 4
    for name in (".x", "x" * 65, "a.txt"):
        check_error(owner.post(f"words/{name}", text="x"), 400)
    check_error(owner.post("words/x", text="x", blocks="all"), 400)


def test_the_ledger_of_a_day(owner: Owner, server: RunningServer) -> None:
    said(server, "ledger-day", 1, "我叫小明", user_id="ledger-user")
    told = owner.get("ledger")
    rows = {(row["kind"], row["id"]): row for row in told["rows"]}
    assert rows["user", "ledger-user"]["messages"] == 1
    assert rows["group", "ledger-day"]["name"] == "测试群"
    assert rows["group", "ledger-day"]["seconds"] > 0
    assert told["limits"]["user_messages_per_day"] == 0
    assert owner.get("ledger", day="2001-01-01")["rows"] == []
    check_error(server.http.get("/admin/ledger", params={"day": "x"}, headers=server.owner), 400)


def test_the_state_goes_on_after_descriptors_ran_out(server: RunningServer) -> None:
    process = server.process.pid
    limits = resource.prlimit(process, resource.RLIMIT_NOFILE)
    with server.http.stream("GET", "/api/page/live", headers=server.owner) as live:
        lines = live.iter_lines()
        assert "event: state" in lines
        # No further one can be opened: those that are go on.
        resource.prlimit(process, resource.RLIMIT_NOFILE, (3, limits[1]))
        time.sleep(2.5)
        resource.prlimit(process, resource.RLIMIT_NOFILE, limits)
        for _ in range(4):
            assert "event: state" in lines


def test_the_state_comes_by_itself(server: RunningServer) -> None:
    check_error(server.http.get("/api/page/live"), 401)
    states: list[dict[str, Any]] = []
    with server.http.stream("GET", "/api/page/live", headers=server.owner) as live:
        assert live.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in live.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: ") and name == "state":
                states.append(json.loads(line.removeprefix("data: ")))
                if len(states) == 1:
                    said(server, "pulse", 1, "我叫小明")
                elif states[-1]["last_client_contact"] and states[-1]["cache_hit"] is not None:
                    break
            elif name == "history" and line.startswith("data: "):
                assert isinstance(json.loads(line.removeprefix("data: "))["states"], list)
    last = states[-1]
    assert last["status"] == "healthy"
    assert last["model"] == "qqvl-demo"
    assert last["memory"]["rss_mb"] > 50
    assert all(0 <= card["used_mb"] <= card["total_mb"] for card in last["cards"])
    assert 0 <= last["cpu"]["own"] <= 1
    assert last["decisions"]["addressed"] >= 1
    assert last["first_token_s"] > 0
