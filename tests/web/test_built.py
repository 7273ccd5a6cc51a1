"""The page's built files, which come with the repository so that nobody needs Node, are those of its sources."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

from tests.running import ROOT

WEB = ROOT / "web"
STATIC = ROOT / "server" / "qqvl_server" / "api" / "web" / "static"
# As web/scripts/stamp.mjs has them.
FILES = ("index.html", "package-lock.json", "package.json", "svelte.config.js", "tsconfig.json", "vite.config.ts")
INDEX = (STATIC / "index.html").read_text("utf-8") if STATIC.is_dir() else ""


def digest() -> str:
    below = [path for name in ("public", "src") for path in (WEB / name).rglob("*") if path.is_file()]
    names = sorted((*FILES, *(path.relative_to(WEB).as_posix() for path in below)))
    lines = (f"{hashlib.sha256((WEB / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_built_files_are_those_of_the_sources() -> None:
    built = (STATIC / "sources.sha256").read_text("utf-8").strip()
    assert built == digest(), "web/ was changed and not built: npm ci && npm run build in web/, and commit the result"


def imported(script: str, seen: set[str]) -> None:
    """What ``script`` loads at once, not what it may load later."""
    if script in seen:
        return
    seen.add(script)
    text = (STATIC / "assets" / script).read_text("utf-8")
    for name in re.findall(r"""(?:\bfrom|\bimport)\s*["']\./([^"']+)["']""", text):
        imported(name, seen)


def test_the_first_load_is_small() -> None:
    first: set[str] = set()
    for name in re.findall(r'src="/assets/([^"]+)"', INDEX):
        imported(name, first)
    first.update(re.findall(r'href="/assets/([^"]+)"', INDEX))
    sizes = {name: len(gzip.compress((STATIC / "assets" / name).read_bytes())) for name in first}
    assert sum(sizes.values()) <= 300_000, sizes
    assert not [name for name in first if "katex" in name.lower()]


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    """A strict content policy holds: no script, style or event in markup."""
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", INDEX)
    assert not re.search(r'(?:src|href)="(?!/)', INDEX)
    for script in (STATIC / "assets").glob("*.js"):
        text = script.read_text("utf-8")
        assert not re.search(r"\beval\(|new Function\(", text), script.name
    for style in (STATIC / "assets").glob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", style.read_text("utf-8")), style.name


def test_fonts_are_woff2_only() -> None:
    kinds = {path.suffix for path in (STATIC / "assets").iterdir()}
    assert kinds <= {".js", ".css", ".woff2", ".svg"}


@pytest.mark.parametrize("folder", [WEB], ids=["web"])
def test_the_locked_packages_come_from_no_particular_host(folder: Path) -> None:
    locked = json.loads((folder / "package-lock.json").read_text("utf-8"))["packages"]
    assert not [name for name, package in locked.items() if "resolved" in package]
    told = json.loads((folder / "package.json").read_text("utf-8"))
    wanted = told["dependencies"] | told["devDependencies"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
