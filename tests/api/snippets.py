"""Code blocks of Markdown pages, run as a reader would: pasted into a file, with base URL and model name changed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

NODE_FOLDER = Path(__file__).parent / "node"
_FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_BASE = re.compile(r"http://(?:localhost|127\.0\.0\.1|<[^>]+>):(?:8000|3001|9999)")
# Go compiles its standard library first.
_LONGEST_S = 240


@dataclass(frozen=True, slots=True)
class Snippet:
    """One block. ``line`` is that of its first line of code."""

    page: Path
    line: int
    language: str
    code: str

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}-{self.language}"

    def packages(self) -> tuple[str, ...]:
        """What a JavaScript block imports from elsewhere."""
        return tuple(re.findall(r"(?:from |require\()['\"]([\w-]+)['\"]", self.code))


def snippets(page: Path) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        indent, language, code = match.groups()
        line = text.count("\n", 0, match.start(3)) + 1
        found.append(Snippet(page, line, language, re.sub(f"^{indent}", "", code, flags=re.MULTILINE)))
    return found


def pointed_at(code: str, base: str, models: tuple[str, ...], served: str) -> str:
    """``code`` for the server at ``base`` that serves ``served`` in place of ``models``."""
    code = _BASE.sub(base, code)
    for model in sorted(models, key=len, reverse=True):
        code = re.sub(rf"(?<=[\"']){re.escape(model)}(?=[\"'])", served, code)
    return code


def missing_for(snippet: Snippet) -> str | None:
    """Why this machine cannot run a block, if so."""
    match snippet.language:
        case "javascript" | "typescript":
            if shutil.which("node") is None:
                return "node is not installed"
            for package in snippet.packages():
                if not (NODE_FOLDER / "node_modules" / package).is_dir():
                    return f"the npm package {package} is not installed (npm ci in tests/api/node)"
        case "go":
            if shutil.which("go") is None:
                return "go is not installed"
        case "bash":
            if shutil.which("curl") is None:
                return "curl is not installed"
    return None


def run(snippet: Snippet, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``code``, which is ``snippet``'s made fit, in ``folder``. Node looks for packages beside the file."""

    match snippet.language:
        case "bash":
            command = ["bash", "-euo", "pipefail", str(_written(folder / "block.sh", code))]
        case "python":
            command = [sys.executable, "-W", "error", str(_written(folder / "block.py", code))]
        case "javascript" | "typescript":
            suffix = "mjs" if re.search(r"^import ", code, re.MULTILINE) else "cjs"
            (folder / "node_modules").symlink_to(NODE_FOLDER / "node_modules")
            command = ["node", str(_written(folder / f"block.{suffix}", code))]
        case "go":
            command = ["go", "run", str(_written(folder / "main.go", code))]
        case other:
            raise AssertionError(f"{snippet.name}: nothing here runs {other}")
    return subprocess.run(
        command, cwd=folder, env=direct(), capture_output=True, text=True, timeout=_LONGEST_S, check=False
    )


def direct() -> dict[str, str]:
    """The environment without proxies, which would stand between a client and a server of this machine."""
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


def _written(path: Path, code: str) -> Path:
    path.write_text(code, encoding="utf-8")
    return path
