"""Draws docs/images/bench-*.svg from lines of JSON as the benchmarks print them: ``python benchmarks/charts.py``.

Without files: benchmarks/results.jsonl, the figures of docs/benchmarks.md. Of several lines of one benchmark the last
holds. A new run is shown by putting its line there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
WIDTH, LEFT, ROW = 720, 170, 30
FONT = "'Segoe UI','PingFang SC','Noto Sans CJK SC',Arial,sans-serif"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """``limit`` is a mark on the bar: what the machine would allow."""

    label: str
    value: float
    words: str
    strong: bool = True
    limit: float | None = None


@dataclass(frozen=True)
class Chart:
    name: str
    title: str
    bars: Sequence[Bar]
    note: str = ""


def chat_load(rows: Sequence[Row]) -> Chart:
    bars = [
        Bar(
            "一条一条答" if row["server"] == "plain" else f"同时 {row['chats']} 个群",
            row["out_tok_s"],
            f"{row['out_tok_s']:.0f} token/s",
            row["server"] != "plain",
        )
        for row in rows
    ]
    return Chart("chat-load", "几个群同时聊：每秒多少 token", bars)


def decode_limit(rows: Sequence[Row]) -> Chart:
    bars = [
        Bar(f"{row['n']} 条一起", row["ms"], f"{row['ms']:.1f} ms", limit=row["limit_ms"])
        for row in rows
        if row["what"] == "decode"
    ]
    return Chart("decode-limit", "解码一步用多久", bars, "竖线：内存带宽的极限")


def ttft_by_turn(rows: Sequence[Row]) -> Chart:
    bars = [Bar(f"第 {row['turn']} 轮", row["ttft_s"] * 1000, f"{row['ttft_s'] * 1000:.0f} ms") for row in rows]
    return Chart("ttft-by-turn", "聊得越久，第一个字慢多少", bars)


def neighbours(rows: Sequence[Row]) -> Chart:
    times = {"before": "从前", "now": "现在"}
    bars = [
        Bar(
            f"旁边 {row['busy']} 个，{times.get(row['spin'], row['spin'])}",
            row["tok_s"],
            f"{row['tok_s']:.1f} token/s",
            row["spin"] == "now",
        )
        for row in rows
    ]
    return Chart("neighbours", "旁边有程序占满核时：每秒多少 token", bars)


DRAWN: Final[Mapping[str, Callable[[Sequence[Row]], Chart]]] = {
    "chat_load": chat_load, "decode_limit": decode_limit, "ttft_by_turn": ttft_by_turn, "neighbours": neighbours,
}  # fmt: skip


def svg(chart: Chart, machine: Mapping[str, Any]) -> str:
    """Horizontal bars from zero; text beside each, so that colours say nothing alone."""
    most = max(bar.value for bar in chart.bars)
    room = WIDTH - LEFT - 120
    height = 64 + ROW * len(chart.bars) + 34
    about = f"{machine['cores']} 核 {machine['cpu']}，torch {machine['torch']}，{machine['date']}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="{FONT}" font-size="14">',
        f"<title>{escape(chart.title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#ffffff"/>',
        f'<text x="24" y="36" font-size="17" font-weight="600" fill="#1e211f">{escape(chart.title)}</text>',
    ]
    for at, bar in enumerate(chart.bars):
        top = 56 + ROW * at
        length = room * bar.value / most
        colour = "#12695c" if bar.strong else "#a9b2ae"
        parts.append(
            f'<text x="{LEFT - 12}" y="{top + 17}" text-anchor="end" fill="#474c49">{escape(bar.label)}</text>'
        )
        parts.append(f'<rect x="{LEFT}" y="{top + 4}" width="{length:.1f}" height="18" rx="4" fill="{colour}"/>')
        if bar.limit is not None:
            x = LEFT + room * bar.limit / most
            parts.append(f'<path d="M{x:.1f} {top}v26" stroke="#c4503a" stroke-width="2"/>')
        parts.append(f'<text x="{LEFT + length + 10:.1f}" y="{top + 17}" fill="#1e211f">{escape(bar.words)}</text>')
    below = "　".join(filter(None, (chart.note, about)))
    parts.append(f'<text x="24" y="{height - 16}" font-size="12" fill="#626864">{escape(below)}</text>')
    return "\n".join((*parts, "</svg>", ""))


def drawn(lines: Sequence[str]) -> dict[str, str]:
    """File names and what belongs in them."""
    told = {line["benchmark"]: line for line in map(json.loads, filter(str.strip, lines))}
    charts = {name: (DRAWN[name](line["rows"]), line["machine"]) for name, line in told.items() if name in DRAWN}
    return {f"bench-{chart.name}.svg": svg(chart, machine) for chart, machine in charts.values()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=[ROOT / "benchmarks" / "results.jsonl"])
    given = parser.parse_args()
    lines = [line for file in given.files for line in file.read_text("utf-8").splitlines()]
    for name, text in drawn(lines).items():
        (ROOT / "docs" / "images" / name).write_text(text, "utf-8")
        print(f"docs/images/{name}")


if __name__ == "__main__":
    main()
