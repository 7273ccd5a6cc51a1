"""Waiting threads give the cores to other programs: every way in tells the runtime before torch loads it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.running import ENTRY, ROOT

_START_S = 90


def told(command: list[str], wanted: str, env: dict[str, str]) -> str:
    """What GNU's OpenMP says of itself when it is loaded, by its own variable; the process is killed then."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "OMP_", "KMP_", "QQVL_"))}
    clean |= {"OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": str(ROOT / "server")} | env
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=clean)
        try:
            deadline = time.monotonic() + _START_S
            while time.monotonic() < deadline:
                ended = process.poll() is not None
                log.seek(0)
                seen = log.read().decode(errors="replace")
                if "OPENMP DISPLAY ENVIRONMENT END" in seen:
                    return next(line.strip() for line in seen.splitlines() if wanted in line)
                assert not ended, seen
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
    raise AssertionError("OpenMP was never loaded")


@pytest.mark.parametrize(
    "entry",
    [
        [str(ENTRY)],
        ["-m", "qqvl_server"],
        ["-c", "import sys; from qqvl_server.cli import main; sys.exit(main())", "serve"],
    ],
    ids=["script", "module", "console script"],
)
def test_a_waiting_thread_spins_shortly_by_whichever_way_the_server_is_started(
    entry: list[str], tmp_path: Path
) -> None:
    command = [sys.executable, *entry, "--port", "0", "--data-dir", str(tmp_path / "data")]
    assert told(command, "GOMP_SPINCOUNT", {}).endswith("'2000'")


def test_what_the_operator_has_set_stays(tmp_path: Path) -> None:
    command = [sys.executable, str(ENTRY), "--port", "0", "--data-dir", str(tmp_path / "data")]
    assert told(command, "OMP_WAIT_POLICY", {"OMP_WAIT_POLICY": "active"}).endswith("'ACTIVE'")


def test_benchmarks_measure_what_is_served() -> None:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import inprocess"]
    assert told(command, "GOMP_SPINCOUNT", {}).endswith("'2000'")
