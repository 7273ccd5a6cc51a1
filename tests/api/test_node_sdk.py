"""OpenAI's own Node SDK against a running server: ``node/sdk.mjs`` asks, each of its cases is a test here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from tests.api.snippets import NODE_FOLDER, direct
from tests.pictures import base64_picture
from tests.running import RunningServer

SCRIPT = NODE_FOLDER / "sdk.mjs"
CASES = re.findall(r"^  async (\w+)\(\) \{$", SCRIPT.read_text("utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def told(bare: RunningServer) -> dict[str, str | None]:
    """What each case said: None, or its error. All in one process, whose start costs most."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (NODE_FOLDER / "node_modules" / "openai").is_dir():
        pytest.skip("the npm package openai is not installed: npm ci in tests/api/node")
    done = subprocess.run(
        ["node", str(SCRIPT), bare.base, "qqvl-demo", base64_picture()],
        env=direct(),
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return {line["name"]: line["error"] for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("case", CASES)
def test_the_node_sdk(told: dict[str, str | None], case: str) -> None:
    assert told[case] is None, told[case]


def test_the_locked_packages_come_from_no_particular_host() -> None:
    locked = json.loads((NODE_FOLDER / "package-lock.json").read_text("utf-8"))["packages"]
    assert not [name for name, package in locked.items() if "resolved" in package]
    wanted = json.loads((NODE_FOLDER / "package.json").read_text("utf-8"))["dependencies"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
