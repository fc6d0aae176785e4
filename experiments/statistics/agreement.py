"""Do the judge and the people agree? Cohen's kappa with its interval, and the raw agreement beside it.

Kappa collapses where one label is rare, at whatever raw agreement: show both, never one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from .estimate import Estimate, StatisticsError, lacking
from .mean import t_estimate

Weights = Literal["none", "linear", "quadratic"]


def _table(table: Sequence[Sequence[float]]) -> np.ndarray:
    counts = np.asarray(table, np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or np.any(counts < 0.0):
        raise StatisticsError(f"a table of shape {counts.shape} is no square table of counts")
    return counts


def raw_agreement(table: Sequence[Sequence[float]]) -> float | None:
    """The share of items on the table's diagonal; None without items."""
    counts = _table(table)
    total = float(counts.sum())
    return float(np.trace(counts)) / total if total > 0.0 else None


def kappa(table: Sequence[Sequence[float]], *, weights: Weights = "none", alpha: float = 0.05) -> Estimate:
    """Cohen's kappa of a square table of counts, with the large-sample interval of Fleiss, Cohen and Everitt.

    With linear or quadratic weights for ordered labels, a near miss counts as partial agreement. Where
    chance alone would agree always (both use one label) kappa is not defined.
    """
    method = "kappa" if weights == "none" else f"kappa-{weights}"
    counts = _table(table)
    n, size = float(counts.sum()), counts.shape[0]
    if n <= 0.0:
        return lacking("no_data", method)
    p = counts / n
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    steps = np.abs(np.subtract.outer(np.arange(size), np.arange(size))) / max(1, size - 1)
    credit = {"none": np.eye(size), "linear": 1.0 - steps, "quadratic": 1.0 - steps**2}[weights]
    seen, chance = float((credit * p).sum()), float((credit * np.outer(rows, columns)).sum())
    if 1.0 - chance <= 1e-12:
        return lacking("insufficient_data", method)
    value = (seen - chance) / (1.0 - chance)
    # Fleiss, Cohen and Everitt (1969), for any weights; the unweighted case is the identity's.
    mean_credit = np.add.outer(credit @ columns, credit.T @ rows)
    spread = float((p * (credit - mean_credit * (1.0 - value)) ** 2).sum())
    variance = (spread - (value - chance * (1.0 - value)) ** 2) / ((1.0 - chance) ** 2 * n)
    if variance <= 1e-15:
        return lacking("insufficient_data", method, value)
    return t_estimate(value, variance, math.inf, alpha=alpha, method=method)
