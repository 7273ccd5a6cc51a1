"""First stage of the recipe: the vision tower alone learns to see, through the helper heads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tqdm import tqdm
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from .eye import HelperHeads, eye_loss, see
from .network import TEXT_WIDTH, vision_config
from .optimisers import make_optimisers, schedule, set_rate
from .pictures import Picture, batches, collate
from .teamwork import average_gradients

CLIP = 1.0


@dataclass(frozen=True)
class EyePlan:
    """steps of `batch` pictures each; the learning rate warms up to `rate`, then falls as a cosine to a thirtieth."""

    steps: int
    batch: int = 48
    rate: float = 2e-3
    decay: float = 0.05


def new_eye(seed: int) -> tuple[Qwen3VLVisionModel, HelperHeads]:
    """An untrained tower with its helper heads."""
    torch.manual_seed(seed)
    tower = Qwen3VLVisionModel(vision_config())
    return tower, HelperHeads(TEXT_WIDTH, len(tower.deepstack_visual_indexes) + 1)


@torch.no_grad()
def check_eye(tower: Qwen3VLVisionModel, heads: HelperHeads, pool: list[Picture], size: int = 96) -> dict[str, float]:
    """Shares of right colours, shapes and counts over a pool it was not trained on."""
    sums = {"colour": 0.0, "shape": 0.0, "count": 0.0}
    parts = [pool[i : i + size] for i in range(0, len(pool) - size + 1, size)]
    for part in parts:
        batch = collate(part)
        loss = eye_loss(heads, see(tower, batch), batch)
        for name in sums:
            sums[name] += getattr(loss, name) / len(parts)
    return sums


def train_eye(
    pool: list[Picture], exam: list[Picture], plan: EyePlan, seed: int, checkpoint: Path, keeps: bool
) -> None:
    """Train a new tower, as one of a team or alone; the one that `keeps` examines and saves it at the end.

    The weights start alike everywhere (same seed); the pictures of the pool are each worker's own.
    """
    tower, heads = new_eye(seed)
    weights = [*tower.parameters(), *heads.parameters()]
    optimisers = make_optimisers(dict([*tower.named_parameters(), *heads.named_parameters(prefix="heads")]), plan.decay)
    source = batches(pool, plan.batch, Random(seed))
    bar = tqdm(range(plan.steps), desc="eye", mininterval=5)
    for step in bar:
        set_rate(optimisers, plan.rate * schedule(step, plan.steps))
        batch = next(source)
        with torch.autocast("cpu", torch.bfloat16):
            loss = eye_loss(heads, see(tower, batch), batch)
        loss.total.backward()  # type: ignore[no-untyped-call]
        average_gradients(weights)
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if step % 20 == 0:
            bar.set_postfix_str(
                f"{float(loss.total.detach()):.2f} c{loss.colour:.2f} s{loss.shape:.2f} n{loss.count:.2f}"
            )
        if keeps and ((step + 1) % 300 == 0 or step + 1 == plan.steps):
            right = check_eye(tower, heads, exam)
            bar.write(f"eye {step + 1}: " + " ".join(f"{name} {share:.3f}" for name, share in right.items()))
    if keeps:
        save_eye(tower, heads, checkpoint)


def save_eye(tower: Qwen3VLVisionModel, heads: HelperHeads, path: Path) -> None:
    """Tower and heads in one file, replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save({"tower": tower.state_dict(), "heads": heads.state_dict()}, part)
    part.replace(path)


def load_eye(path: Path, seed: int) -> tuple[Qwen3VLVisionModel, HelperHeads]:
    """What save_eye wrote."""
    tower, heads = new_eye(seed)
    state = torch.load(path, weights_only=True)
    tower.load_state_dict(state["tower"])
    heads.load_state_dict(state["heads"])
    return tower, heads
