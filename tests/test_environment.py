"""The tests say the same whatever the caller's environment says, and say what they left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import environment, skips
from tests.running import ROOT

HOSTILE = {
    "QQVL_PORT": "not a number", "SERVER_URL": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
    "HF_ENDPOINT": "http://127.0.0.1:1", "MODELSCOPE_DOMAIN": "127.0.0.1:1", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
    "OPENAI_API_KEY": "密钥", "ANTHROPIC_BASE_URL": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1",
    "ALL_PROXY": "socks5://127.0.0.1:1", "SSL_CERT_FILE": "/nonexistent", "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "1", "NCATBOT_CONFIG_PATH": "/nonexistent", "NODE_OPTIONS": "--no-such-option", "COLUMNS": "20",
    "LC_ALL": "C", "FORCE_COLOR": "1",
}  # fmt: skip


def test_nothing_of_the_callers_reaches_a_program_under_test() -> None:
    theirs = HOSTILE | {
        "PATH": "/bin",
        "HOME": "/root",
        "CI": "true",
        "OMP_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "0",
    }
    environment.clear(theirs)
    kept = {"PATH", "HOME", "CI", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "LC_ALL"}
    assert (set(theirs), theirs["LC_ALL"]) == (kept, "C.UTF-8")


@pytest.mark.long
def test_tests_of_programs_pass_in_a_hostile_environment() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/weights/test_download.py", "tests/test_config.py"],
        cwd=ROOT,
        env={**os.environ, **HOSTILE, "PYTHONOPTIMIZE": ""},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_what_was_skipped_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "a", tmp_path / "b", tmp_path / "gone"]
    files[0].write_text(json.dumps({"node is not installed": 2, "no compiler": 1}), encoding="utf-8")
    files[1].write_text(json.dumps({"no compiler": 2}), encoding="utf-8")
    skips.main([str(file) for file in files])
    assert capsys.readouterr().out == "跳过了 5 项：no compiler（3）；node is not installed（2）\n"
    skips.main([])
    assert capsys.readouterr().out == "没有跳过的测试\n"


def test_what_must_be_there_fails_in_ci_and_is_skipped_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    environment.must_be_at_hand(True, "x")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no x"):
        environment.must_be_at_hand(False, "no x")
    for other in ("", "false"):
        monkeypatch.setenv("CI", other)
        with pytest.raises(pytest.skip.Exception, match="no x"):
            environment.must_be_at_hand(False, "no x")


def test_long_tests_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    for flags, count in (((), "1 passed"), (("-m", "long"), "1 passed"), (("-m", "long or not long"), "2 passed")):
        file = tmp_path / "test_two.py"
        file.write_text("import pytest\n@pytest.mark.long\ndef test_a(): pass\ndef test_b(): pass\n")
        command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
        done = subprocess.run(
            [*command, *flags, str(file)], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
        )
        assert count in done.stdout, done.stdout
