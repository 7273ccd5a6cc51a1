"""How the client is built: who knows an adapter, and that importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

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


def test_only_the_cli_and_the_plugin_know_an_adapter() -> None:
    users = {path.name for path in FILES if any("qqvl_client.adapters" in name for name in imports_of(path))}
    assert users == {"cli.py", "nonebot_plugin.py"}


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
