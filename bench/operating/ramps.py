"""Do looks at a ramp err as often as they should, while the base rate drifts and the share grows?

`python -m bench.operating.ramps` prints, for several drifts, how often a plan of looks with CMH's z ever
rejects, where the looks hang together by CMH's variance, and where by what their units are worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from experiments.statistics import group_sequential, strata

HORIZON: Final = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """Stages that end at so many units, with the candidate's share and the failure rate in each of them."""

    name: str
    shares: tuple[float, ...]
    ends: tuple[int, ...]
    rates: tuple[float, ...]
    looks: tuple[int, ...] = (1000, 2000, 3000, 4000, 5000)


_STAGES: Final = ((0.05, 0.2, 0.5), (1667, 3333, 5000))
RAMPS: Final = (
    Ramp(name="no ramp", shares=(0.5,), ends=(5000,), rates=(0.05,)),
    Ramp(name="errors .01 to .05", shares=_STAGES[0], ends=_STAGES[1], rates=(0.01, 0.03, 0.05)),
    Ramp(
        name="the same, looks from the last stage on",
        shares=_STAGES[0],
        ends=(1000, 2500, 5000),
        rates=(0.01, 0.03, 0.05),
        looks=(3000, 4000, 5000),
    ),
    Ramp(name="errors .005 to .3", shares=_STAGES[0], ends=_STAGES[1], rates=(0.005, 0.03, 0.3)),
    Ramp(name="errors .2 to .005", shares=_STAGES[0], ends=_STAGES[1], rates=(0.2, 0.03, 0.005)),
)


def rejections(
    ramp: Ramp, *, factor: float = 1.0, replications: int = 20_000, alpha: float = 0.05, seed: int = 11
) -> tuple[float, float]:
    """How often a candidate that fails `factor` times as often is ever rejected (two-sided), with the
    information of CMH's variance, and with that of units."""
    z, variance, units = _looks(ramp, factor, replications, np.random.default_rng(seed))
    fractions = [look / HORIZON for look in ramp.looks]

    def ever(information: Sequence[float]) -> float:
        bounds = group_sequential.bounds(fractions, alpha=alpha, information=information)
        return float((np.abs(z) >= np.asarray(bounds)[:, None]).any(axis=0).mean())

    return ever(variance), ever(units)


def _looks(
    ramp: Ramp, factor: float, replications: int, random: np.random.Generator
) -> tuple[npt.NDArray[np.float64], list[float], list[float]]:
    """CMH's z at each look, shape (looks, replications), and the two informations, averaged."""
    shape = (len(ramp.shares), replications)
    x1, n1, x0, n0 = (np.zeros(shape) for _ in range(4))
    z, variance, units, before = [], [], [], 0
    for point in sorted({*ramp.ends, *ramp.looks}):
        stage = next(i for i, end in enumerate(ramp.ends) if before < end)
        candidate = random.binomial(point - before, ramp.shares[stage], replications)
        control = point - before - candidate
        n1[stage] += candidate
        n0[stage] += control
        x1[stage] += random.binomial(candidate, min(1.0, factor * ramp.rates[stage]))
        x0[stage] += random.binomial(control, ramp.rates[stage])
        before = point
        if point in ramp.looks:
            n, m = np.maximum(n1 + n0, 2.0), x1 + x0
            excess = (x1 - n1 * m / n).sum(axis=0)
            known = (n1 * n0 * (m / n) * ((n - m) / n) / (n - 1.0)).sum(axis=0)
            z.append(excess / np.sqrt(np.maximum(known, 1e-12)))
            variance.append(float(known.mean()))
            units.append(
                float(sum(strata.harmonic(int(a.mean()), int(b.mean())) for a, b in zip(n1, n0, strict=True)))
            )
    return np.asarray(z), variance, units


def main() -> None:
    """Print the table."""
    print("| ramp | healthy: by variance | by units | 1.4 times as bad: by variance | by units |")
    print("| --- | --- | --- | --- | --- |")
    for ramp in RAMPS:
        found = (*rejections(ramp), *rejections(ramp, factor=1.4))
        print(f"| {ramp.name} | {' | '.join(f'{value:.3f}' for value in found)} |")


if __name__ == "__main__":
    main()
