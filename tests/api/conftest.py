"""Servers that several files of this folder share; each start costs seconds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from openai import OpenAI

from tests.pictures import encoded, picture
from tests.running import RunningServer

KEY, OTHER_KEY = "sk-first-0123456789", "密钥-à-二"
QQ_KEY, OPENAI_KEY, ADMIN_KEY, TWO_KEY = "sk-qq==", "sk-openai:1", "sk-admin=x", "sk-two"


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that wants a key: two that open all, some that open a part, half of them in a file.

    What of a schema it cannot compile it gives up.
    """
    folder = tmp_path_factory.mktemp("keyed")
    file = folder / "keys"
    file.write_text(f"\ufeff# 密钥\n\nadmin={ADMIN_KEY}\n  qq={TWO_KEY}  \nopenai={TWO_KEY}\n", "utf-8")
    file.chmod(0o644)
    given = ",".join((KEY, OTHER_KEY, f"qq={QQ_KEY}", f"openai={OPENAI_KEY}"))
    flags = ("--max-new-tokens", "8", "--api-keys-file", str(file), "--loose-schemas")
    with RunningServer(folder / "data", *flags, env={"QQVL_API_KEYS": given}) as server:
        yield server


@pytest.fixture(scope="session")
def gallery() -> Iterator[str]:
    """A web server of pictures on this machine, and of what only pretends to be one; its address."""
    web = ThreadingHTTPServer(("127.0.0.1", 0), Gallery)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}"
    web.shutdown()
    web.server_close()


class Gallery(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        moved = {"/moved.png": "/red.png", "/inward": "http://127.0.0.1/red.png", "/forever": "/forever"}
        page = {"/red.png": encoded(picture(size=(64, 64))), "/page.html": b"<html><img src=/red.png></html>"}
        body = page.get(self.path, b"")
        self.send_response(302 if self.path in moved else 200 if body else 404)
        if self.path in moved:
            self.send_header("Location", moved[self.path])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def tight(tmp_path_factory: pytest.TempPathFactory, gallery: str) -> Iterator[RunningServer]:
    """A server with little patience and a short queue, which may fetch pictures from the gallery."""
    folder = tmp_path_factory.mktemp("tight")
    flags = ("--max-new-tokens", "16", "--max-pending", "4", "--body-timeout-s", "2", "--max-body-mb", "2",
             "--max-buffered-mb", "4",
             "--media-allow", gallery.removeprefix("http://"))  # fmt: skip
    with RunningServer(folder / "data", *flags) as server:
        yield server


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The paged engine on the demo checkpoint, under two names, for all that asks the bare model."""
    folder = tmp_path_factory.mktemp("bare")
    names = "qqvl-demo,Qwen/Qwen3-VL-8B-Instruct"
    flags = ("--engine", "paged", "--served-model-name", names, "--media-allow", "127.0.0.1", "--max-new-tokens", "64")
    with RunningServer(folder / "data", *flags) as server:
        yield server


@pytest.fixture(scope="session")
def client(bare: RunningServer) -> Iterator[OpenAI]:
    """OpenAI's own client of that server."""
    with OpenAI(base_url=f"{bare.base}/v1", api_key="EMPTY", max_retries=0, timeout=60) as opened:
        yield opened
