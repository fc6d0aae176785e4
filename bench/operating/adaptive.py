"""What does a share that follows the evidence do to the analysis, while the base rate drifts?

`python -m bench.operating.adaptive` prints how often a healthy candidate is called different at one look,
where units stay where the hash of their name puts them, and come back: by plain means, and by each exchange's
propensity, which is the candidate's share in its phase. Both clustered by unit.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

from experiments.statistics import allocation

Floats = npt.NDArray[np.float64]

PHASES: Final = 12
NEW_UNITS: Final = 150
RETURNING: Final = 0.6
FLOOR: Final = 0.1


def false_alarms(
    *, adaptive: bool, drift: float, replications: int = 1000, seed: int = 3
) -> dict[str, float]:
    """The share of healthy candidates with |z| > 1.96. `drift` is added to everybody's mean in each phase; a
    unit's own mean has standard deviation 1, an exchange's noise .5."""
    random = np.random.default_rng(seed)
    alarms = {"plain means": 0, "by propensity": 0}
    for _ in range(replications):
        unit, candidate, y, share = _experiment(random, adaptive, drift)
        propensity = np.where(candidate, share, 1.0 - share)
        for name, weights in (("plain means", np.ones_like(y)), ("by propensity", 1.0 / propensity)):
            alarms[name] += abs(_z(unit, candidate, y, weights)) > 1.96
    return {name: count / replications for name, count in alarms.items()}


def _experiment(
    random: np.random.Generator, adaptive: bool, drift: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], Floats, Floats]:
    """Each exchange's unit, arm, outcome and share of the candidate in its phase."""
    place, mean, share = np.empty(0), np.empty(0), 0.5
    unit, y, shares = np.empty(0, np.int64), np.empty(0), np.empty(0)
    candidate = np.empty(0, np.bool_)
    for phase in range(PHASES):
        new = random.poisson(NEW_UNITS)
        back = random.random(place.size) < RETURNING
        here = np.flatnonzero(np.append(back, np.ones(new, np.bool_)))
        place, mean = np.append(place, random.random(new)), np.append(mean, random.standard_normal(new))
        unit = np.append(unit, here)
        candidate = np.append(candidate, place[here] < share)
        y = np.append(y, mean[here] + drift * phase + 0.5 * random.standard_normal(here.size))
        shares = np.append(shares, np.full(here.size, share))
        if adaptive:
            one, zero = y[candidate], y[~candidate]
            better = (one.mean() - zero.mean()) / np.sqrt(one.var() / one.size + zero.var() / zero.size)
            best = float(special.ndtr(better))  # Thompson's share of two arms, with a flat prior
            share = allocation.floored([best, 1.0 - best], FLOOR)[0]
    return unit, candidate, y, shares


def _z(unit: npt.NDArray[np.int64], candidate: npt.NDArray[np.bool_], y: Floats, weights: Floats) -> float:
    """The difference of weighted means over its standard error, linearised and summed over units."""
    difference, residual = 0.0, np.zeros(int(unit.max()) + 1)
    for arm, sign in ((candidate, 1.0), (~candidate, -1.0)):
        own = weights * arm
        mean = float(own @ y / own.sum())
        difference += sign * mean
        residual += sign * np.bincount(unit, own * (y - mean), residual.size) / own.sum()
    return difference / float(np.sqrt(residual @ residual))


def main() -> None:
    """Print the table."""
    print("| share | drift | plain means | by propensity |\n| --- | --- | --- | --- |")
    for adaptive in (False, True):
        for drift in (0.0, 0.15):
            found = false_alarms(adaptive=adaptive, drift=drift)
            share = "follows the evidence" if adaptive else "fixed"
            print(f"| {share} | {drift:g} | {found['plain means']:.3f} | {found['by propensity']:.3f} |")


if __name__ == "__main__":
    main()
