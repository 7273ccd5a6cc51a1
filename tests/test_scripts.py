"""The scripts a newcomer starts: they make the environment, mend one that is half made, and keep what is not theirs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.running import ROOT

BACKEND = """
import zipfile

NAMES = ("METADATA", "WHEEL", "RECORD")

def build_wheel(folder, config_settings=None, metadata_directory=None):
    info = {"METADATA": "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\n",
            "WHEEL": "Wheel-Version: 1.0\\nGenerator: tiny\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
            "RECORD": "".join(f"{name},,\\n" for name in ("tiny.py", *(f"tiny-1.dist-info/{n}" for n in NAMES)))}
    with zipfile.ZipFile(f"{folder}/tiny-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "")
        for name, text in info.items():
            wheel.writestr(f"tiny-1.dist-info/{name}", text)
    return "tiny-1-py3-none-any.whl"

build_editable = build_wheel
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tiny"
version = "1"
"""
ENTRY = 'import os, sys, tiny; print("started as", os.environ["QQVL_LAUNCHER"], *sys.argv[1:])'
FOLDERS = {"run_server.sh": ".venv", "run_client.sh": ".venv-client"}


class Checkout:
    """A project with these scripts that needs nothing but itself: the network is not asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("scripts", "server", "client"):
            (folder / name).mkdir(parents=True)
        for name in (*FOLDERS, "scripts/venv.sh"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "backend.py").write_text(BACKEND)
        (folder / "pyproject.toml").write_text(PROJECT)
        (folder / "constraints.txt").write_text("# nothing\n")
        (folder / "client" / "requirements.txt").write_text(".\n")
        for entry in ("server/api_server_qwen3vl.py", "client/qqbot_client_full.py"):
            (folder / entry).write_text(ENTRY)

    def run(self, script: str, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [f"./{script}", *flags],
            cwd=self.folder,
            env=os.environ | env,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    def interrupted(self, script: str, when: Path) -> str:
        """Start a script, press Ctrl-C once ``when`` is there; what it said."""
        # Tests that were started in the background ignore Ctrl-C, and what they start would, too.
        command = ["env", "--default-signal=INT", f"./{script}"]
        with subprocess.Popen(
            command, cwd=self.folder, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True
        ) as process:
            while not when.exists():
                assert process.poll() is None
                time.sleep(0.01)
            # A terminal tells every process of the group.
            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate()
        assert process.returncode in (130, -signal.SIGINT), said
        return said


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("checkout"))


@pytest.mark.parametrize("script", ["run_server.sh", pytest.param("run_client.sh", marks=pytest.mark.long)])
def test_ctrl_c_in_the_first_seconds_is_mended_by_the_next_start(checkout: Checkout, script: str) -> None:
    said = checkout.interrupted(script, checkout.folder / FOLDERS[script] / "bin" / "python")
    assert "重新运行" in said
    assert "Traceback" not in said
    done = checkout.run(script, "--port", "1")
    assert (done.returncode, done.stdout) == (0, f"started as ./{script} --port 1\n"), done.stderr
    again = checkout.run(script)
    assert (again.stdout, again.stderr) == (f"started as ./{script}\n", "")


def without_pip(venv: Path) -> None:
    shutil.rmtree(next(venv.glob("lib/python*/site-packages/pip")))


def half_a_pip(venv: Path) -> None:
    shutil.rmtree(next(venv.glob("lib/python*/site-packages/pip")) / "_internal")
    next(venv.glob(".*stamp")).unlink()


def python_gone(venv: Path) -> None:
    for link in (venv / "bin").glob("python*"):
        link.unlink()
        link.symlink_to("/nonexistent/python3")


def an_older_systems(venv: Path) -> None:
    """The system went to another Python: bin/python runs, but looks for its packages elsewhere."""
    packages = next(venv.glob("lib/python*"))
    packages.rename(packages.with_name("python3.9"))


def only_folders(venv: Path) -> None:
    shutil.rmtree(venv)
    (venv / "bin").mkdir(parents=True)


def killed_while_installing(venv: Path) -> None:
    """pip writes a package's RECORD last; without one it takes the package for installed for ever."""
    packages = next(venv.glob("lib/python*/site-packages"))
    (packages / "tiny.py").unlink()
    (packages / "tiny-1.dist-info" / "RECORD").unlink()
    (packages / "~iny-0.dist-info").mkdir()
    next(venv.glob(".*stamp")).unlink()


@pytest.mark.long
@pytest.mark.parametrize(
    ("script", "harm"),
    [
        ("run_server.sh", without_pip),
        ("run_client.sh", half_a_pip),
        ("run_server.sh", python_gone),
        ("run_client.sh", an_older_systems),
        ("run_server.sh", only_folders),
        ("run_client.sh", killed_while_installing),
    ],
)
def test_a_broken_environment_is_made_anew(checkout: Checkout, script: str, harm: object) -> None:
    assert checkout.run(script).returncode == 0
    assert callable(harm)
    harm(checkout.folder / FOLDERS[script])
    done = checkout.run(script)
    assert (done.returncode, done.stdout) == (0, f"started as ./{script}\n"), done.stderr
    assert "invalid distribution" not in done.stderr


def test_a_folder_of_somebody_elses_is_not_touched(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "p")
    theirs = checkout.folder / ".venv" / "thesis.txt"
    theirs.parent.mkdir()
    theirs.write_text("years of work")
    done = checkout.run("run_server.sh")
    assert (done.returncode, done.stdout) == (1, "")
    assert "不是虚拟环境" in done.stderr
    assert theirs.read_text() == "years of work"


def test_a_python_that_cannot_is_told_apart_from_none(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "p")
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "basename", "cat", "cksum", "grep", "find", "head", "env", "rm", "flock"):
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    assert "需要 Python 3.11" in checkout.run("run_server.sh", PATH=str(tools)).stderr
    assert "PYTHON=/no/such" in checkout.run("run_server.sh", PYTHON="/no/such").stderr
    # A Debian without python3-venv: Python runs, its ensurepip is not there.
    bare = tools / "python3"
    bare.write_text(
        f'#!/usr/bin/env bash\ncase "$*" in *ensurepip*) exit 1 ;; esac\nexec {shutil.which("python3")} "$@"\n'
    )
    bare.chmod(0o755)
    done = checkout.run("run_server.sh", PATH=str(tools))
    assert done.returncode == 1
    assert "-venv" in done.stderr
    assert not (checkout.folder / ".venv").exists()


def test_the_build_of_torch_is_picked_by_name(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "p")
    for wrong in ("gpu", "cuda", "rocm", "cu12", "../x"):
        done = checkout.run("run_server.sh", QQVL_TORCH=wrong)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert f"QQVL_TORCH={wrong}" in done.stderr
    for right in ("cpu", "cu126", "cu130", "rocm7.2"):
        assert checkout.run("run_server.sh", QQVL_TORCH=right, PYTHON="/no/such").returncode == 1


@pytest.mark.long
def test_kernels_that_could_not_be_tried_are_a_failure_where_ci_is_set_and_a_hint_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/triton_tests", tmp_path / "scripts")
    (tmp_path / ".venv-test").symlink_to(Path(sys.executable).parents[1])
    # pip has nowhere to ask.
    alone = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PIP_")}
    alone |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    for more, code, said in (({"CI": "true"}, 1, "CI 里不能跳过"), ({}, 0, "跳过显卡算子的测试")):
        done = subprocess.run(
            ["scripts/triton_tests"], cwd=tmp_path, env=alone | more, capture_output=True, text=True, check=False
        )
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
        assert not (tmp_path / ".venv-triton").exists()


def test_check_service_asks_the_doctor_and_installs_nothing(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "p")
    shutil.copy(ROOT / "scripts" / "check-service.sh", checkout.folder / "scripts" / "check-service.sh")
    done = checkout.run("scripts/check-service.sh", "--json", SERVER_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (2, "")
    assert "run_server.sh" in done.stderr
    assert not (checkout.folder / ".venv").exists()
    checkout.run("run_server.sh")
    done = checkout.run("scripts/check-service.sh", "--json", SERVER_URL="http://127.0.0.1:9")
    assert done.stdout == f"started as {checkout.folder}/run_server.sh doctor --no-send --json\n"
    assert "没有回答" in done.stderr
