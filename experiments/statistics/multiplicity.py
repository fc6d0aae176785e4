"""What do several p-values, or e-values, say together? Step-down and step-up adjustments.

All functions keep the order of their argument and are defined on an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def _sorted(p: Sequence[float]) -> tuple[Floats, npt.NDArray[np.intp]]:
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    return values[order], order


def _restored(adjusted: Floats, order: npt.NDArray[np.intp]) -> list[float]:
    out = np.empty_like(adjusted)
    out[order] = np.minimum(adjusted, 1.0)
    return [float(value) for value in out]


def bonferroni(p: Sequence[float]) -> list[float]:
    """Each p times their number."""
    return [min(1.0, value * len(p)) for value in p]


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: controls the family-wise error under any dependence."""
    values, order = _sorted(p)
    factors = np.arange(len(values), 0, -1)
    return _restored(np.maximum.accumulate(values * factors), order)


def hochberg(p: Sequence[float]) -> list[float]:
    """Hochberg's step-up adjustment: sharper than Holm's, valid under Simes' inequality."""
    values, order = _sorted(p)
    factors = np.arange(len(values), 0, -1)
    return _restored(np.minimum.accumulate((values * factors)[::-1])[::-1], order)


def hommel(p: Sequence[float]) -> list[float]:
    """Hommel's (1988) adjustment, the closed test of Simes."""
    values, order = _sorted(p)
    n = len(values)
    adjusted = values.copy()
    for m in range(n, 1, -1):
        upper = n - m + 1  # where the m largest begin, plus one
        ranks = np.arange(2, m + 1)
        smallest = float(np.min(m * values[n - m + 1 :] / ranks))
        adjusted[upper:] = np.maximum(adjusted[upper:], smallest)
        head = np.minimum(smallest, m * values[:upper])
        adjusted[:upper] = np.maximum(adjusted[:upper], head)
    return _restored(adjusted, order)


def benjamini_hochberg(p: Sequence[float], *, any_dependence: bool = False) -> list[float]:
    """The false-discovery adjustment of Benjamini and Hochberg, or of Benjamini and Yekutieli."""
    values, order = _sorted(p)
    n = len(values)
    ranks = np.arange(1, n + 1)
    factor = float(np.sum(1.0 / ranks)) if any_dependence else 1.0
    return _restored(np.minimum.accumulate((values * n * factor / ranks)[::-1])[::-1], order)


def e_benjamini_hochberg(e: Sequence[float], *, alpha: float) -> list[bool]:
    """Which e-values are discoveries at false-discovery rate alpha, in any dependence (Wang, Ramdas 2022)."""
    values = np.asarray(e, np.float64)
    order = np.argsort(-values, kind="stable")
    n = len(values)
    good = [k + 1 for k in range(n) if values[order[k]] * (k + 1) / n >= 1.0 / alpha]
    rejected = {int(index) for index in order[: max(good, default=0)]}
    return [index in rejected for index in range(n)]
