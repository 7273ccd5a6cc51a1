"""``qqvl download`` against a hub on loopback: resumed, checked, and one line when it fails."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from qqvl_server.errors import WeightsError
from qqvl_server.weights.download import verify
from qqvl_server.weights.locate import UNFINISHED
from tests.running import ENTRY, run_cli

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "pytorch_model.bin": b"pickle",
    "README.md": b"x",
}
COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """Answers the few calls of the Hugging Face protocol that a snapshot download makes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.fetched: list[str] = []
        # Files of which half is sent, and no more until the hub is shut.
        self.stalled: set[str] = set()
        self.half_sent, self.shut = threading.Event(), threading.Event()
        self.promised = {name: hashlib.sha256(body).hexdigest() for name, body in FILES.items()}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/Qwen/Tiny"):
            self._json(self._tree() if "/tree/" in path else self._info())
        elif path.startswith("/Qwen/Tiny/resolve/"):
            self._file(path.rpartition("/")[2])
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _entry(self, name: str) -> dict[str, object]:
        return {"sha256": self.server.promised[name], "size": len(FILES[name]), "pointerSize": 100}

    def _info(self) -> dict[str, object]:
        siblings = [
            {
                "rfilename": name,
                "size": len(body),
                "blobId": "b",
                **({"lfs": self._entry(name)} if len(body) > 10 else {}),
            }
            for name, body in FILES.items()
        ]
        return {
            "id": "Qwen/Tiny",
            "modelId": "Qwen/Tiny",
            "sha": COMMIT,
            "siblings": siblings,
            "private": False,
            "tags": [],
        }

    def _tree(self) -> list[dict[str, object]]:
        return [{"type": "file", "path": name, "size": len(body), "oid": "b"} for name, body in FILES.items()]

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, name: str) -> None:
        body = FILES[name]
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.server.fetched.append(name)
            if name not in self.server.stalled:
                self.wfile.write(body)
                return
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.server.half_sent.set()
            self.server.shut.wait(60)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    yield hub
    hub.shut.set()
    hub.shutdown()
    hub.server_close()


def environment(hub: Hub, folder: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder.parent / "hf"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}


def download(hub: Hub, folder: Path, model: str = "Qwen/Tiny") -> tuple[int, str, str]:
    done = run_cli("download", model, "--from", "hf", "--into", str(folder), env=environment(hub, folder))
    return done.returncode, done.stdout, done.stderr


def test_a_download_is_whole_checked_and_not_repeated(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    status, out, err = download(hub, folder)
    assert status == 0, err
    assert "已校验" in out
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert not (folder / "pytorch_model.bin").exists(), "pickles are left on the hub"
    assert "校验" in err, "progress is shown"
    hub.fetched.clear()
    assert download(hub, folder)[0] == 0
    assert hub.fetched == []


def test_one_that_is_broken_off_says_how_to_go_on_and_goes_on(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    hub.stalled.add("model.safetensors")
    command = [sys.executable, str(ENTRY), "download", "Qwen/Tiny", "--from", "hf", "--into", str(folder)]
    env = os.environ | environment(hub, folder) | {"QQVL_LAUNCHER": "./run_server.sh"}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, encoding="utf-8") as process:
        assert hub.half_sent.wait(60)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    again = f"./run_server.sh download Qwen/Tiny --from hf --into {folder}"
    assert again in said
    assert "--model-path models/qqvl-demo" in said
    started = run_cli("--model-path", str(folder), env={"QQVL_LAUNCHER": "./run_server.sh"})
    assert (started.returncode, len(started.stderr.splitlines())) == (3, 1)
    assert again in started.stderr
    hub.stalled.clear()
    hub.shut.set()
    assert download(hub, folder)[0] == 0
    assert not (folder / UNFINISHED).exists()


@pytest.mark.long
def test_one_that_never_began_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    for model in ("Qwen/Nope", "../etc"):
        assert download(hub, tmp_path / "m", model)[0] == 3
    for source in ("hf", "modelscope"):
        dead = {"HF_ENDPOINT": "http://127.0.0.1:9", "MODELSCOPE_DOMAIN": "127.0.0.1:9"}
        done = run_cli("download", "Qwen/Tiny", "--from", source, "--into", str(tmp_path / "n"), env=dead)
        assert done.returncode == 3
        last = done.stderr.splitlines()[-1]
        assert f"--into {tmp_path / 'n'}" in last
        assert "--from hf" in last
        assert "download Qwen/Tiny --into" in last
    assert not (tmp_path / "m").exists()
    assert not (tmp_path / "n").exists()


def test_an_update_that_is_broken_off_takes_nothing_out_of_use(hub: Hub, tmp_path: Path, demo: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo, folder)
    hub.promised["model.safetensors"] = "0" * 64
    status, _, said = download(hub, folder)
    assert (status, "校验不符" in said) == (3, True)
    assert not (folder / UNFINISHED).exists()


def test_a_place_that_cannot_be_written_is_not_the_networks_fault(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, said = download(hub, tmp_path / "file")
    assert status == 3
    assert "--into" in said.splitlines()[-1]
    assert "网络" not in said


def test_bytes_that_differ_from_the_checksum_are_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"bad")
    with pytest.raises(WeightsError, match="校验不符"):
        verify(tmp_path, {"w": hashlib.sha256(b"good").hexdigest()})
    assert not (tmp_path / "w").exists()


def test_an_unknown_model_and_a_dead_hub_are_one_line_each(hub: Hub, tmp_path: Path) -> None:
    for model, said in (("Qwen/Nope", "没有找到"), ("../etc", "作者/名字")):
        status, _, err = download(hub, tmp_path / "m", model)
        assert status == 3
        assert said in err.splitlines()[-1]
        assert "Traceback" not in err
    done = run_cli(
        "download",
        "Qwen/Tiny",
        "--from",
        "hf",
        "--into",
        str(tmp_path / "n"),
        env={"HF_ENDPOINT": "http://127.0.0.1:9"},
    )
    assert done.returncode == 3
    assert "检查网络" in done.stderr.splitlines()[-1]
