"""The house: which way imports point, how large files grow, and that importing does nothing."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import ROOT

SOURCES = sorted(
    path
    for folder in ("server", "client", "models", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)
FORBIDDEN_NAMES = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_imports_point_one_way() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        env={"PYTHONPATH": "server:client", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("library", ["ncatbot", "nonebot"])
def test_each_bot_framework_is_imported_by_its_adapter_only(library: str) -> None:
    importers = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for node in ast.walk(tree(path))
        for name in _imported(node)
        if name.split(".")[0] == library
    }
    assert importers == {f"client/qqvl_client/adapters/{library}.py"}


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_room_is_a_drawer_and_files_stay_readable() -> None:
    assert not [path for path in SOURCES if path.name in FORBIDDEN_NAMES]
    long = {path.name: lines for path in SOURCES if (lines := path.read_text(encoding="utf-8").count("\n")) > 290}
    assert not long


def test_functions_stay_on_a_screen() -> None:
    long = [f"{path}:{f.lineno}" for path in SOURCES for f in functions(path) if (f.end_lineno or 0) - f.lineno >= 60]
    assert not long


def test_functions_are_typed() -> None:
    """Also where mypy is not asked; what a lambda or ``self`` is, is seen."""
    bare = []
    for path in SOURCES:
        for f in functions(path):
            if any(ast.unparse(decorator) == "triton.jit" for decorator in f.decorator_list):
                continue  # Triton's language, in which an annotation is an instruction
            given = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs, f.args.vararg, f.args.kwarg]
            untyped = [a for a in given if a is not None and a.annotation is None and a.arg not in ("self", "cls")]
            if untyped or f.returns is None:
                bare.append(f"{path}:{f.lineno} {f.name}")
    assert not bare


def test_package_files_are_empty() -> None:
    for path in SOURCES:
        if path.name == "__init__.py" and path.is_relative_to(ROOT / "server"):
            assert path.read_text(encoding="utf-8") == "", path


def test_importing_the_server_reads_no_settings_and_loads_no_torch() -> None:
    code = (
        "import sys, pathlib; before = set(sys.modules)\n"
        "import qqvl_server.app, qqvl_server.cli\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT / "server",
        env={"PATH": "/usr/bin:/bin", "QQVL_PORT": "not a number", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
