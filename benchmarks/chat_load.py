"""C chats at once against this server and its peers, interleaved in one run; ratios over ``plain_generate.py``.

python benchmarks/chat_load.py                                  # about two minutes on two cores
python benchmarks/chat_load.py --chats 1,4,8,16 --repeats 3
python benchmarks/chat_load.py --url http://127.0.0.1:8000 --url-model m    # beside an OpenAI-compatible server
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
from figures import median, report
from load import Workload, group_chat
from servers import NotStarted, PeakMemory, PlainGenerate, Process, Qqvl, TransformersServe

# They answer one at a time: how many chats wait does not change how fast they write.
_SERIAL = ("plain", "generate", "transformers")


class Elsewhere:
    """A server that somebody else started."""

    def __init__(self, base: str, model: str) -> None:
        self.base = base.rstrip("/").removesuffix("/v1")
        self.model = model
        self.ready_s: float | None = None
        self.process: Any = None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="多个群同时聊天：本服务器和别的服务器交替测，输出每秒 token 数与逐条回答（plain_generate.py）之比"
    )
    parser.add_argument(
        "--size", choices=checkpoints.SIZES, default="small", help="随机权重模型的大小，默认 small（219M）"
    )
    parser.add_argument("--tokenizer", type=Path, default=checkpoints.DEMO, help="分词器取自哪里，默认演示模型")
    parser.add_argument("--chats", default="1,4", help="同时几个群，逗号隔开，默认 1,4")
    parser.add_argument("--turns", type=int, default=6, help="每个群聊几轮")
    parser.add_argument("--max-tokens", type=int, default=64, help="每轮回答多少 token")
    parser.add_argument("--repeats", type=int, default=1, help="整套重复几遍，取中位数")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--door", choices=("openai", "qq"), default="openai", help="走哪个接口")
    parser.add_argument("--serial-chats", default="1", help="逐条回答的对手测哪些群数；它的速度与群数无关")
    parser.add_argument("--no-serial", action="store_true", help="不测 plain_generate.py，也就没有比值")
    parser.add_argument("--generate", action="store_true", help="也测本服务器的 --engine generate")
    parser.add_argument(
        "--transformers", action="store_true", help="也测 transformers serve（要装 transformers[serving]）"
    )
    parser.add_argument("--url", help="也测这个 OpenAI 兼容服务器，如 vLLM 的 http://127.0.0.1:8000")
    parser.add_argument("--url-model", default="m", help="它的模型名")
    parser.add_argument("--ignore-eos", action="store_true", help="给 --url 的服务器带上 ignore_eos 和 min_tokens")
    parser.add_argument("--flag", action="append", default=[], help="传给本服务器的参数，如 --flag=--step-tokens=512")
    return parser.parse_args()


def peers(given: argparse.Namespace, folder: Path, stack: contextlib.ExitStack) -> dict[str, Process | Elsewhere]:
    flags = [word for flag in given.flag for word in flag.split("=", 1)]
    flags += ["--max-new-tokens", str(given.max_tokens)]
    running: dict[str, Process | Elsewhere] = {}
    if not given.no_serial:
        running["plain"] = stack.enter_context(PlainGenerate(folder, given.dtype))
    if given.generate:
        running["generate"] = stack.enter_context(Qqvl(folder, "--engine", "generate", *flags, dtype=given.dtype))
    running["paged"] = stack.enter_context(Qqvl(folder, "--engine", "paged", *flags, dtype=given.dtype))
    if given.transformers:
        try:
            running["transformers"] = stack.enter_context(TransformersServe(folder, given.dtype))
        except NotStarted as reason:
            print(f"transformers serve 没有启动：{reason}")
    if given.url:
        running["url"] = Elsewhere(given.url, given.url_model)
    return running


def measure(given: argparse.Namespace, server: Process | Elsewhere, work: Workload) -> dict[str, Any]:
    door = given.door if isinstance(server, Qqvl) else "openai"
    work = replace(work, ignore_eos=given.ignore_eos and isinstance(server, Elsewhere))
    with PeakMemory(server.process.pid) if server.process else contextlib.nullcontext() as peak:
        outcome = asyncio.run(group_chat(server.base, server.model, work, door=door))
    row: dict[str, Any] = outcome.row()
    return row | {"rss_mib": peak.mib if peak else None}


def main() -> None:
    given = arguments()
    folder = checkpoints.folder(given.size, given.tokenizer)
    words = checkpoints.vocabulary(folder)
    counts = [int(count) for count in given.chats.split(",")]
    serial = {int(count) for count in given.serial_chats.split(",")}
    measured: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        running = peers(given, folder, stack)
        for server in running.values():
            asyncio.run(group_chat(server.base, server.model, Workload(words, chats=1, turns=1, max_tokens=8)))
        for _ in range(given.repeats):
            for count in counts:
                for name, server in running.items():
                    if name in _SERIAL and count not in serial:
                        continue
                    # A fresh seed each time: nobody has seen these words or pictures before.
                    work = Workload(words, chats=count, turns=given.turns, max_tokens=given.max_tokens)
                    measured[name, count].append(measure(given, server, work))
                    print(f"{name} C={count}: {measured[name, count][-1]['out_tok_s']:.1f} tok/s", flush=True)
        ready = {name: server.ready_s for name, server in running.items()}
    report("chat_load", _rows(measured), size=given.size, dtype=given.dtype, door=given.door, ready_s=ready)


def _rows(measured: dict[tuple[str, int], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    baseline = [run["out_tok_s"] for (name, _), runs in measured.items() if name == "plain" for run in runs]
    rows = []
    for (name, count), runs in measured.items():
        middle = {key: None if runs[0][key] is None else median([float(run[key]) for run in runs]) for key in runs[0]}
        ratio = middle["out_tok_s"] / median(baseline) if baseline and middle["out_tok_s"] else None
        rows.append({"server": name, "chats": count, "runs": len(runs), "x_serial": ratio, **middle})
    return rows


if __name__ == "__main__":
    main()
