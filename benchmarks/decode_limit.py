"""A decode step against the memory's limit, and reading a prompt against the matrix units', measured in one run.

A step cannot be shorter than reading the weights and the keys and values once. Runs on CPU and CUDA.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import checkpoints
import torch
from figures import median, report
from inprocess import Engine, bandwidth, matmul_rate


def main() -> None:
    parser = argparse.ArgumentParser(description="解码一步离内存带宽的极限多远，读提示离矩阵乘法的极限多远")
    parser.add_argument("--size", choices=checkpoints.SIZES, default="small")
    parser.add_argument("--tokenizer", type=Path, default=checkpoints.DEMO)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batches", default="1,2,4,8,16", help="同时解码几条，逗号隔开")
    parser.add_argument("--context", type=int, default=768, help="每条已有多少 token")
    parser.add_argument("--prefill", default="64,256,1024", help="提示多长，逗号隔开")
    parser.add_argument("--steps", type=int, default=20, help="每种量几步，取中位数")
    parser.add_argument("--cuda-graphs", choices=("auto", "off"), default="auto", help="同服务器的同名设置")
    parser.add_argument("--step-ahead", choices=("auto", "off"), default="auto", help="同服务器的同名设置")
    given = parser.parse_args()
    batches = [int(n) for n in given.batches.split(",")]
    prompts = [int(n) for n in given.prefill.split(",")]
    folder = checkpoints.folder(given.size, given.tokenizer)
    held = max(batches) * (given.context + given.steps + 64) + max(prompts) + 1024
    engine = Engine(
        folder, device=given.device, dtype=given.dtype, tokens=held, step_tokens=max(*prompts, 2048),
        graphs=given.cuda_graphs == "auto", ahead=given.step_ahead == "auto",
    )  # fmt: skip
    speed = bandwidth(given.device)
    rate = matmul_rate(given.device, getattr(torch, given.dtype), 2048 if given.device == "cpu" else 8192)
    report(
        "decode_limit",
        [*_decodes(engine, batches, given, speed), *_prefills(engine, prompts, rate)],
        read_gb_s=speed / 1e9, matmul_gflop_s=rate / 1e9, device=given.device.split(":")[0], size=given.size,
        dtype=given.dtype, context=given.context, threads=torch.get_num_threads(),
        cuda_graphs=given.cuda_graphs, step_ahead=given.step_ahead,
    )  # fmt: skip


def _decodes(engine: Engine, batches: list[int], given: argparse.Namespace, speed: float) -> list[dict[str, Any]]:
    rows = []
    for batch in batches:
        seconds = median(engine.decode_steps(batch, given.context, given.steps))
        limit = (engine.weight_bytes + batch * given.context * engine.kv_bytes) / speed
        rows.append({
            "what": "decode", "n": batch, "ms": seconds * 1000, "tok_s": batch / seconds,
            "limit_ms": limit * 1000, "of_limit": limit / seconds,
        })  # fmt: skip
    return rows


def _prefills(engine: Engine, prompts: list[int], rate: float) -> list[dict[str, Any]]:
    text = engine.model.config.get_text_config()
    inner = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    rows = []
    for prompt in prompts:
        engine.prefill(prompt)
        seconds = median([engine.prefill(prompt) for _ in range(3)])
        work = 2 * engine.layer_weights * prompt + 2 * text.num_hidden_layers * inner * prompt**2
        rows.append({
            "what": "prefill", "n": prompt, "ms": seconds * 1000, "tok_s": prompt / seconds,
            "limit_ms": work / rate * 1000, "of_limit": work / rate / seconds,
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
