"""The programs as a container or a unit starts them: by somebody without a name, a home or rights, from a tree that
nobody writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qqvl_server import derived
from tests.environment import must_be_at_hand
from tests.running import ENTRY, ROOT, RunningServer

NOBODY = 64_999
# It may read all, as it would in an image, where the tree is not below somebody's home; writing is another right.
AS_NOBODY = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search", "--no-new-privs", "env", "-i", "PATH=/usr/bin:/bin",
)  # fmt: skip


@pytest.fixture(scope="module")
def unprivileged() -> None:
    may = os.geteuid() == 0 and shutil.which("setpriv") is not None
    must_be_at_hand(may, "only root, with setpriv, can become nobody")


@pytest.fixture
def own(unprivileged: None) -> Iterator[Path]:
    """A folder of nobody's own, on a path that nobody may go."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def test_what_is_derived_stays_in_the_home_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    env: dict[str, str] = {}
    derived.keep_in(tmp_path / "data", env)
    # Torch would make it in /tmp, used or not.
    assert env == {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "data" / "cache" / "inductor")}


def test_what_is_derived_goes_to_the_data_where_there_is_no_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    env = {"CUDA_CACHE_PATH": "/var/cache/as-the-operator-says"}
    derived.keep_in(tmp_path / "data", env)
    assert env.pop("CUDA_CACHE_PATH") == "/var/cache/as-the-operator-says"
    assert env["XDG_CACHE_HOME"]
    assert all(Path(place).is_relative_to(tmp_path / "data" / "cache") for place in env.values())


@pytest.mark.parametrize("words", [("--model-path", "Nobody/Nothing"), ("show-config",)])
def test_who_has_neither_name_nor_home_is_told_what_is_wrong(own: Path, words: tuple[str, ...]) -> None:
    command = [*AS_NOBODY, sys.executable, str(ENTRY), *words, "--data-dir", str(own / "d")]
    done = subprocess.run(command, cwd="/", capture_output=True, encoding="utf-8", check=False)
    assert "Traceback" not in done.stderr
    assert (done.returncode == 0) == (words == ("show-config",)), done.stderr


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_server_writes_to_its_data_and_nowhere_else(own: Path) -> None:
    """It answers, with its own kernels, and what it derived is in its data."""
    mount = (
        'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t tmpfs -o mode=1777 tmpfs /dev/shm '
        '&& exec "$@"'
    )
    tried = subprocess.run(["unshare", "-m", "sh", "-c", mount, str(ROOT), "true"], check=False)
    must_be_at_hand(tried.returncode == 0, "nothing may be mounted here")
    scratch = own / "tmp"
    scratch.mkdir()
    os.chown(scratch, NOBODY, NOBODY)
    command = (
        "unshare", "-m", "sh", "-c", mount, str(ROOT), *AS_NOBODY, "HOME=/nonexistent", f"TMPDIR={scratch}",
        sys.executable, str(ENTRY),
    )  # fmt: skip
    with RunningServer(own / "d", command=command) as server:
        assert "小明" in server.private("我叫小明")
        assert "CPU 算子用不了" not in server.log()
        server.terminate()
        assert server.process.wait(60) == 0
    # Unless a run before has left them in the tree, which is looked at first.
    beside = (ROOT / "server" / "qqvl_server" / "engine" / "cpu" / "__pycache__").glob("kernels-*.so")
    assert [*(own / "d" / "cache" / "qqvl").glob("kernels-*.so"), *beside]
    assert list(scratch.iterdir()) == []
    assert {path.name for path in own.iterdir()} == {"d", "d.log", "tmp"}
