"""What this project is made of, and what is known against it: an SBOM of the locked packages, then an audit of them.

Writes ``dist/sbom.cdx.json`` (CycloneDX 1.6). Needs cyclonedx-bom, which comes with the development extra. The audit
needs pip-audit and the network; where it could look nothing up it says so, and not that all is well.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-cuda.lock", "client/nonebot.lock", "client/ncatbot.lock")


def sbom(into: Path) -> dict[str, Any]:
    """Every package of every lock, with the hashes of its files; the programs' own component is the project."""
    together = "".join((ROOT / lock).read_text(encoding="utf-8") for lock in LOCKS)
    into.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", "requirements", "--pyproject", str(ROOT / "pyproject.toml"),
         "--output-reproducible", "--output-format", "JSON", "--output-file", str(into), "-"],
        input=_once(together), encoding="utf-8", check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    made: dict[str, Any] = json.loads(into.read_text(encoding="utf-8"))
    return made


def _once(text: str) -> str:
    """Two programs share packages; an SBOM names each once."""
    entries: dict[str, str] = {}
    for entry in text.replace(" \\\n", " ").splitlines():
        if entry and not entry.startswith("#"):
            entries[entry.split(" ")[0]] = entry
    return "\n".join(entries.values())


def audit() -> int:
    """The number of packages with a known fault, over all locks."""
    if shutil.which("pip-audit") is None:
        print("没有 pip-audit，跳过已知漏洞的检查：pip install pip-audit")
        return 0
    faults = 0
    for lock in LOCKS:
        done = subprocess.run(
            ["pip-audit", "-r", str(ROOT / lock), "--disable-pip", "--require-hashes", "-f", "json"],
            capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
        try:
            packages = json.loads(done.stdout)["dependencies"]
        except ValueError:
            print(f"{lock}：没有查成，多半没有联网：{done.stderr.strip().splitlines()[-1]}")
            continue
        known = [one for one in packages if one.get("vulns")]
        skipped = sum("skip_reason" in one for one in packages)
        looked_up = len(packages) - skipped
        print(f"{lock}：查了 {looked_up} 个包，{len(known)} 个有已知漏洞；{skipped} 个没有查到（多半没有联网）")
        for one in known:
            print(f"  {one['name']} {one['version']}：{'、'.join(fault['id'] for fault in one['vulns'])}")
        faults += len(known)
    return faults


def main() -> int:
    into = ROOT / "dist" / "sbom.cdx.json"
    print(f"{into.relative_to(ROOT)}：{len(sbom(into)['components'])} 个包")
    return 1 if audit() else 0


if __name__ == "__main__":
    sys.exit(main())
