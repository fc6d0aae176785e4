"""Could one get rich betting against the null hypothesis? E-processes for bounded values (F7).

A bettor who stakes a share of the capital on each value in turn multiplies it by 1 + lambda (x - m), which
no strategy can make grow if the mean is m; the capital is the e-value. For pairs, the capital of fixed
stakes needs the table of counts alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy

from .estimate import StatisticsError
from .paired import PairTable

Floats = npt.NDArray[np.float64]

#: Stakes tried at once on pairs, as parts of the largest that cannot ruin; small ones see small effects.
_STAKES = np.geomspace(0.005, 0.95, 24)


def pair_harm_log_e(table: PairTable, *, ratio: float = 1.0) -> float:
    """ln e against "the candidate's share of events is at most `ratio` times the control's", on pairs.

    Each pair pays x = y1 - ratio * y0, at least -ratio, of mean at most 0 under the null however the two
    are correlated. Constant stakes make the capital a function of the counts; the average over several
    stakes is an e-process too, whatever the order of the pairs.
    """
    if not 0.0 < ratio < math.inf:
        raise StatisticsError(f"the tolerated ratio is {ratio!r}: a positive number is needed")
    stakes = _STAKES / max(ratio, 1.0)
    logs = (
        table.candidate_only * np.log1p(stakes)
        + table.control_only * np.log1p(-stakes * ratio)
        + table.both * np.log1p(stakes * (1.0 - ratio))
    )
    return float(scipy.special.logsumexp(logs)) - math.log(len(stakes))


def kelly_log_capital(values: Sequence[float], mean: float, *, low: float = 0.0, high: float = 1.0) -> Floats:
    """ln of the capital after each value against "the mean is `mean`", for values in [low, high] (F7).

    Two bettors, one on each side, start with half each; the stakes are Kelly's from the values before,
    (mu - m) / (var + (mu - m)^2), clipped to half of what could ruin. Shape (len(values),).
    """
    x = (np.asarray(values, np.float64) - low) / (high - low)
    m = (mean - low) / (high - low)
    if not 0.0 < m < 1.0:
        raise StatisticsError(f"the mean {mean!r} is not strictly between {low!r} and {high!r}")
    before = np.arange(len(x))
    # One pseudo-value at 1/2 with variance 1/4 keeps the first stakes small and known beforehand.
    mu = (0.5 + np.concatenate(([0.0], np.cumsum(x)[:-1]))) / (before + 1.0)
    second = (0.5 + np.concatenate(([0.0], np.cumsum(x * x)[:-1]))) / (before + 1.0)
    gap = mu - m
    stake = gap / (np.maximum(second - mu * mu, 1e-9) + gap * gap)
    up = np.clip(stake, 0.0, 0.5 / m)
    down = np.clip(-stake, 0.0, 0.5 / (1.0 - m))
    rising = np.cumsum(np.log1p(up * (x - m)))
    falling = np.cumsum(np.log1p(-down * (x - m)))
    return np.asarray(np.logaddexp(rising, falling) - math.log(2.0), np.float64)
