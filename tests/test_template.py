"""What the tests start by forking is what a command of its own would be."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.template import Forked, Template, start_anew

SHOWN = """
import os, signal, sys
print(__name__, __file__, sys.argv, sys.orig_argv, sys.path[0], os.getcwd(), os.environ.get("QQVL_X"))
print(sys.stdin.read(), signal.getsignal(signal.SIGINT), file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shown.py").write_text(SHOWN, encoding="utf-8")
    (tmp_path / "sleeping.py").write_text("import time; print(1, flush=True); time.sleep(100)", encoding="utf-8")
    return tmp_path


@pytest.fixture
def template(folder: Path) -> Iterator[Template]:
    yield (made := Template(("json",), (folder,)))
    made.close()


def test_a_script_sees_what_it_would_see_by_itself(folder: Path, template: Template) -> None:
    command = (sys.executable, str(folder / "shown.py"), "3")
    env = {**os.environ, "QQVL_X": "十"}
    forked = template.run(command, env, 60, "说的")
    alone = subprocess.run(command, env=env, input="说的", capture_output=True, encoding="utf-8", check=False)
    assert (forked.returncode, forked.stdout, forked.stderr) == (alone.returncode, alone.stdout, alone.stderr)
    assert forked.returncode == 3


def test_an_end_by_a_signal_is_told_to_all_who_wait(folder: Path, template: Template) -> None:
    with ExitStack() as opened:
        nothing = opened.enter_context(open(os.devnull, "r+b")).fileno()
        process = template.start((sys.executable, str(folder / "sleeping.py")), os.environ, (nothing,) * 3)
        assert isinstance(process, Forked)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        waiting = [threading.Thread(target=process.wait) for _ in range(4)]
        for thread in waiting:
            thread.start()
        process.kill()
        for thread in waiting:
            thread.join()
        assert process.poll() == process.wait() == -9
        process.kill()


def test_who_brings_an_environment_of_his_own_is_started_anew(folder: Path, template: Template) -> None:
    with open(os.devnull, "r+b") as nothing:
        streams = (nothing.fileno(),) * 3
        command = (sys.executable, str(folder / "shown.py"), "0")
        started = [
            template.start(command, {**os.environ, "LD_PRELOAD": ""}, streams),
            template.start((sys.executable, "-c", "pass"), os.environ, streams),
            start_anew(command, os.environ, streams),
        ]
        for process in started:
            assert isinstance(process, subprocess.Popen)
            assert process.wait(60) == 0
