"""Rewrite the settings table of README.md from the code: ``python scripts/settings_table.py``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "server"))

from qqvl_server.config import Knob, knobs  # noqa: E402

BLOCK = re.compile(r"(<!-- settings: [^\n]*-->\n).*?(<!-- /settings -->)", re.DOTALL)


def row(knob: Knob) -> str:
    """One line: key, flag, default, description."""
    flag = "—" if knob.in_file_only else f"`{knob.flag}`"
    value = None if knob.in_file_only else knob.info.default
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    default = "—" if value in ("", None, ()) else text if len(text) <= 40 else "…"
    return f"| `{knob.key}` | {flag} | {default} | {knob.info.description} |"


def main() -> None:
    readme = ROOT / "README.md"
    table = "\n".join(["| qqvl.yaml 里的名字 | 参数 | 默认 | 说明 |", "|---|---|---|---|", *map(row, knobs())])
    text = BLOCK.sub(lambda match: f"{match[1]}{table}\n{match[2]}", readme.read_text(encoding="utf-8"))
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
