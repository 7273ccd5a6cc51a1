"""`qqvl setup`: answers become the settings file that both programs read; what is there already is not lost."""

from __future__ import annotations

import io
import stat
import sys
from pathlib import Path

import pytest
import yaml

from qqvl_client import settings as client
from qqvl_server import cli, config


def answered(monkeypatch: pytest.MonkeyPatch, file: Path, typed: str, *flags: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    return cli.main(["setup", "--config", str(file), *flags])


def test_four_answers_are_what_both_programs_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deep" / "qqvl.yaml"
    assert answered(monkeypatch, file, "qqvl-demo\n10.0.0.5:3002\nto/ken+1\n12345，67890\n2\n") == 0
    ours = config.resolve({}, {}, file).settings
    assert (ours.weights.model_path, ours.chat.group_reply, ours.chat.owners) == (
        "qqvl-demo",
        "all",
        ("12345", "67890"),
    )
    theirs = client.load({}, {}, file)
    assert theirs.napcat_ws_url == "ws://10.0.0.5:3002"
    assert theirs.napcat_token.get_secret_value() == "to/ken+1"
    assert theirs.owners == ("12345", "67890")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    said = capsys.readouterr().err
    assert "写好了" in said
    assert "to/ken+1" not in said
    assert [one.name for one in file.parent.iterdir()] == ["qqvl.yaml"]


@pytest.mark.parametrize(("typed", "flags"), [("", ()), ("qqvl-demo", ()), ("never read\n" * 9, ("--yes",))])
def test_the_end_of_input_and_yes_take_defaults(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    flags: tuple[str, ...],
) -> None:
    file = tmp_path / "qqvl.yaml"
    assert answered(monkeypatch, file, typed, *flags) == 0
    assert config.resolve({}, {}, file).settings.chat.group_reply == "auto"
    theirs = client.load({}, {}, file)
    token = theirs.napcat_token.get_secret_value()
    assert (theirs.napcat_ws_url, theirs.owners, len(token) >= 20) == ("ws://127.0.0.1:3001", (), True)
    # NapCat must be told of one that was made here.
    assert token in capsys.readouterr().err


def test_an_answer_that_will_not_do_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "qqvl.yaml"
    typed = "models/nope\n\nhttp://127.0.0.1\nws://h:1?access_token=x\nws://h:1\na b\nab\nme\n12345\n9\n3\n"
    assert answered(monkeypatch, file, typed) == 0
    said = capsys.readouterr().err
    assert said.count("不行：") == 6
    assert client.load({}, {}, file).napcat_ws_url == "ws://h:1"
    assert config.resolve({}, {}, file).settings.chat.group_reply == "off"


OLD = """# 我自己写的
server:
  port: 9998
  api_keys:
    - sk-very-secret
chat:
  owners: [12345]
  group_reply: smart
client:
  napcat_token: old-token
  stream: false
"""


def test_an_existing_file_is_shown_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "qqvl.yaml"
    file.write_text(OLD)
    assert answered(monkeypatch, file, "x\n" * 9) == 0
    told = capsys.readouterr()
    assert file.read_text() == OLD
    assert "port: 9998" in told.out
    assert "--force" in told.err
    assert "sk-very-secret" not in told.out + told.err
    assert "old-token" not in told.out + told.err


def test_force_changes_what_was_asked_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "qqvl.yaml"
    file.write_text(OLD)
    assert answered(monkeypatch, file, "\n\nnew-token\n\n\n", "--force") == 0
    found = yaml.safe_load(file.read_text())
    assert found["server"] == {"port": 9998, "api_keys": ["sk-very-secret"]}
    assert found["client"] == {"napcat_token": "new-token", "stream": False, "napcat_ws_url": "ws://127.0.0.1:3001"}
    assert found["chat"] == {"owners": "12345", "group_reply": "smart"}
    saved = tmp_path / "qqvl.yaml.bak"
    assert (saved.read_text(), stat.S_IMODE(saved.stat().st_mode)) == (OLD, 0o600)


@pytest.mark.parametrize("broken", ["server: [1", "sever:\n  port: 1\n", "client: 3\n"])
def test_a_file_that_is_no_settings_file_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    file = tmp_path / "qqvl.yaml"
    file.write_text(broken)
    assert answered(monkeypatch, file, "", "--force") == 2
    assert capsys.readouterr().err.startswith("错误：")
    assert file.read_text() == broken


def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert answered(monkeypatch, tmp_path / "file" / "qqvl.yaml", "", "--yes") == 2
    assert "写不了" in capsys.readouterr().err
