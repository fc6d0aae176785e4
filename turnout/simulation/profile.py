"""How good, how fast and how reliable is a simulated engine? And what does it draw for one request?

Every draw is a hash of the seed and of what is asked, so that a run can be repeated to the bit. No I/O
but for reading a profile's file, no clock.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any


class ProfileError(ValueError):
    """A profile that cannot be: the message names the field."""


def draw(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone: the top 53 bits of their SHA-256."""
    digest = sha256("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """`name` is the served model name. Rates and quality are probabilities, times are milliseconds.

    A prompt that a profile gets right is got right by every profile of at least its quality and the same
    `seed`: versions then differ by what the quality adds or takes, as paired comparisons want it.
    """

    name: str = "simulated"
    seed: int = 0
    #: probability to answer a prompt of the answer key right
    quality: float = 1.0
    #: probability of a 500 in place of an answer
    error_rate: float = 0.0
    #: probability that the answer breaks off without a finish reason
    truncation_rate: float = 0.0
    #: time to the first token; 0: at once
    ttft_ms: float = 0.0
    #: 0: as fast as they can be written
    tokens_per_s: float = 0.0
    #: sigma of the log-normal factor (mean 1) on both times
    jitter: float = 0.0
    #: factor on the length of answers that are not in the answer key
    verbosity: float = 1.0
    max_model_len: int = 8192
    #: requests that run at a time; more wait
    slots: int = 256
    #: length of an embedding
    dimensions: int = 64

    def __post_init__(self) -> None:
        for name in ("quality", "error_rate", "truncation_rate"):
            _check(name, getattr(self, name), 0.0, 1.0)
        for name in ("ttft_ms", "tokens_per_s", "jitter", "verbosity"):
            _check(name, getattr(self, name), 0.0, math.inf)
        for name in ("max_model_len", "slots", "dimensions"):
            _check(name, getattr(self, name), 1, 1 << 24)
        if not self.name or not self.name.isprintable():
            raise ProfileError(f"name is {self.name!r}: expected the model name to serve")

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """A profile from a JSON object, or from the path of a file with one. Raises ProfileError."""
        try:
            document = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ProfileError(f"{text!r} is neither a JSON object nor a file with one: {error}") from None
        return cls.from_fields(document)

    @classmethod
    def from_fields(cls, given: dict[str, Any]) -> Profile:
        """A profile from named values. Raises ProfileError on a name or type that is unknown."""
        kinds = {f.name: type(f.default) for f in fields(cls)}
        for name, value in given.items():
            if name not in kinds:
                raise ProfileError(f"{name!r} is no field of a profile: expected one of {', '.join(kinds)}")
            fits = isinstance(value, (int, float) if kinds[name] is float else kinds[name])
            if not fits or isinstance(value, bool):
                raise ProfileError(f"{name} is {value!r}: expected a value of type {kinds[name].__name__}")
        return cls(**given)

    def knows(self, prompt: str, nonce: int) -> bool:
        """Whether it answers this prompt of the answer key right, this time."""
        return draw(self.seed, "quality", prompt, nonce) < self.quality

    def fails(self, arrival: int) -> bool:
        """Whether the request that arrived as number `arrival` gets a 500."""
        return draw(self.seed, "error", arrival) < self.error_rate

    def breaks_off(self, arrival: int) -> bool:
        """Whether the answer to the request that arrived as number `arrival` is cut short."""
        return draw(self.seed, "truncation", arrival) < self.truncation_rate

    def pace(self, arrival: int) -> tuple[float, float]:
        """Seconds to the first token, and from one token to the next, for one request."""
        random = Random(f"{self.seed}:{self.name}:{arrival}")
        first = self.ttft_ms / 1e3 * _factor(random, self.jitter)
        gap = _factor(random, self.jitter) / self.tokens_per_s if self.tokens_per_s else 0.0
        return first, gap


def _factor(random: Random, sigma: float) -> float:
    return random.lognormvariate(-sigma * sigma / 2, sigma) if sigma else 1.0


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high or value == math.inf:
        raise ProfileError(f"{name} is {value!r}: expected {low:g} to {high:g}")
