"""Whom the server listens to: this machine unless its owner says otherwise, and then aloud."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import psutil
import pytest

from tests.api.conftest import KEY
from tests.api.wire import check_error, exchange, head
from tests.running import RunningServer, run_cli


def test_by_default_only_this_machine_can_connect(server: RunningServer) -> None:
    listening = [
        c for c in psutil.Process(server.process.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN
    ]
    assert [c.laddr.ip for c in listening] == ["127.0.0.1"]
    assert server.base.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "", "127.0.0.1.example.org"])
def test_a_wider_address_from_the_environment_or_a_file_needs_a_key(host: str, tmp_path: Path) -> None:
    file = tmp_path / "qqvl.yaml"
    file.write_text(f'server:\n  host: "{host}"\n', "utf-8")
    refused = (run_cli("--port", "0", env={"QQVL_HOST": host}), run_cli("serve", "--config", str(file), "--port", "0"))
    for ended, source in zip(refused, ("QQVL_HOST", str(file)), strict=True):
        assert ended.returncode == 2
        assert ended.stderr.startswith("错误：")
        assert len(ended.stderr.splitlines()) == 1
        assert source in ended.stderr
    assert run_cli("show-config", env={"QQVL_HOST": host, "QQVL_API_KEYS": "k"}).returncode == 0


def test_empty_keys_are_no_keys(tmp_path: Path) -> None:
    for keys in ("", ",", " , "):
        assert run_cli("--port", "0", env={"QQVL_HOST": "0.0.0.0", "QQVL_API_KEYS": keys}).returncode == 2


def own_address() -> str | None:
    """An address of this machine that others could use; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


def test_a_wider_address_on_the_command_line_warns_aloud_and_shows_no_history(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data", "--host", "0.0.0.0", wait=False) as server:
        warning = next(line for line in server.log().splitlines() if '"warning"' in line)
        assert "QQVL_API_KEYS" in warning
        address = own_address()
        if address is None:
            pytest.skip("this machine has no address of its own")
        port = httpx.URL(server.base).port
        with httpx.Client(base_url=f"http://{address}:{port}", trust_env=False) as http:
            assert http.get("/health").status_code in (200, 503)
            for path in ("/admin/chats", "/admin/chats/group/1/messages", "/metrics", "/openapi.json"):
                check_error(http.get(path, headers={"X-Forwarded-For": "127.0.0.1"}), 403)
            check_error(http.get("/health", headers={"Host": "evil.example"}), 403)


FORWARDED = (
    "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "CF-Connecting-IP",
    "True-Client-IP", "X-Client-IP", "Fastly-Client-IP", "X-Cluster-Client-IP", "X-Original-Forwarded-For",
    "X-Envoy-External-Address", "X-Azure-ClientIP", "X-Amzn-Trace-Id", "CDN-Loop", "Proxy-Connection", "x-FORWARDED",
)  # fmt: skip


def test_what_a_reverse_proxy_hands_on_is_not_this_machines_own(server: RunningServer) -> None:
    """Its connections come from this machine, whoever the caller is; without a header of its own nginx tells by 1.0."""
    for path in ("/admin/chats", "/admin/chats/group/1/messages", "/metrics", "/openapi.json"):
        for name in FORWARDED:
            for value in ("127.0.0.1", "203.0.113.9", ""):
                check_error(server.http.get(path, headers={name: value}), 403)
        status, _ = exchange(server, head(method="GET", path=path).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert status == 403
    told = [line for line in server.log().splitlines() if "反向代理" in line]
    assert len(told) == 1, "an owner is told once, not for each request"
    for path in ("/health", "/v1/models", "/metrics"):
        assert server.http.get(path, headers={"X-Request-ID": "1", "Accept": "*/*"}).status_code == 200
    assert server.http.get("/health", headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 200


def test_a_key_opens_the_admin_door_through_a_proxy_too(keyed: RunningServer) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9", "Authorization": f"Bearer {KEY}"}
    assert keyed.http.get("/admin/chats", headers=headers).status_code == 200
