"""Write the files that name every package with the hashes of its files; ``python scripts/lock.py``, which needs uv.

``requirements.lock`` is what the server needs but for torch, ``requirements-cuda.lock`` torch as PyPI has it (for CUDA)
with its libraries, ``client/*.lock`` what a client needs. They hold for every platform (PEP 508 markers).
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = "# 由 scripts/lock.py 写成，不要手改。安装：pip install --no-deps --require-hashes -r {}\n"
# What asks the driver how a card is doing is wanted everywhere; the rest belongs to torch's build.
OF_CUDA = re.compile(r"(torch|triton|nvidia-(?!ml-py).*|cuda-.*)==")


def compiled(*sources: str) -> list[str]:
    """One entry a package: its version, its marker, its hashes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        subprocess.run(
            ["uv", "pip", "compile", "-q", *sources, "-c", "constraints.txt", "--generate-hashes", "--universal",
             "--python-version", "3.11", "--no-header", "--no-annotate", "-o", str(out)],
            cwd=ROOT, check=True,
        )  # fmt: skip
        return re.split(r"\n(?=[A-Za-z0-9])", out.read_text(encoding="utf-8").strip())


def write(name: str, entries: list[str]) -> None:
    (ROOT / name).write_text(HEAD.format(name) + "".join(f"{entry}\n" for entry in entries), encoding="utf-8")


def main() -> int:
    # And what several servers share their truth by, so that one image does for one and for many.
    extras = [word for extra in ("postgres", "redis", "s3") for word in ("--extra", extra)]
    server = compiled("pyproject.toml", *extras)
    write("requirements.lock", [entry for entry in server if not OF_CUDA.match(entry)])
    write("requirements-cuda.lock", [entry for entry in server if OF_CUDA.match(entry)])
    write("client/ncatbot.lock", compiled("client/requirements.txt"))
    write("client/nonebot.lock", compiled("client/requirements-nonebot.txt"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
