"""The prose is true: every setting, route, script and exit status it must name is there, and agrees with the code."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from qqvl_server.chat.commands import COMMANDS, Role
from qqvl_server.chat.preferences import OWN
from qqvl_server.config import OTHER_ENV, knobs, resolve, variables
from qqvl_server.flags import COMMANDS as COMMAND_LINE
from qqvl_server.settings import Settings
from tests.running import ROOT, RunningServer, run_cli

READMES = ("README.md", "README.en.md")


def test_the_settings_table_is_the_code() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `\w+\.\w+` \|.*$", text, re.MULTILINE)
    row = runpy.run_path(str(ROOT / "scripts" / "settings_table.py"))["row"]
    assert table == [row(knob) for knob in knobs()]


def test_the_example_file_is_the_code_and_changes_nothing() -> None:
    path = ROOT / "qqvl.example.yaml"
    assert path.read_text(encoding="utf-8") == runpy.run_path(str(ROOT / "scripts" / "settings_table.py"))["example"]()
    assert resolve({}, {}, path).settings == Settings()


def test_every_line_of_the_example_file_can_be_used(tmp_path: Path) -> None:
    text = (ROOT / "qqvl.example.yaml").read_text(encoding="utf-8")
    used = re.sub(r"^  # (\w+: \S.*)$", r"  \1", text, flags=re.MULTILINE)
    (tmp_path / "qqvl.yaml").write_text(used, encoding="utf-8")
    resolved = resolve({}, {}, tmp_path / "qqvl.yaml")
    assert resolved.settings == Settings()
    assert len([source for source in resolved.sources.values() if source != "默认"]) > 30


@pytest.fixture(scope="module")
def flags() -> frozenset[str]:
    """Every flag of every command that answers to ours, as their help tells them."""
    helps = [run_cli(*words, "--help").stdout for words in ((), *((name,) for name in COMMAND_LINE))]
    return frozenset(re.findall(r"--[a-z][a-z-]+", "".join(helps))) | {"--long"}


def code(text: str) -> list[str]:
    """Its lines and spans of code."""
    fenced = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [line for block in fenced for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("readme", READMES)
def test_what_a_readme_tells_to_run_is_there(readme: str, flags: frozenset[str]) -> None:
    said = code((ROOT / readme).read_text(encoding="utf-8"))
    programs = {name for line in said for name in re.findall(r"(?:^|\s)((?:\./)?[\w/]+\.(?:sh|py))\b", line)}
    assert {"./run_server.sh", "./run_tests.sh", "api_server_qwen3vl.py", "client/qqbot_client_full.py"} <= programs
    assert not [name for name in programs if not list(ROOT.glob(f"**/{name.removeprefix('./')}"))]
    ours = [line for line in said if not re.match(r"(\S+/)?pip |docker |curl ", line)]
    assert not {flag for line in ours for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)} - flags
    known = variables() | OTHER_ENV | {"QQVL_CLIENT_"}
    assert not {name for line in said for name in re.findall(r"QQVL_[A-Z_]+", line)} - known
    for command in ("show-config", "download", "setup", "doctor"):
        assert any(re.search(rf"\b{command}\b", line) for line in said), command


def test_the_english_settings_table_names_every_setting() -> None:
    text = (ROOT / "README.en.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+\.\w+)` \|", text, re.MULTILINE) == [knob.key for knob in knobs()]


@pytest.mark.parametrize("readme", READMES)
def test_a_readme_names_every_route_and_no_other(readme: str, server: RunningServer) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    page = (ROOT / "docs" / "page.md").read_text(encoding="utf-8")
    paths = server.http.get("/openapi.json").json()["paths"]
    for path, methods in paths.items():
        # What the page in the browser is made of has a page of its own.
        is_of_page = path.startswith(("/api/page/", "/admin/"))
        for method in methods if is_of_page else ():
            assert f"`{method.upper()} {path}`" in page, path
        assert is_of_page or path in text, path
    for method, path in re.findall(r"`(GET|POST) (/[^`\s?]+)[^`]*`", text):
        assert method.lower() in paths.get(path, ()), path


@pytest.mark.parametrize(
    "page",
    [
        *READMES,
        "docs/architecture.md",
        "docs/client.md",
        "docs/deploy.md",
        "docs/observability.md",
        "docs/docker.md",
        "docs/scale.md",
        "docs/windows.md",
        "SECURITY.md",
        "docs/bot.md",
        "docs/page.md",
        "docs/reliability.md",
        "CONTRIBUTING.md",
        "models/README.md",
    ],
)
def test_links_point_at_files_that_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (folder / target).exists(), f"{page}: {target}"


def test_the_changelog_is_current_and_the_architecture_page_short() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    lines = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 120


def listed(name: str) -> set[str]:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    return set(re.findall(r"`([^`]+)`", block))


def test_the_changelog_is_dated_and_lists_every_flag_and_every_door(
    flags: frozenset[str], server: RunningServer
) -> None:
    """``python scripts/settings_table.py http://…`` writes both lists anew."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert all(re.search(r"\d{4}-\d\d-\d\d", line) for line in re.findall(r"^## .*$", text, re.MULTILINE))
    paths = server.http.get("/openapi.json").json()["paths"]
    assert listed("doors") == {f"{method.upper()} {path}" for path in paths for method in paths[path]}
    client = subprocess.run(
        [sys.executable, str(ROOT / "client" / "qqbot_client_full.py"), "--help"],
        capture_output=True, encoding="utf-8", check=True,
    ).stdout  # fmt: skip
    assert listed("flags") >= (flags - {"--long"}) | set(re.findall(r"--[a-z][a-z-]+", client))


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        re.split(r"[\[<>=!;]", need)[0].lower()
        for extra, needs in {"": project["dependencies"], **project["optional-dependencies"]}.items()
        # Built against somebody's CUDA: only that machine knows which one fits.
        if extra not in ("flash", "bnb", "gpu", "postgres")
        for need in needs
    }
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert wanted <= pinned


def test_the_example_request_of_the_readme_works(server: RunningServer) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(r"/api/chat/private -H [^{]*(\{.*?\n\})'", text, re.DOTALL)
    assert match is not None
    answer = server.post("private", json.loads(match[1]))
    assert answer.status_code == 200
    assert "红" in answer.json()["reply"]


def test_every_test_that_a_promise_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text("utf-8"))
    assert len(named) > 40
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not re.search(rf"def {name}\(", (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert not missing


def test_every_test_that_the_threat_model_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if "tests/" in line]
    assert len(rows) > 12
    for row in rows:
        # In a row, a bare name lies beside the one before it.
        folder = ROOT
        for named in re.findall(r"`(tests/[\w/.]+|test_\w+\.py)`", row):
            path = ROOT / named if named.startswith("tests/") else folder / named
            assert path.exists(), named
            folder = path.parent


def test_the_owners_page_has_every_command_and_every_setting_of_one_chat() -> None:
    text = (ROOT / "docs" / "bot.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `/(\w+)(?: \[(\w+)\])?` (\w+) \| (\S+) \|", text, re.MULTILINE)
    may = {Role.MEMBER: "每个人", Role.ADMIN: "管理员以上"}
    wanted = [(c.name, c.argument, c.word, may[c.role] if c.name != "stop" else "提问的人，或管理员") for c in COMMANDS]
    assert sorted(rows) == sorted(wanted)
    listed = text.split("可以单独设的：")[1].split("。")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == OWN
    named = set(re.findall(r"`(\w+_\w+)`", text)) - {"message_id", "self_id", "at_me", "data_dir"}
    assert not {name for name in named if not name.startswith("qqvl_")} - {knob.name for knob in knobs()}
