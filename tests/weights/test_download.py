"""``qqvl download`` against a hub on loopback: resumed, checked, and one line when it fails."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from qqvl_server.errors import WeightsError
from qqvl_server.weights.download import verify
from tests.running import run_cli

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
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    yield hub
    hub.shutdown()
    hub.server_close()


def download(hub: Hub, folder: Path, model: str = "Qwen/Tiny") -> tuple[int, str, str]:
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder.parent / "hf"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    done = run_cli("download", model, "--from", "hf", "--into", str(folder), env=env)
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
