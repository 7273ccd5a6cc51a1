"""The commands as their owner types them, and a real server beside them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qqvl_server.keeping import unfinished
from tests.keeping.conftest import SECRET, ZHANG, Kept
from tests.running import ENTRY, RunningServer, run_cli


def test_what_to_type_next_is_said_as_this_was_started(kept: Kept, tmp_path: Path) -> None:
    file = tmp_path / "b.qqvl.tar"
    done = run_cli("backup", str(file), "--data-dir", str(kept.data), env={"QQVL_LAUNCHER": "./run_server.sh"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f"./run_server.sh restore {file}")
    assert done.stderr == ""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_beside_a_server_and_through_kills(kept: Kept, tmp_path: Path) -> None:
    file, data = tmp_path / "b.qqvl.tar", ("--data-dir", str(kept.data))
    with RunningServer(kept.data) as server:
        server.private("你好", user="10003")
        before = server.messages("group", "20001")
        assert run_cli("backup", str(file), *data).returncode == 0
        assert run_cli("export", "group:20001", str(tmp_path / "chat.json"), *data).returncode == 0
        for words in (("restore", str(file)), ("import", str(tmp_path / "chat.json")), ("forget", "10001")):
            refused = run_cli(*words, *data)
            assert refused.returncode == 2
            assert "正被另一个 qqvl 服务使用" in refused.stderr
        server.private("再见", user="10003")
        server.kill()
        server.http.close()
        # At moments of its own choosing; the server's start makes good what was begun.
        for wait_s in (0.3, 0.6, 0.9, 1.2, 1.8, 2.5):
            command = [sys.executable, str(ENTRY), "restore", str(file), *data]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(wait_s)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert process.returncode in (0, -signal.SIGKILL)
        assert run_cli("restore", str(file), *data).returncode == 0
        server.start()
        assert server.messages("group", "20001") == before
        assert [line["content"] for line in server.messages("private", "10003")][:1] == ["你好"]
        assert "再见" not in str(server.messages("private", "10003"))
        server.kill()
        server.http.close()
        told = {"person": ZHANG.id, "names": [ZHANG.name], "texts": [SECRET]}
        unfinished.mark(kept.data, {"kind": "forget", "client": str(kept.data / "client"), **told})
        server.start()
        assert "10001" not in str(server.messages("group", "20001"))
        assert server.http.get("/admin/chats/private/10001/messages").status_code == 404
