"""Behind a real nginx and a real HAProxy as deploy/ sets them up: a chat keeps its copy of the server, words come as
they are written, and what a copy may have begun is given to no other."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from qqvl_client.affinity import HEADER, session_of
from qqvl_client.message import Chat
from tests.api.test_behind_a_proxy import free_port, nginx
from tests.environment import must_be_at_hand
from tests.running import ROOT

FRONTS = {"nginx": ROOT / "deploy" / "nginx" / "qqvl.conf", "haproxy": ROOT / "deploy" / "haproxy" / "haproxy.cfg"}
NAMES = ("one", "two", "three")
CHATS = [Chat("group", str(20_000 + n), "10000") for n in range(60)]
WITHIN_S = 30


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, place: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(place, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, peer = super().get_request()
        self._open.add(connection)
        return connection, peer

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A front may hang up when it has read the status."""


class Copy:
    """Says its name to whoever asks."""

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        self.is_ready = True
        self.heard: list[str] = []
        self.go_on = threading.Event()
        copy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._say(200 if copy.is_ready else 503)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                copy.heard.append(self.path)
                if self.path == "/dies":
                    self.close_connection = True
                elif self.path == "/stream":
                    self._stream()
                else:
                    self._say(200 if copy.is_ready else 503)

            def _say(self, status: int) -> None:
                said = copy.name.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def _stream(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                self.close_connection = True
                self.wfile.write(b"data: first\n\n")
                self.wfile.flush()
                assert copy.go_on.wait(WITHIN_S)
                self.wfile.write(b"data: last\n\n")

            def log_message(self, *_: object) -> None:
                """It is the front that is asked."""

        self._http = _Listener(("127.0.0.1", port), Handler)
        self.port = int(self._http.server_address[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """And with it every connection that somebody keeps."""
        self._http.shutdown()
        self._http.server_close()
        self._http.cut()


class Front:
    def __init__(self, http: httpx.Client, copies: list[Copy]) -> None:
        self.http = http
        self.copies = copies

    def home(self, chat: Chat) -> str:
        answer = self.http.post("/api/chat/group", headers={HEADER: session_of(chat, "key")}, content=b"{}")
        assert answer.status_code == 200, answer.text
        return answer.text

    def homes(self) -> dict[str, str]:
        return {chat.id: self.home(chat) for chat in CHATS}

    def copy(self, name: str) -> Copy:
        return next(copy for copy in self.copies if copy.name == name)


@contextmanager
def front(program: str, folder: Path) -> Iterator[Front]:
    must_be_at_hand(shutil.which(program) is not None, f"{program} is not installed")
    folder.mkdir()
    port = free_port()
    with ExitStack() as stack:
        copies = [stack.enter_context(Copy(name)) for name in NAMES]
        site = FRONTS[program].read_text(encoding="utf-8")
        for number, copy in enumerate(copies, 1):
            assert f"127.0.0.1:999{number}" in site
            site = site.replace(f"127.0.0.1:999{number}", f"127.0.0.1:{copy.port}")
        listen = "listen 9999;" if program == "nginx" else "bind :9999"
        assert listen in site
        site = site.replace(
            listen, listen.replace(":9999", f" 127.0.0.1:{port}").replace("9999;", f"127.0.0.1:{port};")
        )
        if program == "nginx":
            command = nginx(folder, site)
        else:
            (folder / "haproxy.cfg").write_text(site)
            command = ["haproxy", "-f", str(folder / "haproxy.cfg"), "-db"]
        log = stack.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen(command, stdout=log, stderr=log)
        stack.callback(process.wait, 20)
        stack.callback(process.terminate)
        http = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WITHIN_S, trust_env=False))
        until(lambda: is_there(http), lambda: (folder / "log").read_text())
        yield Front(http, copies)


def is_there(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def until(happened: Callable[[], bool], said: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not happened():
        assert time.monotonic() < deadline, said()
        time.sleep(0.1)


@pytest.fixture(scope="module", params=FRONTS)
def fronted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with front(request.param, tmp_path_factory.mktemp("front") / "files") as running:
        yield running


def test_a_chat_keeps_its_copy_and_all_copies_have_chats(fronted: Front) -> None:
    homes = fronted.homes()
    assert fronted.homes() == homes
    assert set(homes.values()) == set(NAMES)


def test_what_belongs_to_no_chat_is_spread(fronted: Front) -> None:
    said = Counter(fronted.http.post("/v1/chat/completions", content=b"{}").text for _ in range(60))
    assert set(said) == set(NAMES)


def test_words_come_as_they_are_written(fronted: Front) -> None:
    for copy in fronted.copies:
        copy.go_on.clear()
    with fronted.http.stream("POST", "/stream", content=b"{}") as answer:
        lines = answer.iter_lines()
        # The rest is not written before this has come.
        assert next(lines) == "data: first"
        for copy in fronted.copies:
            copy.go_on.set()
        assert "data: last" in list(lines)


def test_what_a_copy_may_have_begun_is_given_to_no_other(fronted: Front) -> None:
    answer = fronted.http.post("/dies", headers={HEADER: session_of(CHATS[0], "key")}, content=b"{}")
    assert answer.status_code == 502
    assert sum(copy.heard.count("/dies") for copy in fronted.copies) == 1


@pytest.mark.parametrize("path", ["/admin/chats", "/metrics", "/openapi.json"])
def test_one_copys_own_doors_are_shut(fronted: Front, path: str) -> None:
    assert fronted.http.get(path).status_code == 404


@pytest.mark.parametrize("program", FRONTS)
def test_only_a_dead_copys_chats_move_and_they_come_back(program: str, tmp_path: Path) -> None:
    with front(program, tmp_path / "files") as running:
        before = running.homes()
        dead = running.copy("two")
        dead.die()
        meanwhile = running.homes()
        assert {chat for chat in before if meanwhile[chat] != before[chat]} == {
            chat for chat, home in before.items() if home == "two"
        }
        with Copy("two", dead.port):
            until(lambda: running.homes() == before)


def test_haproxy_leaves_out_one_that_takes_nothing_new(tmp_path: Path) -> None:
    with front("haproxy", tmp_path / "files") as running:
        before = running.homes()
        running.copy("three").is_ready = False
        until(lambda: "three" not in {running.http.post("/x", content=b"").text for _ in range(9)})
        meanwhile = running.homes()
        assert all(meanwhile[chat] == home for chat, home in before.items() if home != "three")
