"""Both stages as a team: workers draw their own pictures, hold their own conversations and share gradients."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from . import tokenizer as tokens
from .checkpoint import inherit, load_model, save_model
from .corpus import corpus
from .drawing import random_label
from .episode import Album
from .eye_training import EyePlan, load_eye, new_eye, train_eye
from .network import CONTEXT, new_network
from .pictures import make_pool
from .speech_training import SpeechPlan, Teacher, load_state, save_state, steps_done, train_speech

CONVERSATIONS = 4000
EXAM = 480


@dataclass(frozen=True)
class Assignment:
    """What the team has to do; stages whose checkpoint (`eye`, `speech`) is there go on from it.

    eye_plan, plan: for the whole team, plan None to stop after the eye; pictures: number that each worker draws;
    heir: folder of a demo whose language side a new one goes on from; tuned: of one that goes on as a whole.
    """

    out: Path
    eye: Path
    speech: Path
    eye_plan: EyePlan
    plan: SpeechPlan | None
    seed: int
    workers: int
    pictures: int
    heir: Path | None = None
    tuned: Path | None = None


def write_tokenizer(folder: Path, seed: int) -> None:
    """Learn the tokenizer from conversations about imagined pictures and write its files."""
    rng = Random(seed)
    album = Album([random_label(rng) for _ in range(2000)])
    template = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")
    tokens.save(tokens.build(corpus(album, CONVERSATIONS, seed), template), template, folder, CONTEXT)


def _work(rank: int, task: Assignment, meeting: str) -> None:
    """One worker; the first also saves."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=task.workers)
    pool = make_pool(task.pictures, task.seed + 10 + rank, processes=1)
    if task.tuned is None and not task.eye.exists():
        exam = make_pool(EXAM, task.seed + 1, processes=1) if rank == 0 else []
        share = replace(task.eye_plan, batch=task.eye_plan.batch // task.workers)
        train_eye(pool, exam, share, task.seed, task.eye, keeps=rank == 0)
        distributed.barrier()
    if task.plan is None:
        distributed.destroy_process_group()
        return
    tokenizer = tokens.load(task.out)
    if task.tuned is None:
        network = new_network(tokenizer, task.seed)
        if task.heir is not None and not task.speech.exists():
            inherit(network, tokenizer, task.heir)
        tower, heads = load_eye(task.eye, task.seed)
        network.model.visual.load_state_dict(tower.state_dict())
    else:
        # Helper heads are not part of a demo: new ones learn to read its tower while the rate warms up.
        network, heads = load_model(task.tuned)[0].train(), new_eye(task.seed)[1]
    plan = task.plan.shared(task.workers)
    teacher = Teacher(network, heads, pool, plan, Random(task.seed + rank))
    done = load_state(teacher, task.speech) if task.speech.exists() else 0

    def keep(step: int) -> None:
        if rank == 0:
            save_state(teacher, step, task.speech)
            save_model(network, task.out)

    train_speech(teacher, tokenizer, task.seed + 1000 * rank, keep, done)
    distributed.destroy_process_group()


def teach_together(task: Assignment) -> None:
    """Start the team and wait for it; the finished folder is in task.out."""
    task.eye.parent.mkdir(parents=True, exist_ok=True)
    if task.plan is not None and steps_done(task.speech) >= task.plan.steps:
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        spawn(_work, (task, meeting), nprocs=task.workers)  # type: ignore[no-untyped-call]
