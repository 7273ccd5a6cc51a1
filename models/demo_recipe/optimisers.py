"""Optimisers and learning-rate schedule shared by both stages of training."""

from __future__ import annotations

import math

import torch

WARM_UP = 100


def schedule(step: int, steps: int, warm_up: int = WARM_UP) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then a cosine down to 1/30."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 1 / 30 + (1 - 1 / 30) * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))


def make_optimisers(weights: dict[str, torch.Tensor], decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks and mergers, AdamW for embeddings, heads, norms and biases.

    Muon needs about half the steps of AdamW here; its updates are scaled like AdamW's, so both share one rate.
    """
    inner = {n: w for n, w in weights.items() if w.ndim == 2 and not n.startswith("heads") and "embed" not in n}
    vectors = [w for n, w in weights.items() if n not in inner and w.ndim < 2]
    tables = [w for n, w in weights.items() if n not in inner and w.ndim >= 2]
    return [
        torch.optim.Muon(list(inner.values()), weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": tables, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.98)
        ),
    ]


def set_rate(optimisers: list[torch.optim.Optimizer], rate: float) -> None:
    """One learning rate for all groups."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate
