"""A disk that takes its time, and a data folder that is moved, swapped or given to a second server meanwhile."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.api.wire import check_error
from tests.running import RunningServer, private_body, run_cli

CHATS = 16


class Disk:
    """Under a server: ``delay_ms`` is what each sync takes, ``syncs`` how many there were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def delay(self, milliseconds: int) -> None:
        (self.folder / "delay").write_text(str(milliseconds))

    @property
    def syncs(self) -> int:
        file = self.folder / "syncs"
        return file.stat().st_size if file.exists() else 0


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    folder = tmp_path_factory.mktemp("disk")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a slow disk is made with LD_PRELOAD, and a C compiler")
    source = Path(__file__).with_name("slow_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "slow.so", source, "-ldl"], check=True)
    return Disk(folder)


@pytest.fixture(scope="module")
def on_disk(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    env = {"LD_PRELOAD": str(disk.folder / "slow.so"), "DISK": str(disk.folder)}
    with RunningServer(tmp_path_factory.mktemp("home") / "data", "--max-new-tokens", "4", env=env) as server:
        yield server


def test_on_a_slow_disk_many_chats_share_a_sync(on_disk: RunningServer, disk: Disk) -> None:
    """Two syncs for each, one after the other, would keep the last of them waiting for all the others."""
    disk.delay(400)
    before = disk.syncs
    try:
        with ThreadPoolExecutor(CHATS) as pool:
            turns = [pool.submit(on_disk.post, "private", private_body("你好", user=f"slow{n}")) for n in range(CHATS)]
            assert [turn.result().status_code for turn in turns] == [200] * CHATS
    finally:
        disk.delay(0)
    used = disk.syncs - before
    assert 2 <= used <= CHATS, "without sharing there are two for each"
    assert all(len(on_disk.messages("private", f"slow{n}")) == 2 for n in range(CHATS))


def wait_for(server: RunningServer, word: str) -> None:
    deadline = time.monotonic() + 20
    while (answer := server.http.get("/health")).json()["status"] != word:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)
    assert answer.status_code == (200 if word == "healthy" else 503)
    ready = server.http.get("/ready")
    assert (ready.status_code, ready.json()["ready"]) == (answer.status_code, word == "healthy")


def test_a_moved_folder_is_told_and_no_second_server_starts_beside_the_first(on_disk: RunningServer) -> None:
    folder, elsewhere = on_disk.data_dir, on_disk.data_dir.with_name("elsewhere")
    on_disk.private("早", user="moved", message_id="m1")
    folder.rename(elsewhere)
    for number in range(2):
        body = private_body("在吗", user="moved", message_id=f"lost{number}")
        assert check_error(on_disk.post("private", body), 503)["code"] == "storage_failed"
    again = private_body("早", user="moved", message_id="m1")
    check_error(on_disk.post("private", again), 503)
    wait_for(on_disk, "storage_lost")
    folder.mkdir()
    for place in (folder, elsewhere):
        second = run_cli("--port", "0", "--data-dir", str(place))
        assert second.returncode == 2, place
        assert "正被另一个 qqvl 服务使用" in second.stderr
    check_error(on_disk.post("private", private_body("在吗", user="moved")), 503)
    shutil.rmtree(folder)
    elsewhere.rename(folder)
    wait_for(on_disk, "healthy")
    on_disk.private("又在了", user="moved", message_id="m2")
    ids = [line["message_id"] for line in on_disk.messages("private", "moved") if line["role"] == "user"]
    assert ids[0] == "m1"
    assert ids[-1] == "m2"
    assert len(set(ids)) == len(ids)
    assert sum('"error"' in line for line in on_disk.log().splitlines()) == 1


def test_a_deleted_lock_file_lets_no_second_server_in(on_disk: RunningServer) -> None:
    lock = on_disk.data_dir / ".lock"
    kept = lock.with_name("kept")
    lock.rename(kept)
    try:
        second = run_cli("--port", "0", "--data-dir", str(on_disk.data_dir))
        assert second.returncode == 2
        assert "正被另一个 qqvl 服务使用" in second.stderr
        wait_for(on_disk, "storage_lost")
    finally:
        kept.replace(lock)
    wait_for(on_disk, "healthy")


def test_another_program_that_locks_the_database_is_named(on_disk: RunningServer) -> None:
    other = sqlite3.connect(on_disk.data_dir / "qqvl.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(on_disk.post, "private", private_body("你好", user=f"l{n}")) for n in range(4)]
            for answer in answers:
                error = check_error(answer.result(), 503)
                assert error["code"] == "storage_failed"
                assert "另一个程序锁着" in error["message"]
    finally:
        other.close()
    assert on_disk.private("现在呢", user="l0") is not None
