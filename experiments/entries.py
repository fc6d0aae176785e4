"""What does a snapshot hold of each model? Its entries, and how they are read from JSON.

An entry that does not validate is refused with the name of the field, so that the snapshot is refused whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from .assignment import Range, point
from .ledger.exchange import Outside, Recording

ToolPolicy = Literal["skip", "send"]
#: The engine that is none: a provider, asked through litellm's SDK.
LITELLM: Final = "litellm"
#: One salt for all: a unit held out of one experiment is held out of the next.
HOLDOUT_SALT: Final = "holdout"
Sample = Literal["unit", "request"]


class SnapshotError(ValueError):
    """The bytes are no snapshot that can be acted on; the message names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a version is served. A replica is the base URL that `/v1/...` is appended to.

    A provider that is asked through litellm has no replicas: `served_name` names provider and model, and
    `credential` the variable of the proxy's environment that holds the key ("": litellm's own names for it).
    """

    model: str
    version: int
    served_name: str
    engine: str
    replicas: tuple[str, ...]
    credential: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A role in an experiment and the ranges of points (ppm, half-open) that it owns."""

    name: str
    version: int
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Only units whose point under `salt` lies in [low, high) enter: holdouts, and units kept apart."""

    salt: str
    low: int
    high: int

    def admits(self, unit: str) -> bool:
        """Whether the unit may enter."""
        return self.low <= point(self.salt, unit) < self.high

    @property
    def reason(self) -> Outside:
        """Why a unit that it does not admit is outside."""
        return "holdout" if self.salt == HOLDOUT_SALT else "exclusive"


def _codings(value: str) -> tuple[bytes, ...]:
    """What clients may send for a header's value: UTF-8, or Latin-1 where that has the letters."""
    try:
        return value.encode(), value.encode("latin-1")
    except UnicodeEncodeError:
        return (value.encode(),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """Requests that stay outside an experiment: of these tenants, with one of these headers (names in lower
    case) or one of these tags (the request's `metadata`).
    """

    tenants: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()

    def covers(self, tenant: str | None, headers: Mapping[bytes, bytes], metadata: object) -> bool:
        """Whether a request stays outside."""
        tags = metadata if isinstance(metadata, dict) else {}
        return (
            tenant in self.tenants
            or any(
                headers.get(name.encode("latin-1", "replace")) in _codings(value)
                for name, value in self.headers
            )
            or any(tags.get(key) == value for key, value in self.tags)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A running experiment that routes this model's traffic. The arms' ranges cover [0, PPM) once.

    Where several do, gates of one group keep their units apart.
    """

    experiment: str
    phase: int
    salt: str
    unit: str
    arms: tuple[Arm, ...]
    gates: tuple[Gate, ...] = ()
    exclude: Exclusion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """A shadow experiment: a share of the units' requests is copied to a version that nobody sees.

    The caps in flight and in bytes are a worker's. `max_tokens` and `max_cost` (millionths of the currency;
    prices are that per million tokens) are the experiment's, 0 for none. A copy ends after `timeout_ms`.
    No copy is sent while an engine has more than `waiting` requests waiting, or more than `kv_ppm` of its KV
    cache in use (0: not watched). `priority` goes into the copy's body, None leaves it alone.
    `recorded`: the copies are of recorded requests, which `turnout replay` brings; none are of live ones.
    """

    experiment: str
    phase: int
    salt: str
    unit: str
    arm: str
    version: int
    share_ppm: int
    tools: ToolPolicy = "skip"
    max_in_flight: int = 16
    sample: Sample = "unit"
    max_bytes: int = 32_000_000
    max_tokens: int = 0
    max_cost: int = 0
    prompt_price: int = 0
    completion_price: int = 0
    timeout_ms: int = 300_000
    waiting: int = 0
    kv_ppm: int = 0
    priority: int | None = None
    gates: tuple[Gate, ...] = ()
    exclude: Exclusion | None = None
    recorded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRoute:
    """Everything about one model: `production` answers what no experiment claims."""

    model: str
    production: int
    unit: str = "user"
    recording: Recording = "full"
    splits: tuple[Split, ...] = ()
    mirrors: tuple[Mirror, ...] = ()


def whole(value: Any, where: str) -> int:
    """The value, if it is a whole number from 0 on. Raises SnapshotError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SnapshotError(f"{where}: expected a whole number, got {value!r}")
    return value


def check_replica(url: str) -> str:
    """The URL without a trailing slash. Raises SnapshotError unless it is plain http(s)://host[:port][/path]."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        valid = valid and not (parts.username or parts.query or parts.fragment)
    except ValueError:
        valid = False
    if not valid or not url.isprintable() or " " in url:
        raise SnapshotError(f"replica {url!r}: expected http://host:port without credentials or query")
    return url.rstrip("/")


def endpoint_of(entry: dict[str, Any]) -> Endpoint:
    """An endpoint as it is written in JSON. Raises SnapshotError, KeyError or TypeError."""
    replicas = tuple(check_replica(str(url)) for url in entry["replicas"])
    where = f"endpoints.{entry['model']}.{entry['version']}"
    if bool(replicas) == (entry["engine"] == LITELLM):
        expected = "no URL for a provider" if replicas else "at least one URL"
        raise SnapshotError(f"{where}.replicas: expected {expected}")
    return _sound(Endpoint(**{**entry, "replicas": replicas}), where)


def model_of(entry: dict[str, Any]) -> ModelRoute:
    """A model's entry as it is written in JSON. Raises SnapshotError, KeyError or TypeError."""
    where = f"models.{entry['model']}"
    if "split" in entry:  # written when only one experiment could route a model's traffic
        entry = dict(entry)
        only = entry.pop("split")
        entry["splits"] = () if only is None else (only,)
    splits = tuple(_split_of(split, where) for split in entry["splits"])
    mirrors = tuple(
        _sound(Mirror(**{**mirror, **_rules(mirror, where)}), f"{where}.mirrors")
        for mirror in entry["mirrors"]
    )
    return _sound(ModelRoute(**{**entry, "splits": splits, "mirrors": mirrors}), where)


def _split_of(split: dict[str, Any], where: str) -> Split:
    arms = tuple(
        _sound(Arm(**{**arm, "ranges": _ranges(arm["ranges"], where)}), f"{where}.splits.arms")
        for arm in split["arms"]
    )
    return _sound(Split(**{**split, "arms": arms, **_rules(split, where)}), f"{where}.splits")


def _rules(entry: dict[str, Any], where: str) -> dict[str, Any]:
    """Who enters: gates and exclusion rules; a snapshot written before there were any has none."""
    gates = tuple(_sound(Gate(**gate), f"{where}.gates") for gate in entry.get("gates", ()))
    rules = entry.get("exclude")
    if rules is None:
        return {"gates": gates, "exclude": None}
    pairs = {
        name: tuple((str(key), str(value)) for key, value in rules[name]) for name in ("headers", "tags")
    }
    return {"gates": gates, "exclude": Exclusion(tenants=tuple(map(str, rules["tenants"])), **pairs)}


_CHOICES: Final = {
    "ToolPolicy": get_args(ToolPolicy),
    "Sample": get_args(Sample),
    "Recording": get_args(Recording),
}
_Part = TypeVar("_Part", Endpoint, Arm, Gate, Split, Mirror, ModelRoute)


def _sound(part: _Part, where: str) -> _Part:
    """The part itself, if its plain fields hold what they declare. Raises SnapshotError.

    Texts are printable, so that the names that go into response headers cannot end a line there.
    """
    for declared in fields(part):
        value, at = getattr(part, declared.name), f"{where}.{declared.name}"
        if declared.type == "int":
            whole(value, at)
        elif declared.type == "int | None" and not (value is None or type(value) is int):
            raise SnapshotError(f"{at}: expected a whole number or null, got {value!r}")
        elif declared.type == "bool" and type(value) is not bool:
            raise SnapshotError(f"{at}: expected true or false, got {value!r}")
        elif declared.type == "str" and not (isinstance(value, str) and value.isprintable()):
            raise SnapshotError(f"{at}: expected printable text, got {value!r}")
        elif declared.type in _CHOICES and value not in _CHOICES[declared.type]:
            raise SnapshotError(f"{at}: expected one of {_CHOICES[declared.type]}, got {value!r}")
    return part


def _ranges(entries: list[list[int]], where: str) -> tuple[Range, ...]:
    if any(len(entry) != 2 for entry in entries):
        raise SnapshotError(f"{where}.ranges: expected pairs of a first point and the point after the last")
    return tuple((whole(low, f"{where}.ranges"), whole(high, f"{where}.ranges")) for low, high in entries)
