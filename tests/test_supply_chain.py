"""The locks hold what was tested, file by file; the SBOM names all of it."""

from __future__ import annotations

import re
import runpy
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.environment import must_be_at_hand
from tests.running import ROOT

SERVER = ("requirements.lock", "requirements-cuda.lock")
CLIENT = {"client/ncatbot.lock": "client/requirements.txt", "client/nonebot.lock": "client/requirements-nonebot.txt"}


def name_of(need: str) -> str:
    return re.split(r"[\s\[<>=!;]", need.strip())[0].lower().replace("_", "-")


def entries(lock: str) -> dict[str, set[str]]:
    """Package → versions; fails where one has no hash."""
    found: dict[str, set[str]] = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", (ROOT / lock).read_text(encoding="utf-8")):
        if not entry.startswith("#"):
            name, _, version = entry.partition("==")
            assert "--hash=sha256:" in entry, entry
            found.setdefault(name.lower(), set()).add(version.split()[0])
    return found


@pytest.fixture(scope="module")
def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {name.lower(): version for name, _, version in (line.partition("==") for line in lines if "==" in line)}


def test_the_servers_locks_hold_all_it_needs(pinned: dict[str, str]) -> None:
    """``python scripts/lock.py`` writes them anew."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = {lock: entries(lock) for lock in SERVER}
    together = locked[SERVER[0]] | locked[SERVER[1]]
    for need in project["dependencies"]:
        assert together[name_of(need)] == {pinned[name_of(need)]}, need
    # A build for CPUs must not have to take apart what is for cards.
    assert not any(re.match(r"torch$|triton$|nvidia-(?!ml-py$)|cuda-", name) for name in locked[SERVER[0]])
    assert "torch" in locked[SERVER[1]]


@pytest.mark.parametrize("lock", CLIENT)
def test_a_clients_lock_holds_all_it_needs(lock: str, pinned: dict[str, str]) -> None:
    locked = entries(lock)
    for need in (ROOT / CLIENT[lock]).read_text(encoding="utf-8").split():
        assert locked[name_of(need)] == {pinned[name_of(need)]}, need


@pytest.mark.parametrize("lock", [*SERVER, *CLIENT])
def test_a_lock_has_no_other_version_than_the_tests(lock: str, pinned: dict[str, str]) -> None:
    assert not {name: found for name, found in entries(lock).items() if name in pinned and found != {pinned[name]}}


def test_the_sbom_names_every_locked_package(tmp_path: Path) -> None:
    must_be_at_hand(find_spec("cyclonedx_py") is not None, "cyclonedx-bom is not installed")
    made = runpy.run_path(str(ROOT / "scripts" / "supply_chain.py"))["sbom"](tmp_path / "sbom.json")
    named = {(one["name"].lower(), one["version"]) for one in made["components"]}
    locked = {(name, v) for lock in (*SERVER, *CLIENT) for name, versions in entries(lock).items() for v in versions}
    assert named == locked
    assert made["metadata"]["component"]["name"] == "qqvl"
