"""What was answered is on disk: after kills, at any moment, and when the disk is full."""

from __future__ import annotations

import resource
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.api.wire import check_error
from tests.pictures import base64_picture
from tests.running import RunningServer, private_body

# By user: what was sent and the reply that was acknowledged.
Acknowledged = dict[str, list[tuple[str, str]]]


def talk(server: RunningServer, user: str, acknowledged: Acknowledged, first: threading.Event) -> None:
    """Speak until the server is gone; remember only what it answered."""
    with httpx.Client(base_url=server.base, timeout=60, trust_env=False) as http:
        for number in range(1000):
            said = f"第{number}句"
            body = private_body(said, user=user, message_id=f"{user}-{len(acknowledged[user])}")
            try:
                answer = http.post("/api/chat/private", json=body)
            except httpx.HTTPError:
                return
            assert answer.status_code == 200
            acknowledged[user].append((said, answer.json()["reply"]))
            first.set()


def check_history(server: RunningServer, acknowledged: Acknowledged) -> None:
    """Every acknowledged pair once, in order; nothing twice; at most one line more, which nobody was told of."""
    for user, pairs in acknowledged.items():
        lines = server.messages("private", user)
        ids = [line["message_id"] for line in lines if line["message_id"]]
        assert len(ids) == len(set(ids))
        assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
        told = [(q["content"], a["content"]) for q, a in zip(lines[::2], lines[1::2], strict=False)]
        assert told[: len(pairs)] == pairs
        assert len(lines) <= 2 * len(pairs) + 2


def check_database(folder: Path) -> None:
    database = sqlite3.connect(folder / "qqvl.sqlite3")
    try:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        database.close()


def restart(server: RunningServer) -> None:
    server.kill()
    server.http.close()
    check_database(server.data_dir)
    server.start()


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.long)])
def test_history_survives_kills_and_is_remembered(tmp_path: Path, kills: int) -> None:
    with RunningServer(tmp_path / "data", "--max-new-tokens", "12", "--temperature", "0") as server:
        body = private_body("我叫小明", user="ming", message_id="name")
        told = server.post("private", body).json()
        server.private("看图", user="eyes", images=(base64_picture(),))
        before = server.messages("private", "ming")
        for kill in range(kills):
            users = [f"kill{kill}-{n}" for n in range(3)]
            acknowledged: Acknowledged = {user: [] for user in users}
            first = threading.Event()
            with ThreadPoolExecutor(3) as pool:
                talks = [pool.submit(talk, server, user, acknowledged, first) for user in users]
                assert first.wait(60)
                server.kill()
                for each in talks:
                    each.result()
            restart(server)
            check_history(server, acknowledged)
            assert server.messages("private", "ming") == before
            again = server.post("private", body).json()
            assert {**again, "request_id": ""} == {**told, "request_id": ""}
            assert len(server.messages("private", "ming")) == len(before)
        assert "小明" in server.private("我叫什么名字？", user="ming")


def test_a_kill_while_starting_leaves_a_good_database(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data", wait=False) as server:
        for _ in range(2):
            server.kill()
            server.http.close()
            check_database(server.data_dir)
            server.start()
        assert server.http.get("/admin/chats").json() == {"chats": []}


def test_a_full_disk_is_a_503_and_loses_nothing_acknowledged(server: RunningServer) -> None:
    """No file of the process may grow: what it sees is what a full disk shows it."""
    server.private("先存一句", user="full")
    before = server.messages("private", "full")
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1, hard))
    try:
        for number in range(3):
            answer = server.post("private", private_body("存不下", user="full", message_id=f"full{number}"))
            assert check_error(answer, 503, hidden=("存不下", "sqlite"))["code"] == "storage_failed"
        drawn = base64_picture((1, 2, 3), "star")
        answer = server.post("private", private_body("存不下", user="full", images=(drawn,)))
        check_error(answer, 503, hidden=("存不下",))
        assert server.http.get("/health").status_code == 200
        assert server.messages("private", "full") == before
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert server.private("又有地方了", user="full", message_id="full0") is not None
    stored = server.messages("private", "full")
    assert stored[: len(before)] == before
    assert stored[len(before)]["content"] == "又有地方了"


pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit is Linux's")
