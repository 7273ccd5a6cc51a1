"""`qqvl trace`: one message's way through both programs, told from files alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from qqvl_server import cli
from qqvl_server.chat.decision import Decision, Effort, Reason
from qqvl_server.chat.identity import Identity
from qqvl_server.chat.message import Answer, ChatKey, ChatKind, Speaker, Text
from qqvl_server.chat.store import Draft, Outcome, Store, sqlite_url

AT = 1_790_000_000.0


def write(file: Path, *lines: dict[str, Any], tail: str = "") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines) + tail, encoding="utf-8")


def way(request: str, chat: str, message_id: str, at: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the client's and the server's log hold of one message."""
    whose = {"request_id": request, "chat": chat, "message_id": message_id, "user": "10001"}
    theirs = [
        {"at": at, "event": f"收到 {chat} 的消息 {message_id}", **whose},
        {"at": at + 2, "event": f"消息 {message_id} 已有答复", **whose, "outcome": "answered"},
        {"at": at + 2.5, "event": "的回复已发出，第 1 条", **whose, "part": 1, "sent_id": "777"},
    ]
    ours = [
        {"at": at + 1.9, "event": "模型答完", "request_id": request, "prompt_tokens": 321, "first_ms": 80},
        {"at": at + 1.95, "event": "请求", **whose, "answered": True, "reason": "name", "ms": 1990},
    ]
    return theirs, ours


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two groups in which the same number was given out, hours apart; and somebody else's message."""
    old, recent, other = (
        way("qq-old", "group:5", "42", AT),
        way("qq-new", "group:6", "42", AT + 9000),
        way("qq-other", "group:6", "421", AT + 9001),
    )
    # The older ones are in a file that was rotated, and the last line of the newest was cut by a kill.
    write(tmp_path / "logs" / "server.log.1", *old[1])
    write(tmp_path / "logs" / "server.log", *recent[1], *other[1], tail='{"at": 17, "message_id": "42", "ev')
    write(tmp_path / "client" / "logs" / "client.log", *old[0], *other[0], *recent[0])
    return tmp_path


def traced(capsys: pytest.CaptureFixture[str], data: Path, *flags: str) -> tuple[int, str]:
    status = cli.main(["trace", *flags, "--data-dir", str(data)])
    told = capsys.readouterr()
    return status, told.out + told.err


def test_a_messages_way_is_told_from_qq_to_the_send(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = traced(capsys, data, "42", "--chat", "group:5")
    assert status == 0
    order = ("group:5", "qq-old", "收到", "模型答完", "prompt_tokens=321", "reason=name", "已有答复", "sent_id=777")
    places = [said.index(word) for word in order]
    assert places == sorted(places)
    assert "group:6" not in said
    assert "421" not in said


def test_an_id_that_came_again_is_two_stories_the_newest_first(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = traced(capsys, data, "42")
    assert status == 0
    assert said.index("group:6") < said.index("group:5")
    assert said.count("模型答完") == 2
    told = json.loads(traced(capsys, data, "42", "--json")[1])
    assert [(story["chat"], story["request_id"], len(story["lines"])) for story in told] == [
        ("group:6", "qq-new", 5),
        ("group:5", "qq-old", 5),
    ]


def test_a_requests_id_finds_its_message(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = traced(capsys, data, "qq-new")
    assert status == 0
    assert "消息 42" in said
    assert "qq-old" not in said


async def keep(data: Path) -> None:
    chat, identity = ChatKey(ChatKind.GROUP, "8"), Identity("99", "digest", "undated", AT)
    async with Store.open(sqlite_url(data)) as store:
        line = await store.add_message(Draft(chat, "测试群", Speaker("10002", "李四"), (Text("在吗"),), identity))
        assert line is not None
        answer = Answer("在的", should_reply=True, reason=Reason.NAME)
        decision, effort = Decision(True, Reason.NAME), Effort(1, 55, 16, 1.25)
        outcome = Outcome(identity, answer, line.seq, decision, covered=True, effort=effort)
        await store.add_answers(chat, [outcome], Speaker("bot", "bot"))
        await store.sent(chat, "99", ("778",))


def test_what_left_the_logs_is_told_from_the_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which is not changed, nor made where there is none."""
    assert traced(capsys, tmp_path, "99")[0] == 1
    assert list(tmp_path.iterdir()) == []
    asyncio.run(keep(tmp_path))
    file = next(tmp_path.glob("*.sqlite3"))
    before = file.read_bytes()
    status, said = traced(capsys, tmp_path, "99")
    assert status == 0
    for words in ("group:8", "李四（10002）", "说：在吗", "回（name）", "提示 55 token，其中 16", "答：在的", "778"):
        assert words in said
    assert file.read_bytes() == before


def test_the_clients_folder_is_where_its_settings_say(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = data.parent / f"{data.name}-client"
    (data / "client").rename(elsewhere)
    assert "收到" not in traced(capsys, data, "42", "--chat", "group:5")[1]
    file = data / "qqvl.yaml"
    file.write_text(f"client:\n  data_dir: {elsewhere}\n", encoding="utf-8")
    for flags in (("--config", str(file)), ("--client-data-dir", str(elsewhere))):
        assert "收到" in traced(capsys, data, "42", "--chat", "group:5", *flags)[1]


def test_nothing_known_says_where_was_looked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = traced(capsys, data, "43")
    assert status == 1
    assert "3 个日志文件" in said
    assert "--client-data-dir" in said
    status, said = traced(capsys, data, "42", "--chat", "5")
    assert status == 2
    assert "group:群号" in said
