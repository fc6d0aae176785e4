"""How small is the tail of a beta distribution, in logarithms, where the tail itself is no float any more?

Student's t, the truncated Beta of the guardrails and exact tests all come down to it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

Floats = npt.NDArray[np.float64]


def log_upper_tail(
    a: npt.ArrayLike, b: npt.ArrayLike, x: float, *, log_complement: float | None = None
) -> Floats:
    """ln(1 - I_x(a, b)) of the regularised incomplete beta function, also where it is far below 1e-300.

    Where the direct value is too small, the continued fraction of I_{1-x}(b, a) (DLMF 8.17.22), whose
    leading factor is taken in logarithms. `log_complement` is ln(1 - x), for an x that rounds to 1.
    """
    a_, b_ = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    log_y = math.log1p(-x) if log_complement is None else log_complement
    with np.errstate(divide="ignore"):
        found = np.array(np.log(scipy.special.betaincc(a_, b_, x)), np.float64)
    small = (found < -600.0) | (x == 1.0)
    if np.any(small):  # and nowhere else: the fraction does not converge near the mean
        found[small] = _log_small_tail(b_[small], a_[small], log_y, math.log(x))
    return found


def _log_small_tail(p: Any, q: Any, log_y: float, log_x: float) -> Floats:
    """ln I_y(p, q) for y = 1 - x far below the mean p / (p + q)."""
    y = math.exp(log_y)
    front = p * log_y + q * log_x - scipy.special.betaln(p, q) - np.log(p)
    if p.size == 1:  # numbers, not arrays of one: twenty times as fast
        p, q = p.item(), q.item()
    fraction = 0.0 * p
    # Backwards from a depth at which the terms no longer matter this far out in the tail.
    for k in range(200, 0, -1):
        m = k // 2
        if k % 2 == 0:
            term = m * (q - m) * y / ((p + 2 * m - 1) * (p + 2 * m))
        else:
            term = -(p + m) * (p + q + m) * y / ((p + 2 * m) * (p + 2 * m + 1))
        fraction = term / (1.0 + fraction)
    return np.asarray(front - np.log1p(fraction), np.float64)
