"""Where does a request go? The immutable routing table that the controller publishes and proxies act on.

`Snapshot.route` is pure and fast: one hash, one look-up, no lock, no await. A snapshot that does not
validate is refused whole, so that the last good one keeps serving.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal, TypeVar, get_args
from urllib.parse import urlsplit

import orjson

from .assignment import PPM, Range, point, unit_id
from .ledger.exchange import Outside, Recording

FORMAT: Final = 1
ToolPolicy = Literal["skip", "send"]
#: The engine that is none: a provider, asked through litellm's SDK.
LITELLM: Final = "litellm"
#: One salt for all: a unit held out of one experiment is held out of the next.
HOLDOUT_SALT: Final = "holdout"
Sample = Literal["unit", "request"]


class SnapshotError(ValueError):
    """The bytes are no snapshot that can be acted on; the message names the field."""


class RouteError(LookupError):
    """The request names something that the snapshot does not have."""


class UnknownModel(RouteError):
    """No such model, or none of its versions is in production."""


class UnknownVersion(RouteError):
    """An admin forced an arm or a version that the model does not have."""


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
    """The running experiment that routes this model's traffic. The arms' ranges cover [0, PPM) once."""

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
    split: Split | None = None
    mirrors: tuple[Mirror, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """Where one request goes. `fallback` is control's endpoint when another arm is asked first.

    `mirrored`: the model has shadow experiments, which may want a copy. A request that stays outside a
    running experiment has the experiment and no arm, and in `outside` the reason.
    """

    model: str
    experiment: str | None
    phase: int
    arm: str | None
    endpoint: Endpoint
    fallback: Endpoint | None
    recording: Recording
    mirrored: bool = False
    outside: Outside | None = None


#: So many units are noted in a table, with their routes, before it begins anew.
_KNOWN_UNITS: Final = 4096


@dataclass(frozen=True, slots=True)
class Table:
    """A model's routes, prepared: `starts[i]` is the first point of `routes[i]`.

    `unit` is what identifies a unit now: the running experiment's word, else the model's. `outside` is the
    route of what no experiment claims: production, in no arm; `reasons` the same where an experiment runs.
    """

    entry: ModelRoute
    unit: str
    outside: Route
    salt: str = ""
    starts: tuple[int, ...] = ()
    routes: tuple[Route, ...] = ()
    arms: Mapping[str, Route] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    exclude: Exclusion | None = None
    reasons: Mapping[Outside, Route] = field(default_factory=dict)
    _known: dict[str, tuple[str, Route]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def assign(self, raw: str) -> tuple[str, Route]:
        """A unit by its raw name: its id, and where its requests go. Units come again: it is noted."""
        known = self._known.get(raw)
        if known is not None:
            return known
        if len(self._known) >= _KNOWN_UNITS:
            self._known.clear()
        unit = unit_id(raw)
        found = self._known[raw] = unit, self.route(unit)
        return found

    def route(self, unit: str | None) -> Route:
        """Where the requests of a unit id go; a request without a unit is outside."""
        if not self.starts:
            return self.outside
        if unit is None:
            return self.reasons["no_unit"]
        for gate in self.gates:
            if not gate.admits(unit):
                return self.reasons[gate.reason]
        return self.routes[bisect_right(self.starts, point(self.salt, unit)) - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One version of the routing table. `keys` maps an API key's SHA-256 (hex) to its tenant; with no
    keys every client is welcome. `admin_sha256` is the digest of the token that may force an arm.
    """

    version: int
    published_ns: int
    models: Mapping[str, ModelRoute]
    endpoints: Mapping[tuple[str, int], Endpoint]
    admin_sha256: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    _tables: dict[str, Table] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tables", {name: self._table(m) for name, m in self.models.items()})

    def _endpoint(self, model: str, version: int, where: str) -> Endpoint:
        try:
            return self.endpoints[model, version]
        except KeyError:
            raise SnapshotError(f"{where}: version {version} of {model!r} has no endpoint") from None

    def _table(self, entry: ModelRoute) -> Table:
        where = f"models.{entry.model}"
        production = self._endpoint(entry.model, entry.production, f"{where}.production")
        mirrored = not all(mirror.recorded for mirror in entry.mirrors)
        outside = Route(entry.model, None, 0, None, production, None, entry.recording, mirrored)
        for mirror in entry.mirrors:
            self._endpoint(entry.model, mirror.version, f"{where}.mirrors.{mirror.experiment}")
        if entry.split is None:
            return Table(entry, entry.unit, outside)
        split = entry.split
        arms: dict[str, Route] = {}
        pieces: list[tuple[int, int, Route]] = []
        for arm in split.arms:
            endpoint = self._endpoint(entry.model, arm.version, f"{where}.split.arms.{arm.name}")
            fallback = production if arm.version != entry.production else None
            route = replace(
                outside,
                experiment=split.experiment,
                phase=split.phase,
                arm=arm.name,
                endpoint=endpoint,
                fallback=fallback,
            )
            arms[arm.name] = route
            pieces += [(low, high, route) for low, high in arm.ranges]
        pieces.sort(key=lambda piece: piece[:2])
        edge = 0
        for low, high, _ in pieces:
            if low != edge or high <= low:
                raise SnapshotError(f"{where}.split: the arms' ranges do not cover [0, {PPM}) exactly once")
            edge = high
        if edge != PPM:
            raise SnapshotError(f"{where}.split: the arms' ranges end at {edge} instead of {PPM}")
        starts = tuple(low for low, _, _ in pieces)
        routes = tuple(route for _, _, route in pieces)
        reasons: dict[Outside, Route] = {
            reason: replace(outside, experiment=split.experiment, phase=split.phase, outside=reason)
            for reason in get_args(Outside)
        }
        who = split.gates, split.exclude, reasons
        return Table(entry, split.unit, outside, split.salt, starts, routes, arms, *who)

    def model(self, name: str) -> ModelRoute:
        """The model's entry. Raises UnknownModel."""
        return self.table(name).entry

    def production(self, model: str) -> Endpoint | None:
        """Where the model's production version is served; None for a model that is not there."""
        table = self._tables.get(model)
        return table.outside.endpoint if table else None

    def table(self, name: str) -> Table:
        """The model's routes. Raises UnknownModel."""
        try:
            return self._tables[name]
        except KeyError:
            raise UnknownModel(name) from None

    def route(self, model: str, unit: str | None) -> Route:
        """The route of a unit id. Without a unit: production, in no arm. Raises UnknownModel."""
        return self.table(model).route(unit)

    def forced_arm(self, model: str, arm: str) -> Route:
        """The route of an arm that an admin asks for. Raises UnknownModel, UnknownVersion."""
        try:
            return self.table(model).arms[arm]
        except KeyError:
            raise UnknownVersion(f"{model!r} has no arm {arm!r} in a running experiment") from None

    def forced_version(self, model: str, version: int) -> Route:
        """The route to a registered version outside every experiment. Raises UnknownModel, UnknownVersion."""
        table = self.table(model)
        endpoint = self.endpoints.get((model, version))
        if endpoint is None:
            raise UnknownVersion(f"version {version} of {model!r} has no endpoint")
        return replace(table.outside, endpoint=endpoint)

    def mirrors(self, model: str, unit: str | None, request: str) -> tuple[tuple[Mirror, Endpoint], ...]:
        """The shadow experiments that sample this unit, or this request where they say so or no unit is."""
        return tuple(
            (mirror, self.endpoints[model, mirror.version])
            for mirror in self.table(model).entry.mirrors
            if not mirror.recorded
            and point(mirror.salt, unit if unit and mirror.sample == "unit" else request) < mirror.share_ppm
            and all(gate.admits(unit or request) for gate in mirror.gates)
        )

    def replays(self, model: str, experiment: str) -> tuple[Mirror, Endpoint] | None:
        """Where an experiment's copies of recorded requests go; None: it takes none. Raises UnknownModel."""
        return next(
            (
                (mirror, self.endpoints[model, mirror.version])
                for mirror in self.table(model).entry.mirrors
                if mirror.recorded and mirror.experiment == experiment
            ),
            None,
        )

    def to_json(self) -> bytes:
        """Deterministic bytes; `from_json` gives an equal snapshot back."""
        document = {
            "format": FORMAT,
            "version": self.version,
            "published_ns": self.published_ns,
            "admin_sha256": self.admin_sha256,
            "keys": dict(self.keys),
            "models": [asdict(entry) for entry in self.models.values()],
            "endpoints": [asdict(endpoint) for endpoint in self.endpoints.values()],
        }
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)

    @classmethod
    def from_json(cls, raw: bytes) -> Snapshot:
        """Parse and validate. Raises SnapshotError, with the field, on anything that cannot be acted on."""
        try:
            document = orjson.loads(raw)
        except ValueError as error:
            raise SnapshotError(f"not JSON ({error}): the file is torn or empty") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise SnapshotError(f"format: expected {FORMAT}; was this written by another version of Turnout?")
        try:
            endpoints = [_endpoint(entry) for entry in document["endpoints"]]
            models = [_model(entry) for entry in document["models"]]
            return cls(
                version=_integer(document["version"], "version"),
                published_ns=_integer(document["published_ns"], "published_ns"),
                admin_sha256=str(document["admin_sha256"]),
                keys={str(digest): str(tenant) for digest, tenant in document["keys"].items()},
                models={entry.model: entry for entry in models},
                endpoints={(e.model, e.version): e for e in endpoints},
            )
        except SnapshotError:
            raise
        except KeyError as error:
            raise SnapshotError(f"field {error} is missing") from None
        except (TypeError, AttributeError, ValueError) as error:
            raise SnapshotError(f"a field has the wrong type or name: {error}") from None


def _integer(value: Any, where: str) -> int:
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


def _endpoint(entry: dict[str, Any]) -> Endpoint:
    replicas = tuple(check_replica(str(url)) for url in entry["replicas"])
    where = f"endpoints.{entry['model']}.{entry['version']}"
    if bool(replicas) == (entry["engine"] == LITELLM):
        expected = "no URL for a provider" if replicas else "at least one URL"
        raise SnapshotError(f"{where}.replicas: expected {expected}")
    return _sound(Endpoint(**{**entry, "replicas": replicas}), where)


def _model(entry: dict[str, Any]) -> ModelRoute:
    where = f"models.{entry['model']}"
    split = entry["split"]
    if split is not None:
        arms = tuple(
            _sound(Arm(**{**arm, "ranges": _ranges(arm["ranges"], where)}), f"{where}.split.arms")
            for arm in split["arms"]
        )
        split = _sound(Split(**{**split, "arms": arms, **_rules(split, where)}), f"{where}.split")
    mirrors = tuple(
        _sound(Mirror(**{**mirror, **_rules(mirror, where)}), f"{where}.mirrors")
        for mirror in entry["mirrors"]
    )
    return _sound(ModelRoute(**{**entry, "split": split, "mirrors": mirrors}), where)


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
            _integer(value, at)
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
    return tuple(
        (_integer(low, f"{where}.ranges"), _integer(high, f"{where}.ranges")) for low, high in entries
    )


__all__ = [
    "Arm",
    "Endpoint",
    "Exclusion",
    "Gate",
    "Mirror",
    "ModelRoute",
    "Route",
    "RouteError",
    "Snapshot",
    "SnapshotError",
    "Split",
    "UnknownModel",
    "UnknownVersion",
    "check_replica",
    "unit_id",
]
