"""Where each setting's value comes from, and what is said when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from qqvl_server.config import knobs, resolve
from qqvl_server.errors import ConfigError
from tests.running import run_cli


def write(folder: Path, text: str) -> Path:
    path = folder / "qqvl.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path, "server:\n  port: 1003\n  max_body_mb: 3\nclient:\n  anything: 1\nchat:\n")
    env = {"QQVL_PORT": "1002", "QQVL_MAX_BODY_MB": "2", "PATH": "/bin", "QQVL_CLIENT_X": "1", "QQVL_API_KEY": "k"}
    for flags, used_env, used_file, wanted, source in (
        ({"port": "1001"}, env, file, 1001, "--port"),
        ({}, env, file, 1002, "QQVL_PORT"),
        ({}, {}, file, 1003, str(file)),
        ({}, {}, None, 9999, "默认"),
    ):
        resolved = resolve(flags, used_env, used_file)
        assert (resolved.settings.server.port, resolved.sources["server.port"]) == (wanted, source)


def test_lists_and_optional_numbers_from_every_source(tmp_path: Path) -> None:
    file = write(tmp_path, "server:\n  api_keys: [a, b]\nchat:\n  system_prompts:\n    group:1: 你是猫\n")
    settings = resolve({"temperature": "0.5"}, {"QQVL_BOT_NAMES": "小Q, Q酱"}, file).settings
    assert settings.server.api_keys == ("a", "b")
    assert settings.chat.bot_names == ("小Q", "Q酱")
    assert settings.generation.temperature == 0.5
    assert settings.chat.system_prompts == {"group:1": "你是猫"}


@pytest.mark.parametrize("written", ["[10001, 'o_openid']", "10001, o_openid", "'10001,o_openid'"])
def test_qq_numbers_may_be_written_as_numbers(tmp_path: Path, written: str) -> None:
    file = write(tmp_path, f"chat:\n  owners: {written}\n")
    assert resolve({}, {}, file).settings.chat.owners == ("10001", "o_openid")
    assert resolve({}, {}, write(tmp_path, "chat:\n  owners: 10001\n")).settings.chat.owners == ("10001",)
    assert resolve({"owners": "1,2"}, {"QQVL_OWNERS": "3"}, file).settings.chat.owners == ("1", "2")


@pytest.mark.parametrize(
    ("flags", "env", "text", "said"),
    [
        ({"port": "abc"}, {}, "", "--port"),
        ({"port": "-1"}, {}, "", "不能小于 0"),
        ({"temperature": "nan"}, {}, "", "temperature"),
        ({"top_p": "0"}, {}, "", "必须大于"),
        ({"engine": "warp"}, {}, "", "只能是"),
        ({}, {"QQVL_PORT": "x"}, "", "QQVL_PORT"),
        ({}, {"QQVL_PROT": "1"}, "", "QQVL_PORT"),
        ({}, {}, "server:\n  prot: 1", "port"),
        ({}, {}, "sever:\n  port: 1", "server"),
        ({}, {}, "server: 5", "server"),
        ({}, {}, "- 1\n- 2", "最外层"),
        ({}, {}, "server: [", "YAML"),
        ({}, {}, "server:\n  port: [1]", "port"),
        ({}, {}, "chat:\n  system_prompts: 5", "system_prompts"),
        ({}, {"QQVL_HOST": "0.0.0.0"}, "", "密钥"),
        ({}, {}, "server:\n  host: 192.168.1.5", "密钥"),
    ],
)
def test_every_mistake_is_one_line_that_names_its_place(
    tmp_path: Path, flags: dict[str, str], env: dict[str, str], text: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        resolve(flags, env, write(tmp_path, text))
    assert "\n" not in refused.value.message


def test_a_wider_address_is_taken_with_a_key_or_from_the_command_line(tmp_path: Path) -> None:
    assert resolve({}, {"QQVL_HOST": "0.0.0.0", "QQVL_API_KEYS": "k"}, None).settings.server.host == "0.0.0.0"
    assert resolve({"host": "0.0.0.0"}, {}, None).settings.server.host == "0.0.0.0"


def test_every_setting_is_described_and_named_once() -> None:
    names = [knob.name for knob in knobs()]
    assert len(names) == len(set(names))
    assert all(knob.info.description for knob in knobs())


def test_show_config_prints_values_with_their_sources_and_hides_secrets(tmp_path: Path) -> None:
    file = write(tmp_path, "server:\n  api_keys: [very-secret]\n")
    shown = run_cli("show-config", "--config", str(file), "--port", "8", env={"QQVL_MAX_NEW_TOKENS": "5"})
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert "server.port = 8    # --port" in lines
    assert "generation.max_new_tokens = 5    # QQVL_MAX_NEW_TOKENS" in lines
    assert "server.host = '127.0.0.1'    # 默认" in lines
    assert f"server.api_keys = ******    # {file}" in lines
    assert "very-secret" not in shown.stdout
    assert len(lines) == len(knobs())


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (("--no-such-flag",), 2),
        (("--port",), 2),
        (("--port", "99999"), 2),
        (("show-config", "--config", "/no/such/file"), 2),
        (("download", "not-a-model"), 3),
        (("--model-path", "/no/such/model"), 3),
        (("--help",), 0),
        (("serve", "--help"), 0),
    ],
)
def test_exit_status_and_one_line(flags: tuple[str, ...], status: int) -> None:
    done = run_cli(*flags)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == (0 if status == 0 else 1)
