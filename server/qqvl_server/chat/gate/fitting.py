"""A logistic regression of a dozen numbers, and how good it is on scenes that it has not seen. numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qqvl_server.chat.gate import features
from qqvl_server.chat.gate.weights import Gate, Weight, question_digest

Floats = NDArray[np.float64]
# Against chance in few lines: how many lines a weight of one standard deviation has to be worth.
_RIDGE: Final = 3.0
_STEPS: Final = 50
_FOLDS: Final = 5


class Fit:
    """``mean``, ``scale`` and ``weights`` are (features,)."""

    def __init__(self, rows: Floats, labels: Floats) -> None:
        """Ridge-penalised maximum likelihood by Newton's method (Hastie, Elements of Statistical Learning, §4.4).

        Args:
            rows: (lines, features).
            labels: (lines,), 0 or 1, both present.
        """
        self.mean = rows.mean(0)
        self.scale = np.where(rows.std(0) > 1e-9, rows.std(0), 1.0)
        known = np.column_stack([(rows - self.mean) / self.scale, np.ones(len(rows))])
        penalty = np.diag([_RIDGE] * rows.shape[1] + [0.0])
        found = np.zeros(known.shape[1])
        for _ in range(_STEPS):
            chance = _logistic(known @ found)
            slope = known.T @ (labels - chance) - penalty @ found
            curve = (known * (chance * (1 - chance))[:, None]).T @ known + penalty
            step = np.linalg.solve(curve + 1e-9 * np.eye(len(curve)), slope)
            found = found + step
            if float(np.abs(step).max()) < 1e-8:
                break
        self.weights, self.bias = found[:-1], float(found[-1])

    def odds(self, rows: Floats) -> Floats:
        """(lines,): natural log-odds."""
        told: Floats = (rows - self.mean) / self.scale @ self.weights + self.bias
        return told


def _logistic(odds: Floats) -> Floats:
    told: Floats = 1 / (1 + np.exp(-np.clip(odds, -30, 30)))
    return told


def auc(odds: Sequence[float] | Floats, labels: Sequence[float] | Floats) -> float:
    """Area under the ROC curve: how often a line to speak after comes before one to stay silent after; 0.5 is chance.

    By ranks (Hanley and McNeil, 1982); equal odds share theirs. Both kinds of label must be there.
    """
    values, wanted = np.asarray(odds, float), np.asarray(labels, bool)
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    ones, zeros = int(wanted.sum()), int((~wanted).sum())
    return float((ranks[wanted].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def precision_at(odds: Sequence[float] | Floats, labels: Sequence[float] | Floats, rate: float) -> float:
    """Of the ``rate`` of lines with the best odds, the share to speak after. Equal odds count by their share."""
    values, wanted = np.asarray(odds, float), np.asarray(labels, float)
    most = max(1, round(rate * len(values)))
    least = np.sort(values)[::-1][most - 1]
    above = values > least
    equal = values == least
    left = most - int(above.sum())
    return float((wanted[above].sum() + left * wanted[equal].mean()) / most)


def unseen_odds(rows: Floats, labels: Floats, scenes: Sequence[str]) -> Floats:
    """(lines,): odds of each line by a fit that has seen no line of its scene."""
    names = sorted(set(scenes))
    # Fixed, and not by the order of the file, where neighbours are alike.
    order = np.random.default_rng(0).permutation(len(names))
    fold_of = {names[place]: number % _FOLDS for number, place in enumerate(order)}
    folds = np.array([fold_of[scene] for scene in scenes])
    told = np.zeros(len(rows))
    for fold in range(_FOLDS):
        held = folds == fold
        if held.any():
            rest = labels[~held]
            told[held] = Fit(rows[~held], rest).odds(rows[held]) if 0 < rest.sum() < len(rest) else 0.0
    return told


def fitted(
    table: Sequence[dict[str, float]], labels: Sequence[bool], scenes: Sequence[str], rate: float, **named: Any
) -> Gate:
    """``table`` has ``features.NAMES`` of each line; ``rate`` is the share of such lines to speak after.

    ``named`` are the gate's ``fingerprint`` and ``model``.
    """
    rows = np.array([[line[name] for name in features.NAMES] for line in table], float)
    wanted = np.array(labels, float)
    fit = Fit(rows, wanted)
    unseen = unseen_odds(rows, wanted, scenes)
    each = zip(features.NAMES, fit.mean, fit.scale, fit.weights, strict=True)
    return Gate(
        question=question_digest(),
        weights={n: Weight(mean=_short(m), scale=_short(s), weight=_short(w)) for n, m, s, w in each},
        bias=_short(fit.bias),
        threshold=_short(float(np.quantile(unseen, 1 - rate))),
        lines=len(rows),
        speaks=int(wanted.sum()),
        auc=round(auc(unseen, wanted), 4),
        rate=rate,
        **named,
    )


def _short(value: float) -> float:
    return float(f"{value:.8g}")
