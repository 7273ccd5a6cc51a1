"""The first ten minutes on a card: is every answer right there, and how fast is it, with each lever and without.

Nothing is fetched: the demo for what is right, a random model made on the device for what is fast. The report is
written anew after every part, and a part that fails does not keep the others from running.

    python benchmarks/gpu.py --device cuda:0 --size 8b --out gpu.json
    python benchmarks/gpu.py --device cpu --size tiny      # the script itself, without a card
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from card import CONTEXT, Report
from checkpoints import DEMO, ROOT, SIZES
from probes import Probes

from qqvl_server.engine import build
from qqvl_server.engine.cache.kv_cache import kv_dtype, kv_shape
from qqvl_server.engine.cpu.kernels import text_shape
from qqvl_server.engine.cuda.trial import Trial
from qqvl_server.engine.cuda.varlen import LIBRARIES, NamedKernel, varlen_metadata
from qqvl_server.engine.steps.core import EngineCore
from qqvl_server.engine.steps.request import Request, SamplingParams, Status
from qqvl_server.settings import EngineSettings, WeightsSettings
from qqvl_server.weights import devices
from qqvl_server.weights.load import load
from qqvl_server.weights.locate import locate

_LEVERS: Final[dict[str, dict[str, Any]]] = {
    "graphs off": {"cuda_graphs": "off"}, "ahead off": {"step_ahead": "off"},
    "graphs and ahead off": {"cuda_graphs": "off", "step_ahead": "off"}, "as shipped": {},
}  # fmt: skip


class Bench(Probes):
    """The parts of the report."""

    def machine(self, rows: dict[str, Any]) -> None:
        found = devices.survey()
        for name in ("torch", "transformers", "triton", "flash-attn"):
            try:
                rows[name] = version(name)
            except PackageNotFoundError:
                rows[name] = "-"
        rows |= {"python": platform.python_version(), "cuda": found.cuda, "hip": found.hip, "driver": found.driver}
        rows |= {"cards": [str(card) for card in found.cards], "archs": " ".join(found.archs)}

    def kernels(self, rows: dict[str, Any], model: Any) -> None:
        """Why each kernel is refused here, or how long a layer's attention takes of 16 chats of 1,000 tokens."""
        kv, dtype = kv_shape(model.config), kv_dtype(model)
        shape = text_shape(model.config, kv)
        own, why_not = build.own_kernels(self.device, dtype, shape, kv)
        rows["own layers"] = "right" if own is not None else why_not
        named = LIBRARIES if own is None else (NamedKernel("own Triton", own.attend, (16,)), *LIBRARIES)
        trial = Trial(self.device, dtype, kv, shape.heads, 64, CONTEXT)
        for kernel in named:
            for size in kernel.block_sizes:
                name = f"{kernel.name}, blocks of {size}"
                rows[name] = trial.refuses(kernel.attend, size) if self.is_card else "not tried without a card"
                if rows[name] is None:
                    rows[name] = {f"ms, {n} chats": self._attention(kernel, size, shape, kv, dtype, n) for n in (1, 16)}

    def _attention(self, kernel: NamedKernel, size: int, shape: Any, kv: Any, dtype: torch.dtype, count: int) -> float:
        width = -(-1000 // size)
        pool = (count * width, size, kv.kv_heads, kv.head_dim)
        keys, values = (torch.randn(pool, device=self.device).to(dtype) for _ in range(2))
        query = torch.randn(count, shape.heads, kv.head_dim, device=self.device).to(dtype)
        told = varlen_metadata([(range(n * width, (n + 1) * width), 999, 1) for n in range(count)], size, self.device)
        return self.milliseconds(partial(kernel.attend, query, keys, values, told, kv.head_dim**-0.5))

    def right(self, rows: dict[str, Any]) -> None:
        """The demo in float32: each way token for token what ``generate`` gives, with empty caches and full ones."""
        wishes = WeightsSettings(device=str(self.device), dtype="float32")
        for name, levers in _LEVERS.items():
            loaded = load(locate(str(DEMO), ROOT), wishes)
            model: Any = loaded.model
            prompts = [loaded.processor.tokenizer.encode(text) for text in ("你好", "今天天气很好" * 30, "一二三四五")]
            expected = []
            for ids in prompts:
                given = torch.tensor([ids], device=self.device)
                mask = torch.ones_like(given)
                out = model.generate(
                    input_ids=given, attention_mask=mask, max_new_tokens=24, do_sample=False, eos_token_id=None
                )
                expected.append(out[0, len(ids) :].tolist())
            core = build.build(model, EngineSettings(cpu_kernels="off", kv_cache_gb=0.5, **levers), 1024)
            for turn in ("empty", "full"):
                asked = [Request(f"{turn}{n}", f"{n}", ids, SamplingParams(24)) for n, ids in enumerate(prompts)]
                for one in asked:
                    core.add(one, {})
                self.finish(core)
                same = [one.output for one in asked] == expected
                rows[f"{name}, caches {turn}"] = "the same" if same else "DIFFERENT"

    def speed(self, rows: dict[str, Any], core: EngineCore, counts: tuple[int, ...]) -> None:
        """Tokens a second while ``counts`` chats of 500 tokens are answered at once."""
        steps = 4 if self.quick else 60
        for count in counts:
            asked = [self.request(20 if self.quick else 500, 10_000 if not self.quick else 64) for _ in range(count)]
            for request, patches in asked:
                core.add(request, patches)
            while any(not request.output for request, _ in asked):
                core.step()
            for _ in range(3):
                core.step()
            made, began = sum(r.made for r, _ in asked), time.perf_counter()
            for _ in range(steps):
                core.step()
            self.sync()
            seconds = time.perf_counter() - began
            rows[f"tokens/s, {count} at once"] = round((sum(r.made for r, _ in asked) - made) / seconds, 1)
            for request, _ in asked:
                core.abort(request)
            self.finish(core)

    def plain(self, rows: dict[str, Any], model: Any) -> None:
        """Transformers' own generate, one reply at a time."""
        ids = torch.randint(1000, 100_000, (1, 20 if self.quick else 500), device=self.device)
        new = 8 if self.quick else 64
        began = time.perf_counter()
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=None
        )
        self.sync()
        rows["tokens/s, 1 at once"] = round(new / (time.perf_counter() - began), 1)

    def first_tokens(self, rows: dict[str, Any], core: EngineCore) -> None:
        """Milliseconds from a request to its first token, alone: words, then pictures."""
        for words, pictures in ((70, 0), (600, 0), (100, 1), (100, 2)) + (() if self.quick else ((4000, 0), (100, 8))):
            found = []
            for _ in range(2 if self.quick else 5):
                request, patches = self.request(words, 1, pictures=pictures)
                began = time.perf_counter()
                core.add(request, patches)
                while request.status is not Status.FINISHED:
                    core.step()
                found.append((time.perf_counter() - began) * 1e3)
            rows[f"ms, {words} words, {pictures} pictures"] = round(statistics.median(found[1:]), 1)

    def memory(self, rows: dict[str, Any]) -> None:
        if self.is_card:
            rows["peak GB"] = round(torch.cuda.max_memory_allocated(self.device) / 1e9, 2)
            rows["reserved GB"] = round(torch.cuda.memory_reserved(self.device) / 1e9, 2)
            rows["free GB"] = round(torch.cuda.mem_get_info(self.device)[0] / 1e9, 2)

    def profile(self, rows: dict[str, Any], core: EngineCore) -> None:
        """What a step of 16 replies spends its time on."""
        asked = [self.request(50, 200) for _ in range(4 if self.quick else 16)]
        for request, patches in asked:
            core.add(request, patches)
        while any(not request.output for request, _ in asked):
            core.step()
        kinds = [torch.profiler.ProfilerActivity.CPU]
        kinds += [torch.profiler.ProfilerActivity.CUDA] if self.is_card else []
        with torch.profiler.profile(activities=kinds) as seen:
            for _ in range(4):
                core.step()
            self.sync()
        name = "self_device_time_total" if self.is_card else "self_cpu_time_total"
        events = sorted(seen.key_averages(), key=lambda event: -getattr(event, name))
        for event in events[:15]:
            rows[event.key[:60]] = f"{getattr(event, name) / 4000:.3f} ms a step, {event.count / 4:.0f} times"
        for request, _ in asked:
            core.abort(request)
        self.finish(core)


def run(bench: Bench, report: Report, counts: tuple[int, ...]) -> None:
    with report.part("machine") as rows:
        bench.machine(rows)
    with report.part("right") as rows:
        bench.right(rows)
    model = bench.model()
    with report.part("kernels") as rows:
        bench.kernels(rows, model)
    with report.part("truth") as rows, torch.inference_mode():
        bench.truth(rows, model)
    with report.part("packed weights") as rows, torch.inference_mode():
        bench.products(rows)
    with report.part("plain generate") as rows:
        bench.plain(rows, model)
    with report.part("speed, own kernels off") as rows:
        # First: layers that are fused stay so.
        bench.speed(rows, bench.by_libraries(model), counts)
        bench.memory(rows)
    gc.collect()
    with report.part("speed, torch.compile") as rows:
        # Before they are fused, too: it is Transformers' layers that are compiled.
        began = time.perf_counter()
        core = bench.engine(model, torch_compile="on")
        rows["seconds until it is ready"] = round(time.perf_counter() - began, 1)
        bench.speed(rows, core, counts)
        bench.memory(rows)
        del core
    for name, levers in _LEVERS.items():
        if not report.time_left:
            break
        # The caches of the one before must be gone before the next one's are made.
        gc.collect()
        with report.part(f"speed, {name}") as rows:
            bench.speed(rows, bench.engine(model, **levers), counts)
            bench.memory(rows)
    gc.collect()
    with report.part("numbers that are none") as rows:
        bench.poisoned(rows, bench.engine(model))
    gc.collect()
    with report.part("first tokens") as rows:
        core = bench.engine(model)
        bench.first_tokens(rows, core)
    with report.part("profile") as rows:
        bench.profile(rows, core)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--size", default="8b", choices=sorted(SIZES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=540)
    asked = parser.parse_args()
    quick = asked.size == "tiny"
    run(Bench(asked.device, asked.size, quick), Report(asked.out, asked.seconds), (1, 4) if quick else (1, 4, 16, 64))


if __name__ == "__main__":
    main()
