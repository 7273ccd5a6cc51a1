"""`qqvl doctor`: real faults, planted one by one, each told by a line that names the field to change."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from qqvl_server import cli
from qqvl_server.process import locked
from qqvl_server.weights.nvidia import card_beside
from tests.running import DEMO, ENTRY

Flags = Sequence[str]
Planted = Callable[[Path], AbstractContextManager[Flags]]
Said = dict[str, dict[str, str]]


def examined(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, Said]:
    """The exit status, and what each check said, by its name."""
    capsys.readouterr()
    status = cli.main(["doctor", "--json", "--no-send", *flags])
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] == (status == 0)
    return status, {one["check"]: one for one in said["findings"]}


@contextlib.contextmanager
def a_taken_port(_: Path) -> Iterator[Flags]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield ("--port", str(held.getsockname()[1]))


@contextlib.contextmanager
def an_address_of_another_machine(_: Path) -> Iterator[Flags]:
    yield ("--host", "203.0.113.7", "--api-key", "k")


@contextlib.contextmanager
def all_the_world_without_a_key(_: Path) -> Iterator[Flags]:
    yield ("--host", "0.0.0.0", "--port", "0")


@contextlib.contextmanager
def a_truncated_model(place: Path) -> Iterator[Flags]:
    shutil.copytree(DEMO, place / "m")
    os.truncate(place / "m" / "model.safetensors", 1_000_000)
    yield ("--model-path", str(place / "m"))


@contextlib.contextmanager
def a_model_that_is_not_there(_: Path) -> Iterator[Flags]:
    yield ("--model-path", "models/no-such-model")


@contextlib.contextmanager
def a_model_larger_than_the_memory(place: Path) -> Iterator[Flags]:
    """Whole as far as its header tells, and mostly a hole."""
    shutil.copytree(DEMO, place / "m")
    size = 1 << 42
    header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (place / "m" / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    yield ("--model-path", str(place / "m"), "--device", "cpu")


@contextlib.contextmanager
def a_card_that_is_not_there(_: Path) -> Iterator[Flags]:
    if card_beside():
        pytest.skip("this machine has a card")
    yield ("--device", "cuda:0")


@contextlib.contextmanager
def a_read_only_data_folder(place: Path) -> Iterator[Flags]:
    if os.geteuid() == 0:
        # Nothing but the kernel keeps root from writing.
        yield ("--data-dir", "/sys/kernel/qqvl")
        return
    place.chmod(0o500)
    yield ("--data-dir", str(place / "data"))
    place.chmod(0o700)


@contextlib.contextmanager
def a_data_folder_that_another_server_holds(place: Path) -> Iterator[Flags]:
    with locked(place / "data"):
        yield ("--data-dir", str(place / "data"))


def of_ours(place: Path, revision: str = "0001", answered: float = 0) -> tuple[Flags, sqlite3.Connection]:
    """A data folder whose database looks like one of ours, and a connection to it."""
    (place / "data").mkdir()
    connection = sqlite3.connect(place / "data" / "qqvl.sqlite3", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.execute("CREATE TABLE answers (created_at REAL)")
    connection.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    connection.execute("INSERT INTO answers VALUES (?)", (answered,))
    return ("--data-dir", str(place / "data")), connection


@contextlib.contextmanager
def a_locked_database(place: Path) -> Iterator[Flags]:
    flags, connection = of_ours(place)
    with contextlib.closing(connection):
        connection.execute("BEGIN IMMEDIATE")
        yield flags


@contextlib.contextmanager
def a_broken_database(place: Path) -> Iterator[Flags]:
    (place / "data").mkdir()
    (place / "data" / "qqvl.sqlite3").write_bytes(b"<html>" * 1000)
    yield ("--data-dir", str(place / "data"))


@contextlib.contextmanager
def a_database_of_a_later_release(place: Path) -> Iterator[Flags]:
    flags, connection = of_ours(place, revision="9999")
    connection.close()
    yield flags


@contextlib.contextmanager
def a_clock_that_went_back(place: Path) -> Iterator[Flags]:
    flags, connection = of_ours(place, answered=time.time() + 7200)
    connection.close()
    yield flags


@contextlib.contextmanager
def more_pictures_than_disk(_: Path) -> Iterator[Flags]:
    yield ("--image-store-gb", "10000")


@contextlib.contextmanager
def keys_for_all_to_read(place: Path) -> Iterator[Flags]:
    file = place / "keys"
    file.write_text("sk-0123456789\n")
    file.chmod(0o644)
    yield ("--api-keys-file", str(file))


@contextlib.contextmanager
def an_upstream_that_does_not_answer(_: Path) -> Iterator[Flags]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        place = held.getsockname()[1]
    yield ("--engine", "upstream", "--upstream-url", f"http://127.0.0.1:{place}")


@contextlib.contextmanager
def a_setting_that_is_none(_: Path) -> Iterator[Flags]:
    yield ("--port", "nine thousand")


FAULTS: tuple[tuple[Planted, str, str, str], ...] = (
    # what is planted · the check that must say so · the field it must name · a part of the value or the words
    (a_taken_port, "port", "server.port（现在由 --port 给出）", "占着"),
    (an_address_of_another_machine, "port", "server.host（现在由 --host 给出）", "127.0.0.1"),
    (all_the_world_without_a_key, "key", "server.api_keys", "没有密钥"),
    (a_truncated_model, "model", "weights.model_path（现在由 --model-path 给出）", "没下载完"),
    (a_model_that_is_not_there, "model", "weights.model_path（现在由 --model-path 给出）", "no-such-model"),
    (a_model_larger_than_the_memory, "memory", "weights.model_path（现在由 --model-path 给出）", "4300"),
    (a_card_that_is_not_there, "gpu", "weights.device（现在由 --device 给出）", "cpu"),
    (a_read_only_data_folder, "data", "storage.data_dir（现在由 --data-dir 给出）", "写不进"),
    (a_data_folder_that_another_server_holds, "data", "storage.data_dir（现在由 --data-dir 给出）", "另一个 qqvl"),
    (a_locked_database, "database", "storage.data_dir（现在由 --data-dir 给出）", "锁着"),
    (a_broken_database, "database", "storage.data_dir（现在由 --data-dir 给出）", "不是 SQLite"),
    (a_database_of_a_later_release, "database", "storage.data_dir（现在由 --data-dir 给出）", "升级 qqvl"),
    (a_clock_that_went_back, "clock", "系统时间", "timedatectl"),
    (more_pictures_than_disk, "disk", "storage.image_store_gb（现在由 --image-store-gb 给出）", "10000"),
    (an_upstream_that_does_not_answer, "model", "upstream.upstream_url（现在由 --upstream-url 给出）", "连不上"),
    (a_setting_that_is_none, "settings", "设置", "--port"),
)


@pytest.mark.parametrize(
    ("planted", "check", "field", "words"), FAULTS, ids=[planted.__name__ for planted, *_ in FAULTS]
)
def test_a_planted_fault_is_told_with_the_field_to_change(
    planted: Planted, check: str, field: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with planted(tmp_path) as flags:
        own = [] if "--data-dir" in flags else ["--data-dir", str(tmp_path / "empty")]
        free = [] if "--port" in flags else ["--port", "0"]
        status, said = examined(capsys, *flags, *own, *free)
    found = said[check]
    assert (status, found["state"], found["field"]) == (1, "failed", field), said
    assert words in found["message"] + found["value"]
    # What is well is not blamed for it.
    if check != "settings":
        others = {name for name, one in said.items() if one["state"] == "failed"} - {check}
        assert others <= {"napcat", "server", "picture"}, said
    assert not (tmp_path / "empty").exists()


def test_keys_that_others_can_read_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with keys_for_all_to_read(tmp_path) as flags:
        _, said = examined(capsys, *flags, "--port", "0", "--data-dir", str(tmp_path / "d"))
    assert (said["key"]["state"], said["key"]["value"]) == ("warning", f"chmod 600 {tmp_path / 'keys'}")


def test_the_port_that_is_named_instead_is_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with a_taken_port(tmp_path) as flags:
        _, said = examined(capsys, *flags, "--data-dir", str(tmp_path / "d"))
        with socket.create_server(("127.0.0.1", int(said["port"]["value"]))):
            pass


def test_people_get_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with a_taken_port(tmp_path) as flags:
        assert cli.main(["doctor", "--no-send", *flags, "--data-dir", str(tmp_path / "d")]) == 1
    lines = capsys.readouterr().out.splitlines()
    bad = next(n for n, line in enumerate(lines) if line.startswith("[不行] 端口："))
    assert lines[bad + 1].strip().startswith("要改：server.port（现在由 --port 给出） → ")
    assert lines[-1].startswith("有 ")


def test_the_doctor_needs_no_torch(tmp_path: Path) -> None:
    if card_beside():
        pytest.skip("this machine has a card, which torch is asked about")
    code = (
        "import sys; from qqvl_server import cli\n"
        f"assert cli.main(['doctor', '--no-send', '--port', '0', '--data-dir', {str(tmp_path / 'd')!r}]) in (0, 1)\n"
        "assert not {'torch', 'transformers', 'fastapi'} & set(sys.modules), 'imported'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ENTRY.parent, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
