"""The systemd units: sound by systemd's own checkers, sealed off, and starting what is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.environment import must_be_at_hand
from tests.running import ROOT

UNITS = ROOT / "deploy" / "systemd"
EXPOSURE = 20
"""Tenths of systemd-analyze's points, of which a unit without any protection has 96."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units, with programs that are there in place of those in /opt/qqvl."""
    must_be_at_hand(shutil.which("systemd-analyze") is not None, "systemd-analyze is not installed")
    folder = tmp_path_factory.mktemp("units")
    shutil.copytree(UNITS, folder / "units")
    for unit in (folder / "units").glob("*.service"):
        text = unit.read_text(encoding="utf-8")
        unit.write_text(re.sub(r"/opt/qqvl/\.venv\S*/bin/python", "/bin/true", text), encoding="utf-8")
    return folder / "units"


def analyzed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], cwd=folder, capture_output=True, encoding="utf-8", check=False)


def test_systemd_takes_the_units(installed: Path) -> None:
    done = analyzed(installed, "verify", "--man=no", "./qqvl-server.service", "./qqvl-client.service")
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.parametrize("unit", ["qqvl-server.service", "qqvl-client.service"])
def test_a_unit_is_sealed_off(installed: Path, unit: str) -> None:
    done = analyzed(installed, "security", "--offline=yes", f"--threshold={EXPOSURE}", f"./{unit}")
    assert done.returncode == 0, done.stdout[-300:]


def test_the_units_start_programs_that_are_there() -> None:
    texts = {unit.name: unit.read_text(encoding="utf-8") for unit in UNITS.glob("*.service")}
    for name, text in texts.items():
        (program,) = re.findall(r"^ExecStart=\S+/bin/python /opt/qqvl/(\S+)", text, re.MULTILINE)
        assert (ROOT / program).is_file(), name
        for page in re.findall(r"^Documentation=file:///opt/qqvl/(\S+)", text, re.MULTILINE):
            assert (ROOT / page).is_file(), page
        for kept in ("ProtectSystem=strict", "DynamicUser=yes", "NoNewPrivileges=yes", "CapabilityBoundingSet=\n"):
            assert kept in text, (name, kept)
