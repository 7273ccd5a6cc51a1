"""What a run of the tests left out and why, in one line; ``python tests/skips.py FILE…`` adds up several runs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path


def told(reasons: Mapping[str, int]) -> str:
    """Args:
    reasons: how many tests were skipped for each.
    """
    if not reasons:
        return "没有跳过的测试"
    each = "；".join(f"{reason}（{count}）" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]))
    return f"跳过了 {sum(reasons.values())} 项：{each}"


def main(files: list[str]) -> None:
    total: Counter[str] = Counter()
    for file in files:
        # A run that ended before its end left none.
        if Path(file).is_file():
            total.update(json.loads(Path(file).read_text(encoding="utf-8")))
    print(told(total))


if __name__ == "__main__":
    main(sys.argv[1:])
