"""`qqvl doctor` beside a server that runs: it knows it, leaves it alone, and tells when it runs on other settings."""

from __future__ import annotations

import pytest

from tests.api.conftest import KEY
from tests.running import RunningServer
from tests.test_doctor import examined


def test_a_running_server_is_known_and_left_alone(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    port = server.base.rpartition(":")[2]
    status, said = examined(capsys, "--port", port, "--data-dir", str(server.data_dir))
    ours = {name: one for name, one in said.items() if name not in ("napcat", "server", "picture")}
    assert not [one for one in ours.values() if one["state"] in ("failed", "warning")], said
    assert status == 0 or len(ours) < len(said)
    assert "正常" in said["service"]["message"]
    assert "qqvl 自己" in said["port"]["message"]
    assert "小明" in server.private("我叫小明", user="doctor-1")


def test_a_key_that_the_running_server_does_not_know_is_told(
    keyed: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--port", keyed.base.rpartition(":")[2], "--data-dir", str(keyed.data_dir))
    _, said = examined(capsys, *at, "--api-key", "sk-another")
    assert (said["key"]["state"], said["key"]["field"]) == ("failed", "server.api_keys（现在由 --api-keys 给出）")
    _, said = examined(capsys, *at, "--api-key", KEY)
    assert said["key"]["state"] == "ok"
