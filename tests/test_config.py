"""Where each setting's value comes from, and what is said when it is wrong."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from qqvl_client import settings as client_settings
from qqvl_client.version import VERSION as CLIENT_VERSION
from qqvl_server.config import knobs, resolve, variables
from qqvl_server.errors import ConfigError
from qqvl_server.version import VERSION
from tests.running import ENTRY, ROOT, run_cli


def write(folder: Path, text: str) -> Path:
    path = folder / "qqvl.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path, "server:\n  port: 1003\n  max_body_mb: 3\nclient:\n  anything: 1\nchat:\n")
    env = {
        "QQVL_PORT": "1002",
        "QQVL_MAX_BODY_MB": "2",
        "PATH": "/bin",
        "QQVL_CLIENT_ADAPTER": "x",
        "QQVL_API_KEY": "k",
    }
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
        ({}, {"QQVL_API_KEYZ": "k"}, "", "是不是想写 QQVL_API_KEYS"),
        ({}, {"QQVL_API_KEY_": "k"}, "", "QQVL_API_KEY"),
        ({}, {"qqvl_api_keys": "k"}, "", "QQVL_API_KEYS"),
        ({}, {"QQVL_CLIENT_NAPCAT_TOKN": "k"}, "", "QQVL_CLIENT_NAPCAT_TOKEN"),
        ({}, {"QQVL_CONFIGS": "k"}, "", "QQVL_CONFIG"),
        ({}, {"QQVL_SYSTEM_PROMPTS": "k"}, "", "QQVL_SYSTEM_PROMPT"),
        ({"device": "gpu"}, {}, "", "cuda:0"),
        ({"device": "cuda:x"}, {}, "", "cuda:0"),
        ({"device": "cpu,cuda:0"}, {}, "", "cpu"),
        ({"device": "auto,cuda:0"}, {}, "", "auto"),
        ({"device": "cuda:0,cuda:0"}, {}, "", "两次"),
        ({"rate_limit": "5/min"}, {}, "", "60/minute"),
        ({}, {}, "chat:\n  system_prompts:\n    grp:1: x", "group:群号"),
        ({}, {}, "chat:\n  system_prompts:\n    群123: x", "group:群号"),
        ({}, {}, "chat:\n  system_prompts:\n    123: x", "group:群号"),
        ({}, {}, "chat:\n  system_prompts:\n    'group: 1': x", "group:群号"),
        ({}, {}, "chat:\n  system_prompts:\n    group:1: [x]", "group:1"),
        ({}, {}, "clients:\n  x: 1", "client"),
        ({}, {}, "server:\n  prot: 1", "port"),
        ({}, {}, "generation:\n  step_token: 1", "是不是想写 step_tokens"),
        ({}, {}, "generation:\n  step_tokens: 32\nengine:\n  step_tokens: 64", "写了两次"),
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


def test_settings_of_the_engine_are_still_read_where_files_of_before_have_them(tmp_path: Path) -> None:
    file = write(
        tmp_path, "generation:\n  step_tokens: 32\n  top_k: 5\n  cpu_kernels: off\nengine:\n  max_running: 3\n"
    )
    resolved = resolve({}, {}, file)
    engine = resolved.settings.engine
    assert (engine.step_tokens, engine.cpu_kernels, engine.max_running) == (32, "off", 3)
    assert resolved.settings.generation.top_k == 5
    assert resolved.sources["engine.step_tokens"] == str(file)
    shown = run_cli("show-config", "--config", str(file))
    assert "engine.step_tokens = 32" in shown.stdout
    assert shown.stderr.count("\n") == 1
    assert "generation: 段里的 step_tokens、cpu_kernels 现在属于 engine: 段" in shown.stderr
    assert not resolve({}, {}, write(tmp_path, "engine:\n  step_tokens: 32\n")).advice


def test_a_wider_address_is_taken_with_a_key_or_from_the_command_line(tmp_path: Path) -> None:
    assert resolve({}, {"QQVL_HOST": "0.0.0.0", "QQVL_API_KEYS": "k"}, None).settings.server.host == "0.0.0.0"
    assert resolve({"host": "0.0.0.0"}, {}, None).settings.server.host == "0.0.0.0"


def test_a_stop_may_wait_for_the_longest_answer() -> None:
    """Longer than ``request_timeout_s`` lets one take; less would cut it where one of several servers is drained."""
    found = resolve({"shutdown_grace_s": "600"}, {}, None).settings
    assert found.server.shutdown_grace_s > found.generation.request_timeout_s


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
        (("--device", "gpu"), 2),
        (("--quantization", "bnb-4bit"), 2),
        (("--model-path", "Qwen/Qwen3-VL-8B-Instruct"), 3),
        (("download",), 2),
        (("download", "a/b", "--from", "x"), 2),
        (("--help",), 0),
        (("download", "--help"), 0),
        (("--version",), 0),
        (("show-config", "--version"), 0),
        (("serve", "--help"), 0),
    ],
)
def test_exit_status_and_one_line(flags: tuple[str, ...], status: int) -> None:
    done = run_cli(*flags)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == (0 if status == 0 else 1)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (("--prot", "5"), "--port"),
        (("--prot=5",), "--port"),
        (("serve", "--model", "x"), "--model-path"),
        (("shwo-config",), "show-config"),
        (("show-config", "--max-new-token", "5"), "--max-new-tokens"),
        (("download", "a/b", "--form", "hf"), "--from"),
    ],
)
def test_a_flag_or_command_misspelt_is_guessed(typed: tuple[str, ...], meant: str) -> None:
    done = run_cli(*typed)
    assert done.returncode == 2
    assert f"是不是想写 {meant}？" in done.stderr


def test_help_has_the_everyday_flags_and_serve_help_every_one() -> None:
    short, full = run_cli("--help").stdout, run_cli("serve", "--help").stdout
    for flag in (
        "--model-path",
        "--device",
        "--host",
        "--port",
        "--api-keys",
        "--data-dir",
        "--version",
        "show-config",
    ):
        assert flag in short
    assert "serve --help" in short
    assert "--kv-cache-gb" not in short
    assert all(knob.flag in full for knob in knobs() if not knob.in_file_only)
    for english in ("usage:", "options:", "show this help"):
        assert english not in short + full


def test_every_program_has_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {VERSION, CLIENT_VERSION} == {project["version"]}
    assert run_cli("--version").stdout == f"qqvl {VERSION}\n"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    for words in ("show-config", "--help", "serve --help"):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; '{sys.executable}' '{ENTRY}' {words} | head -n 1"],
            capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
        assert (done.stderr, done.stdout.count("\n")) == ("", 1), words
        assert done.returncode == 0


def test_each_side_knows_every_variable_of_the_other() -> None:
    """They never import each other; ``python scripts/settings_table.py`` writes the lists."""
    for path, module in runpy.run_path(str(ROOT / "scripts" / "settings_table.py"))["foreign_names"]().items():
        assert path.read_text(encoding="utf-8") == module
    every = dict.fromkeys(
        variables() | client_settings.variables() | {"QQVL_CONFIG", "QQVL_TORCH", "QQVL_PLANT_FAULT"}, ""
    )
    client_settings.load(every, {})
    with pytest.raises(ConfigError) as wrong_value:
        resolve({}, every, None)
    assert "环境变量" not in wrong_value.value.message


def test_advice_is_typed_as_the_program_was_started() -> None:
    wrong = ("--model-path", "Qwen/Nope")
    for command, env, said in (
        ([sys.executable, str(ENTRY)], {"QQVL_LAUNCHER": "./run_server.sh"}, "./run_server.sh download Qwen/Nope"),
        ([sys.executable, str(ENTRY)], {}, f"{sys.executable} {ENTRY} download Qwen/Nope"),
        ([sys.executable, "-m", "qqvl_server"], {}, f"{sys.executable} -m qqvl_server download Qwen/Nope"),
    ):
        done = subprocess.run(
            [*command, *wrong], cwd=ROOT / "server", env={**os.environ, **env},
            capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
        assert done.returncode == 3
        assert said in done.stderr


def test_a_clients_key_in_place_of_the_servers_is_told(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    done = run_cli("--port", "0", "--data-dir", str(taken), env={"QQVL_API_KEY": "secret"})
    assert done.returncode == 2
    assert "QQVL_API_KEYS" in done.stderr
    assert "secret" not in done.stderr
