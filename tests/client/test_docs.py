"""docs/client.md tells every setting and every log line as the code has them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from qqvl_client.settings import PROJECT, Settings

DOCS = Path(__file__).resolve().parents[2] / "docs" / "client.md"
CLIENT = DOCS.parents[1] / "client" / "qqvl_client"
TEXT = DOCS.read_text(encoding="utf-8")


def log_lines() -> list[str]:
    """The first argument of every LOG call an owner sees at the default level."""
    found = []
    for path in CLIENT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                target = node.func.value
                ours = isinstance(target, ast.Name) and target.id == "LOG" and node.func.attr != "debug"
                if ours and isinstance(node.args[0], ast.Constant):
                    found.append(str(node.args[0].value))
    return found


def default_of(name: str) -> str:
    default = Settings.model_fields[name].default
    default = default.get_secret_value() if hasattr(default, "get_secret_value") else default
    if isinstance(default, tuple):
        default = ",".join(default)
    if isinstance(default, Path):
        default = default.relative_to(PROJECT)
    return str(default).lower() if isinstance(default, bool) else str(default)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_in_the_table_with_its_default_and_meaning(name: str) -> None:
    default = default_of(name)
    cell = f"`{default}`" if default else "空"
    assert f"| `{name}` | {cell} | {Settings.model_fields[name].description} |" in TEXT


def test_the_table_names_no_setting_that_is_gone() -> None:
    table = TEXT[TEXT.index("## 全部设置") : TEXT.index("## 日志里的话")]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(Settings.model_fields)


def opening(line: str) -> str:
    """How a line begins, as far as it tells it from others: what is filled in is …, and what explains comes after."""
    text = re.sub(r"%\.?\d*[sdf]", "…", line).replace(" ", "").replace("（…）", "…").lstrip("…；")
    return re.sub("…+", "…", re.split("[，：（。]", text)[0]).rstrip("…")


def told() -> list[str]:
    """The beginnings that the page explains."""
    table = TEXT[TEXT.index("## 日志里的话") : TEXT.index("## ncatbot 的许可证")]
    cells = re.findall(r"^\| (`.*?) \| [^|]+ \|$", table, re.MULTILINE)
    return [opening(span) for cell in cells for span in re.findall("`([^`]+)`", cell)]


@pytest.mark.parametrize("line", sorted(set(log_lines())))
def test_every_log_line_is_explained(line: str) -> None:
    begins = opening(line)
    assert len(begins) >= 2
    assert any(each.startswith(begins) or begins.startswith(each) for each in told()), begins
