"""Compiling the kernels: what it starts dies with the process, whatever that dies of, and leaves nothing for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from qqvl_server.engine.cpu.compiling import built
from tests.running import ROOT

# Starts another program, as a compiler does, and waits for it.
DRIVER = (
    '#!/bin/sh\nsleep 300 &\necho $! > "{folder}/started.new"\nmv "{folder}/started.new" "{folder}/started"\nwait\n'
)


def compiler(folder: Path, script: str) -> str:
    path = folder / "compiler"
    path.write_text(script)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_compiles_dies_with_the_process(tmp_path: Path, how: signal.Signals) -> None:
    code = (
        "import sys, pathlib; from qqvl_server.engine.cpu.compiling import built;"
        "built(pathlib.Path(sys.argv[1]), sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "kept"), compiler(tmp_path, DRIVER.format(folder=tmp_path))]
    building = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT / "server")})
    try:
        wait_until((tmp_path / "started").exists)
        deepest = psutil.Process(int((tmp_path / "started").read_text()))
        family = [deepest, *psutil.Process(building.pid).children(recursive=True)]
        building.send_signal(how)
        building.wait(20)
        gone, left = psutil.wait_procs(family, timeout=20)
        assert not left
        assert deepest in gone
    finally:
        building.kill()
        building.wait()


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_compiler_that_fails_is_told_and_one_that_works_leaves_only_the_library(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        built(tmp_path, compiler(tmp_path, "#!/bin/sh\necho no such flag >&2\nexit 3\n"))
    assert failed.value.returncode == 3
    assert b"no such flag" in failed.value.stderr
    kept = tmp_path / "kept"
    left = kept / "building-of-a-process-that-was-killed"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    script = '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho made > "$2"\n'
    library = built(kept, compiler(tmp_path, script))
    assert list(kept.iterdir()) == [library]
    assert library.read_text() == "made\n"
