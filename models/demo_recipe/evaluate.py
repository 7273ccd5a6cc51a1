"""Runs the exam through the real processor and greedy generation, and writes the report."""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from PIL import Image
from tqdm import tqdm
from transformers import Qwen3VLForConditionalGeneration

from .checkpoint import StillProcessor, load_model
from .exam_cases import Case, cases, user
from .exam_drawings import exam_picture
from .exam_gate import area_under_curve, prompts
from .gate_turns import SILENT, SPEAK

BARS = {
    "colour": 0.97, "shape": 0.97, "describe": 0.97, "count": 0.90, "count, other hand": 0.92,
    "first or second": 0.90, "third-last picture": 0.90, "earlier picture": 0.90, "name": 0.95, "tool call": 0.90,
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A case, what the model said and whether it passes."""

    case: Case
    answer: str
    right: bool


@torch.no_grad()
def ask(network: Qwen3VLForConditionalGeneration, processor: StillProcessor, case: Case, most_tokens: int = 80) -> str:
    """The greedy answer to a case, pictures decoded from their encoded bytes."""
    text = processor.apply_chat_template(
        case.messages, tools=case.tools or None, tokenize=False, add_generation_prompt=True
    )
    images = [Image.open(io.BytesIO(picture.data)).convert("RGB") for picture in case.pictures]
    inputs = processor(text=[text], images=images or None, return_tensors="pt")
    output = network.generate(**inputs, max_new_tokens=most_tokens)
    answer = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    return str(answer).split("<|im_end|>")[0].strip()


def sit_exam(folder: Path, seed: int, each: int, dtype: torch.dtype = torch.float32) -> list[Result]:
    """All cases, in order."""
    network, processor = load_model(folder, dtype)
    results = []
    for case in tqdm(cases(seed, each), desc="exam", mininterval=5):
        answer = ask(network, processor, case)
        results.append(Result(case, answer, case.judge(answer)))
    return results


def swap_exam(folder: Path, seed: int, pairs: int) -> float:
    """Share of picture pairs of different colour and shape for which the same prompt gets two different answers."""
    network, processor = load_model(folder)
    rng = Random(seed)
    changed = 0
    for _ in range(pairs):
        one, two = rng.sample(range(8), 2)
        messages = [user("这是什么？", (picture := exam_picture(rng, colour=one)))]
        first = ask(network, processor, Case("swap", messages, bool, [picture]))
        second = ask(network, processor, Case("swap", messages, bool, [exam_picture(rng, colour=two)]))
        changed += first != second
    return changed / pairs


@torch.no_grad()
def gate_exam(folder: Path) -> tuple[int, float]:
    """How many lines, and the area under the curve of the bare log-odds of speaking."""
    network, processor = load_model(folder)
    speak, silent = (processor.tokenizer.encode(word)[0] for word in (SPEAK, SILENT))
    scores, labels = [], []
    for messages, label in prompts():
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        logits = network(**processor(text=[text], return_tensors="pt")).logits[0, -1]
        scores.append(float(logits[speak] - logits[silent]))
        labels.append(label)
    return len(labels), area_under_curve(scores, labels)


def _share(results: list[Result]) -> str:
    return f"{sum(r.right for r in results) / len(results):.1%}"


def _table(results: list[Result]) -> list[str]:
    by_task: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_task[result.case.task].append(result)
    lines = ["| task | n | right | asked for |", "| --- | --- | --- | --- |"]
    for task, part in by_task.items():
        bar = f"≥ {BARS[task]:.0%}" if task in BARS else "–"
        lines.append(f"| {task} | {len(part)} | {_share(part)} | {bar} |")
    return lines


def _breakdown(results: list[Result]) -> list[str]:
    """Single objects by file format and by the longer side of the picture."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.case.task in ("colour", "shape", "describe"):
            picture = result.case.pictures[0]
            side = max(picture.size)
            span = "up to 128 px" if side <= 128 else "129–400 px" if side <= 400 else "401–1024 px"
            groups[f"1 {picture.file_format}"].append(result)
            groups[f"2 {span}"].append(result)
    lines = ["| single objects | n | right |", "| --- | --- | --- |"]
    return lines + [f"| {name[2:]} | {len(groups[name])} | {_share(groups[name])} |" for name in sorted(groups)]


def write_report(
    results: list[Result], swapped: float, gate: tuple[int, float], facts: dict[str, str], path: Path
) -> None:
    """EVALUATION.md: how the checkpoint was made, what it gets right, and a few of its mistakes.

    swapped, gate: what `swap_exam` and `gate_exam` gave.
    """
    wrong = [r for r in results if not r.right][:12]
    lines = [
        "# Evaluation of the demo checkpoint", "",
        "Written by the recipe. Every picture is newly drawn and encoded, half of them in a style that training never",
        "uses, those by another hand (`exam_other_hand.py`) all in styles that it never uses; names and cities are not",
        "those of training, and wordings were written apart from its grammar (which may spell some of them too). In a",
        "chat the third-last picture is shown once more beside the question, as the server does. Answers are greedy,",
        "through the real processor and `generate`, from the bytes.",
        "",
        *[f"- {name}: {value}" for name, value in facts.items()], "",
        *_table(results), f"| another picture, another answer | – | {swapped:.1%} | always |",
        f"| join a talk unasked, unseen scenes: area under the curve | {gate[0]} | {gate[1]:.3f} | ≥ 0.85 |", "",
        *_breakdown(results), "", "Some wrong answers:", "",
        *[f"- {r.case.task}: `{_last_words(r.case)}` → `{r.answer[:90].replace(chr(10), ' ')}`" for r in wrong],
    ]  # fmt: skip
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _last_words(case: Case) -> str:
    content = case.messages[-1]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    shown = "; ".join(
        f"{p.label.count}× colour {p.label.colour} shape {p.label.shape} {p.size} {p.file_format}"
        for p in case.pictures
    )
    return f"{text} [{shown}]" if shown else text
