"""The wheel, built from the sdist as an index would hold it, starts on the demo model wherever one stands."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.running import ROOT, RunningServer

STATIC = ROOT / "server" / "qqvl_server" / "api" / "web" / "static"
BUILT = ["/", *(f"/assets/{file.name}" for file in STATIC.glob("assets/*"))] if (STATIC / "index.html").exists() else []
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]))"


def built(kind: str, source: Path, into: Path) -> Path:
    command = [sys.executable, "-c", BUILD.format(kind), str(into)]
    done = subprocess.run(command, cwd=source, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what ``pip install`` of the wheel would put into site-packages."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    folder = tmp_path_factory.mktemp("package")
    copied = folder / "source"
    # Built from what git knows, and beside it: a build leaves folders of its own.
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in names.decode().rstrip("\0").split("\0"):
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_symlink():
                (copied / name).symlink_to((ROOT / name).readlink())
            else:
                (copied / name).write_bytes((ROOT / name).read_bytes())
    with tarfile.open(built("sdist", copied, folder)) as sdist:
        sdist.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    place = folder / "site-packages"
    with zipfile.ZipFile(built("wheel", unpacked, folder)) as wheel:
        wheel.extractall(place)
    return place


@pytest.mark.long
def test_the_wheel_starts_on_the_demo_in_any_folder(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = (sys.executable, "-m", "qqvl_server")
    with RunningServer(tmp_path / "d", command=command, env={"PYTHONPATH": str(installed)}) as server:
        assert server.http.get("/v1/models").json()["data"][0]["id"] == "qqvl-demo"
        assert "小明" in server.private("我叫小明")
        for path in ("/docs", "/docs/docs.js", *BUILT):
            assert server.http.get(path).status_code == 200, path


@pytest.mark.long
def test_the_wheel_advises_by_names_that_exist(installed: Path, tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(installed)}
    entry = "import sys; sys.argv[0] = 'qqvl'; from qqvl_server.entry import run; sys.exit(run())"
    for flags, said in (
        (("--quantization", "bnb-4bit"), f"{sys.executable} -m pip install bitsandbytes"),
        (("--model-path", "Qwen/X"), "qqvl download Qwen/X"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", entry, *flags],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert said in done.stderr


@pytest.mark.long
def test_the_wheel_has_both_commands_and_keeps_its_files_where_one_stands(installed: Path, tmp_path: Path) -> None:
    (info,) = installed.glob("qqvl-*.dist-info")
    commands = (info / "entry_points.txt").read_text(encoding="utf-8")
    assert "qqvl = qqvl_server.entry:run" in commands
    assert "qqvl-client = qqvl_client.entry:run" in commands
    env = os.environ | {"PYTHONPATH": str(installed)}
    for words, status in (
        (("qqvl_server", "setup", "--yes"), 0),
        (("qqvl_client", "--help"), 0),
        # NapCat is not there: told, by the token and address that were just set.
        (("qqvl_client", "doctor", "--no-send"), 1),
    ):
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
    assert "ws://127.0.0.1:3001" in done.stdout
    assert [one.name for one in tmp_path.iterdir()] == ["qqvl.yaml"]
