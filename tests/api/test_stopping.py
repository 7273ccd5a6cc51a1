"""SIGTERM: what runs finishes, newcomers are told, the process ends with 0 whatever clients do; and starting twice."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.api.wire import check_error, connect, head
from tests.running import ENTRY, ROOT, RunningServer, private_body, run_cli

TURNS = 8


def check_one_line(stderr: str) -> None:
    """The three lines about the demo model may come before; then one that says what to do."""
    assert "Traceback" not in stderr
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("错误：")
    assert stderr.count("错误：") == 1


def test_a_taken_port_or_data_folder_ends_the_start_with_one_line(server: RunningServer, tmp_path: Path) -> None:
    port = str(httpx.URL(server.base).port)
    taken = run_cli("--port", port, "--data-dir", str(tmp_path / "other"))
    assert taken.returncode == 2
    assert port in taken.stderr
    check_one_line(taken.stderr)
    twice = run_cli("--port", "0", "--data-dir", str(server.data_dir))
    assert twice.returncode == 2
    check_one_line(twice.stderr)
    assert server.http.get("/health").status_code == 200


def test_sigterm_lets_answers_finish_and_ends_with_zero(tmp_path: Path) -> None:
    with (
        RunningServer(tmp_path / "data", "--max-new-tokens", "8", "--shutdown-grace-s", "25") as server,
        ExitStack() as held,
    ):
        children = psutil.Process(server.process.pid).children(recursive=True)
        stuck = [held.enter_context(connect(server)) for _ in range(9)]
        for wire in stuck[:3]:
            wire.sendall(b"POST /api/chat/private HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half")
        for wire in stuck[3:6]:
            wire.sendall(head("Content-Type: application/json", "Content-Length: 100000") + b"{")
        pool = held.enter_context(ThreadPoolExecutor(TURNS))
        turns = [pool.submit(server.post, "private", private_body("你好", user=f"t{n}")) for n in range(TURNS)]
        while len(server.http.get("/admin/chats").json()["chats"]) < TURNS:
            time.sleep(0.01)
        body = {"messages": [{"role": "user", "content": "你好"}], "stream": True, "ignore_eos": True, "max_tokens": 40}
        stream = held.enter_context(server.http.stream("POST", "/v1/chat/completions", json=body))
        lines = stream.iter_lines()
        next(lines)
        refused = 0
        with (
            httpx.Client(base_url=server.base, timeout=30, trust_env=False) as http,
            contextlib.suppress(httpx.HTTPError),
        ):
            # A busy machine may take longer for a client and its first connection than the server for all its answers.
            assert http.get("/health").status_code == 200
            started = time.monotonic()
            server.terminate()
            while (health := http.get("/health")).status_code == 200:
                time.sleep(0.01)
            assert health.json()["status"] == "stopping"
            assert http.get("/ready").status_code == 503
            answer = http.post("/api/chat/private", json=private_body("新来的", user="late"))
            assert check_error(answer, 503)["code"] == "shutting_down"
            refused += 1
        assert [turn.result().status_code for turn in turns] == [200] * TURNS
        assert all(turn.result().json()["status"] == "success" for turn in turns)
        assert "data: [DONE]" in list(lines)
        assert server.process.wait(40) == 0
        assert time.monotonic() - started < 40
        assert refused or time.monotonic() - started < 2
        assert not [child for child in children if child.is_running()]
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", httpx.URL(server.base).port or 0))
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("impatient", [False, True])
def test_a_stop_while_the_model_loads_ends_with_zero(tmp_path: Path, impatient: bool) -> None:
    """Also when it is asked again and again until it is gone."""
    with RunningServer(tmp_path / "data", wait=False) as server:
        server.terminate()
        while impatient and server.process.poll() is None:
            server.terminate()
            time.sleep(0.005)
        assert server.process.wait(30) == 0


def test_a_stop_before_the_port_is_open_ends_with_zero(tmp_path: Path) -> None:
    command = [sys.executable, str(ENTRY), "--port", "0", "--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as starting:
        assert starting.stderr is not None
        assert "演示模型" in starting.stderr.readline()
        starting.terminate()
        assert starting.wait(30) == 0
        assert "Traceback" not in starting.stderr.read()


def test_the_end_does_not_wait_for_what_still_computes_nor_dump_core(tmp_path: Path) -> None:
    """Weights being loaded, a step that hangs: torn out of torch's C++ by the interpreter's end, a process aborts."""
    code = (
        "import threading, torch; from qqvl_server.process import end\n"
        "def compute():\n"
        "    while True: torch.mm(rows, rows); busy.set()\n"
        "torch.set_num_threads(1); rows = torch.randn(1000, 1000); busy = threading.Event()\n"
        "threading.Thread(target=compute, name='qqvl-load', daemon=True).start(); busy.wait()\n"
        "print('last words'); raise SystemExit(end(3))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT / "server")}, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "last words\n", "")


@pytest.mark.long
def test_a_pause_of_the_whole_process_is_no_engine_that_hangs(tmp_path: Path) -> None:
    """A debugger, a frozen container, a virtual machine that was saved: the clock goes on meanwhile."""
    asked = {"messages": [{"role": "user", "content": "你好"}], "stream": True, "ignore_eos": True, "max_tokens": 300}
    slow = head("Content-Type: application/json", "Content-Length: 700000") + b"{"
    flags = ("--step-timeout-s", "4", "--body-timeout-s", "4")
    with RunningServer(tmp_path / "data", *flags) as server, ExitStack() as held:
        wire = held.enter_context(connect(server))
        stream = held.enter_context(server.http.stream("POST", "/v1/chat/completions", json=asked))
        lines = stream.iter_lines()
        next(lines)
        wire.sendall(slow)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(8)
        wire.sendall(b" " * 699_998 + b"}")
        server.process.send_signal(signal.SIGCONT)
        assert "data: [DONE]" in list(lines)
        assert wire.recv(65536).startswith(b"HTTP/1.1 400"), "read whole, and not what the door takes"
        assert server.http.get("/health").status_code == 200
        assert server.private("还在吗") is not None
