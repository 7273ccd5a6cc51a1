"""How the client is built: who imports what, and how large anything gets."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = Path(__file__).resolve().parents[2] / "client"
FILES = sorted(path for path in CLIENT.rglob("*.py") if "__pycache__" not in path.parts)
MODULES = [path for path in FILES if path.name not in ("__init__.py", "nonebot_plugin.py")]


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("framework", ["ncatbot", "nonebot"])
def test_each_framework_is_imported_in_exactly_one_file(framework: str) -> None:
    users = [path.name for path in FILES if any(name.split(".")[0] == framework for name in imports_of(path))]
    assert users == [f"{framework}.py"]


def test_the_client_never_imports_the_server() -> None:
    assert not [path for path in FILES if any(name.startswith("qqvl_server") for name in imports_of(path))]


def test_only_the_cli_and_the_plugin_know_an_adapter() -> None:
    users = {path.name for path in FILES if any("qqvl_client.adapters" in name for name in imports_of(path))}
    assert users == {"cli.py", "nonebot_plugin.py"}


def test_files_and_functions_stay_small() -> None:
    lengths: dict[str, int] = {}
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 250, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lengths[f"{path.name}:{node.name}:{node.lineno}"] = (node.end_lineno or 0) - node.lineno + 1
    assert max(lengths.values()) <= 60, max(lengths, key=lambda name: lengths[name])
    assert statistics.median(lengths.values()) <= 10


def test_importing_the_core_has_no_effect(tmp_path: Path) -> None:
    """No file, no log handler, no framework: every module but the adapters, imported in an empty folder."""
    names = [
        ".".join(path.relative_to(CLIENT).with_suffix("").parts)
        for path in MODULES
        if path.parent.name == "qqvl_client"
    ]
    code = f"import {', '.join(names)}, sys, logging; assert not logging.getLogger().handlers; "
    code += "assert not {'ncatbot', 'nonebot'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(CLIENT)}, check=True)
    assert list(tmp_path.iterdir()) == []
