"""What one token costs as chats, history and blocks grow: the engine's own bookkeeping must not show."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import checkpoints
import torch
from figures import median, report
from inprocess import Engine


def main() -> None:
    parser = argparse.ArgumentParser(description="会话变多、历史变长、缓存块变多时，一个 token 要花多少时间")
    parser.add_argument("--size", choices=checkpoints.SIZES, default="small")
    parser.add_argument("--tokenizer", type=Path, default=checkpoints.DEMO)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--chats", default="1,4,16,32", help="同时几个会话（历史 512）")
    parser.add_argument("--history", default="256,1024,4096", help="历史多长（4 个会话）")
    parser.add_argument(
        "--blocks", default="2000,100000", help="缓存共有多少块（4 个会话，历史 512，用演示大小的模型）"
    )
    parser.add_argument("--steps", type=int, default=12)
    given = parser.parse_args()
    chats, history, blocks = ([int(n) for n in text.split(",")] for text in (given.chats, given.history, given.blocks))
    folder = checkpoints.folder(given.size, given.tokenizer)
    held = max(max(chats) * 600, 4 * (max(history) + 100)) + 1024
    engine = Engine(folder, device=given.device, dtype=given.dtype, tokens=held, step_tokens=2048)
    rows = [_row(engine, "chats", n, n, 512, given.steps) for n in chats]
    rows += [_row(engine, "history", n, 4, n, given.steps) for n in history]
    tiny = checkpoints.folder("tiny", given.tokenizer)
    for n in blocks:
        pool = Engine(tiny, device=given.device, dtype=given.dtype, tokens=n * 16, step_tokens=2048)
        rows.append(_row(pool, "blocks", n, 4, 512, given.steps))
    report("scale", rows, size=given.size, device=given.device.split(":")[0])


def _row(engine: Engine, what: str, n: int, chats: int, history: int, steps: int) -> dict[str, Any]:
    seconds = median(engine.decode_steps(chats, history, steps))
    return {
        "grows": what, "n": n, "chats": chats, "history": history, "step_ms": seconds * 1000,
        "ms_per_token": seconds * 1000 / chats,
    }  # fmt: skip


if __name__ == "__main__":
    main()
