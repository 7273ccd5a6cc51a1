#!/usr/bin/env python3
"""Make the demo checkpoint: draw pictures, teach the eye, teach the language, write the folder, sit the exam.

    python models/make_demo.py                   # everything, into models/qqvl-demo (under an hour on two CPU cores)
    python models/make_demo.py --evaluate-only   # only the exam of the checkpoint that is there
    python models/make_demo.py --eye-only        # only the first stage; go on later with --resume
    python models/make_demo.py --from OLD        # the language side goes on from another demo's, in fewer steps
    python models/make_demo.py --tune OLD        # another demo goes on as a whole: harder drawings, when to join a talk
    python models/make_demo.py --resume          # go on from the checkpoints in --work

Needs torch, transformers, pillow and tqdm; no download, no GPU, no torchvision.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from demo_recipe.evaluate import gate_exam, sit_exam, swap_exam, write_report
from demo_recipe.eye_training import EyePlan
from demo_recipe.speech_training import SpeechPlan
from demo_recipe.team import Assignment, teach_together, write_tokenizer

HERE = Path(__file__).resolve().parent
# glibc gives big blocks back to the kernel after every step and asks for them again; keeping them halves a step's time.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_ARENA_MAX": "2"}


@dataclass(frozen=True)
class Times:
    """Minutes of training: by the clock, and of computing per core, which a machine with nothing else to do needs."""

    clock: float
    computing: float


def computing(workers: int) -> float:
    """Processor minutes so far per core, those of ended worker processes included."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return (own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime) / 60 / workers


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "qqvl-demo", help="folder of the finished checkpoint")
    parser.add_argument("--work", type=Path, default=HERE / "demo-work", help="folder for intermediate checkpoints")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes, one CPU core and 4 GB of memory each")
    parser.add_argument("--pictures", type=int, default=24000, help="drawn pictures to learn from, 150 kB each")
    parser.add_argument("--eye-steps", type=int, default=2400)
    parser.add_argument("--speech-steps", type=int, default=2200)
    parser.add_argument("--refine-steps", type=int, default=500)
    parser.add_argument("--each", type=int, default=120, help="exam cases per task")
    parser.add_argument(
        "--from", type=Path, dest="heir", help="go on from the language side of the demo in this folder"
    )
    parser.add_argument("--tune", type=Path, help="go on from the demo in this folder, eye and language together")
    parser.add_argument("--tune-steps", type=int, default=1500)
    parser.add_argument("--resume", action="store_true", help="use the checkpoints in --work")
    parser.add_argument("--eye-only", action="store_true", help="stop after the first stage, with eye.pt in --work")
    parser.add_argument("--evaluate-only", action="store_true")
    args = parser.parse_args()
    if args.heir is not None and args.heir.resolve() == args.out.resolve():
        parser.error("--from and --out are the same folder: the old tokenizer is needed until the end")
    if args.tune is not None and (args.heir is not None or args.eye_only or args.tune.resolve() == args.out.resolve()):
        parser.error("--tune goes on from a finished demo in another folder than --out, without --from and --eye-only")
    return args


def tune(args: argparse.Namespace) -> Times:
    """Harder tasks on top of a finished demo; its tokenizer stays."""
    start = time.monotonic()
    speech = args.work / "tuned.pt"
    if not args.resume:
        speech.unlink(missing_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    for file in args.tune.iterdir():
        if file.suffix in (".json", ".jinja") and file.name != "gate.json":
            shutil.copy(file, args.out)
    plan = SpeechPlan(
        args.tune_steps, rate=9e-4, copying=0, thaw=0, eye_share=0.8, pictures=64, refine=args.tune_steps,
        gate=0.22, drilled=0.25, warm_up=80,
    )  # fmt: skip
    share = args.pictures // args.workers
    eye = args.work / "eye.pt"
    task = Assignment(args.out, eye, speech, EyePlan(0), plan, args.seed, args.workers, share, tuned=args.tune)
    teach_together(task)
    return Times((time.monotonic() - start) / 60, computing(args.workers))


def train(args: argparse.Namespace) -> Times:
    """Both stages; leaves the finished folder in --out."""
    start = time.monotonic()
    eye, speech = args.work / "eye.pt", args.work / "speech.pt"
    if not args.resume:
        eye.unlink(missing_ok=True)
        speech.unlink(missing_ok=True)
    if not speech.exists() and not args.eye_only:
        write_tokenizer(args.out, args.seed)
    plan = SpeechPlan(args.speech_steps, refine=args.speech_steps)
    if args.heir is not None:
        plan = replace(plan, copying=0)  # it copies already
    share = args.pictures // args.workers
    task = Assignment(args.out, eye, speech, EyePlan(args.eye_steps), plan, args.seed, args.workers, share, args.heir)
    if args.eye_only:
        teach_together(replace(task, plan=None))
        return Times((time.monotonic() - start) / 60, computing(args.workers))
    teach_together(task)
    refined = replace(plan, steps=args.speech_steps + args.refine_steps, pictures=56)
    teach_together(replace(task, plan=refined, seed=args.seed + 50))
    return Times((time.monotonic() - start) / 60, computing(args.workers))


def evaluate(args: argparse.Namespace, times: Times | None) -> None:
    """The exam, written to EVALUATION.md in --out."""
    results = sit_exam(args.out, args.seed + 100, args.each)
    swapped = swap_exam(args.out, args.seed + 200, args.each)
    facts = {"seed": str(args.seed), "exam cases per task": str(args.each)}
    notes = args.out / "TRAINING.txt"
    if times is not None:
        machine = f"{platform.machine()} CPU, {args.workers} cores"
        spent = f"{times.clock:.0f} by the clock, {times.computing:.0f} of computing per core, drawing included"
        lines: tuple[str, ...] = (
            f"eye: {args.eye_steps} steps of 48 pictures",
            f"speech: {args.speech_steps} + {args.refine_steps} steps of about 4,500 tokens",
            f"minutes: {spent}",
            f"machine: {machine}",
        )
        if args.tune is not None:
            before = (args.tune / "TRAINING.txt").read_text(encoding="utf-8").splitlines()
            lines = (*before, f"then tuned: {args.tune_steps} steps of eye and language together, minutes {spent}")
        notes.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if notes.exists():
        facts |= dict(line.split(": ", 1) for line in notes.read_text(encoding="utf-8").splitlines())
    report = args.out / "EVALUATION.md"
    write_report(results, swapped, gate_exam(args.out), facts, report)
    print(report.read_text(encoding="utf-8"))


def main() -> None:
    """Train unless told otherwise, then evaluate."""
    args = arguments()
    if not args.evaluate_only and not ALLOCATOR.keys() <= os.environ.keys():
        # The allocator reads its settings when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    torch.set_flush_denormal(True)
    times = None if args.evaluate_only else train(args) if args.tune is None else tune(args)
    if times is not None:
        print(f"{times.clock:.1f} minutes by the clock, {times.computing:.1f} of computing per core")
    if not args.eye_only:
        evaluate(args, times)


if __name__ == "__main__":
    main()
