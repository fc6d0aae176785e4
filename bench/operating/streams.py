"""What does a simulated experiment look like, request by request? Seeded streams of arms and outcomes.

Shapes are (replications, requests). Outcomes of "pass" and "err" streams are 1 for success, of the others a
number; the effect is the candidate's minus the control's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

Name = Literal[
    "slow", "tail", "pass95", "pass70", "err05", "judge", "lat", "loglat", "users", "ramp", "canary"
]
NAMES: tuple[Name, ...] = ("pass95", "pass70", "err05", "judge", "lat", "loglat", "users")

#: Success rates of the binary streams.
RATES = {"pass95": 0.95, "pass70": 0.70, "err05": 0.995}
#: Users of the sticky stream, each with ten requests, and how alike one user's outcomes are.
USERS, ICC = 500, 0.3
#: Candidate's shares and error rates of the ramp's stages, which drift while the share grows.
STAGE_SHARES, STAGE_ERRORS = (0.05, 0.2, 0.5), (0.01, 0.03, 0.05)
#: The 95 % quantile of a healthy latency: the limit that the candidate is held to.
LIMIT = float(np.exp(0.8 * 1.6448536269514722))
#: Replications drawn at once: memory, not statistics.
CHUNK = 250


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Draw:
    """Some replications: who got the candidate, what came of it, in which stage, from which user."""

    candidate: Bools
    outcome: Floats
    binary: bool = False
    stage: npt.NDArray[np.int64] | None = None
    user: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A kind of experiment: `effect` is added to the candidate's rate, mean or (for latencies) log."""

    name: Name
    effect: float = 0.0
    share: float = 0.5
    requests: int = 5000
    error: tuple[float, float] = (0.02, 0.02)

    def draws(self, replications: int, seed: int) -> Iterator[Draw]:
        """The replications in chunks, the same for the same seed."""
        rng = np.random.default_rng([seed, *self.name.encode()])
        for start in range(0, replications, CHUNK):
            yield self._draw(rng, min(CHUNK, replications - start))

    def _draw(self, rng: np.random.Generator, rows: int) -> Draw:
        shape = (rows, self.requests)
        if self.name == "ramp":
            return _ramp(rng, shape)
        if self.name == "users":
            return _sticky(rng, shape, self.effect)
        candidate = rng.random(shape) < self.share
        if self.name == "canary":
            failing = np.where(candidate, self.error[1], self.error[0])
            return Draw(
                candidate=candidate, outcome=(rng.random(shape) >= failing).astype(np.float64), binary=True
            )
        if self.name in RATES:
            rate = RATES[self.name] + self.effect * candidate
            return Draw(
                candidate=candidate, outcome=(rng.random(shape) < rate).astype(np.float64), binary=True
            )
        if self.name == "judge":
            return Draw(candidate=candidate, outcome=rng.beta(4.0, 2.0, shape) + self.effect * candidate)
        logs = rng.normal(0.0, 0.8, shape) + self.effect * candidate
        if self.name == "tail":
            logs = logs + np.log(3.0) * (candidate & (rng.random(shape) < 0.05))
        return Draw(candidate=candidate, outcome=logs if self.name == "loglat" else np.exp(logs))


def _ramp(rng: np.random.Generator, shape: tuple[int, int]) -> Draw:
    stage = np.minimum(np.arange(shape[1]) * 3 // shape[1], 2)
    candidate = rng.random(shape) < np.asarray(STAGE_SHARES)[stage]
    failed = rng.random(shape) < np.asarray(STAGE_ERRORS)[stage]
    return Draw(candidate=candidate, outcome=(~failed).astype(np.float64), binary=True, stage=stage)


def _sticky(rng: np.random.Generator, shape: tuple[int, int], effect: float) -> Draw:
    """Users keep their arm and their own success rate; one comes after the other, with all requests."""
    rows, requests = shape
    arms = rng.random((rows, USERS)) < 0.5
    spread = 1.0 / ICC - 1.0
    rates = np.clip(rng.beta(0.7 * spread, 0.3 * spread, (rows, USERS)) + effect * arms, 0.0, 1.0)
    user = np.tile(np.arange(requests) * USERS // requests, (rows, 1))
    outcome = rng.random(shape) < np.take_along_axis(rates, user, axis=1)
    return Draw(
        candidate=np.take_along_axis(arms, user, axis=1),
        outcome=outcome.astype(np.float64),
        user=user,
    )
