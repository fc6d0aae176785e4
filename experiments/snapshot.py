"""Where does a request go? The immutable routing table that the controller publishes and proxies act on.

`Snapshot.route` is pure and fast: one hash, one look-up, no lock, no await. A snapshot that does not
validate is refused whole, so that the last good one keeps serving.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Final, get_args

import orjson

from .assignment import PPM, point, unit_id
from .entries import (
    HOLDOUT_SALT,
    LITELLM,
    Arm,
    Endpoint,
    Exclusion,
    Gate,
    Mirror,
    ModelRoute,
    SnapshotError,
    Split,
    check_replica,
    endpoint_of,
    model_of,
    whole,
)
from .ledger.exchange import Outside, Recording

#: What is written. Raised with every field that an older proxy would have to act on, so that it names the
#: cause; snapshots of `OLDEST` on are read, for the last good one on disk is of before the upgrade.
FORMAT: Final = 2
OLDEST: Final = 1


class RouteError(LookupError):
    """The request names something that the snapshot does not have."""


class UnknownModel(RouteError):
    """No such model, or none of its versions is in production."""


class UnknownVersion(RouteError):
    """An admin forced an arm or a version that the model does not have."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where one request goes. `fallback` is control's endpoint when another arm is asked first.

    `mirrored`: the model has shadow experiments, which may want a copy. A request that stays outside a
    running experiment has the experiment and no arm, and in `outside` the reason. `exclude` are the rules of
    the experiment that claims the unit, and the route of a request that one of them fits.
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
    exclude: tuple[Exclusion, Route] | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What one experiment claims of a model's units, prepared: `starts[i]` is the first point of `routes[i]`.

    `reasons` are the routes of what stays outside of it.
    """

    salt: str
    gates: tuple[Gate, ...]
    starts: tuple[int, ...]
    routes: tuple[Route, ...]
    arms: Mapping[str, Route]
    reasons: Mapping[Outside, Route]

    def route(self, unit: str) -> Route:
        """Where the requests of a unit id go."""
        for gate in self.gates:
            if not gate.admits(unit):
                return self.reasons[gate.reason]
        return self.routes[bisect_right(self.starts, point(self.salt, unit)) - 1]


#: So many units are noted in a table, with their routes, before it begins anew.
_KNOWN_UNITS: Final = 4096


@dataclass(frozen=True, slots=True)
class Table:
    """A model's routes, prepared. `unit` is what identifies a unit now: the running experiments' word, else
    the model's. `outside` is the route of what no experiment claims: production, in no arm.
    """

    entry: ModelRoute
    unit: str
    outside: Route
    claims: tuple[Claim, ...] = ()
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
        """Where the requests of a unit id go. What is no experiment's, and a request without a unit, counts
        as outside the one that began first, so that each request is in one account."""
        if not self.claims:
            return self.outside
        if unit is None:
            return self.claims[0].reasons["no_unit"]
        found = self.claims[0].route(unit)
        if found.outside == "exclusive":
            others = (claim.route(unit) for claim in self.claims[1:])
            return next((other for other in others if other.outside != "exclusive"), found)
        return found

    def named(self, arm: str) -> dict[str, Route]:
        """The arms that a name means, by their full names, `experiment/arm`; either is understood."""
        full = {
            f"{route.experiment}/{name}": route for claim in self.claims for name, route in claim.arms.items()
        }
        return {name: route for name, route in full.items() if arm in (name, route.arm)}


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
        units = {split.unit for split in entry.splits} or {entry.unit}
        if len(units) > 1:
            raise SnapshotError(f"{where}.splits: expected one kind of unit, got {', '.join(sorted(units))}")
        claims = tuple(self._claim(split, entry, outside, where) for split in entry.splits)
        return Table(entry, units.pop(), outside, claims)

    def _claim(self, split: Split, entry: ModelRoute, outside: Route, where: str) -> Claim:
        outside = replace(outside, experiment=split.experiment, phase=split.phase)
        excluded = replace(outside, outside="excluded")
        if split.exclude is not None:
            outside = replace(outside, exclude=(split.exclude, excluded))
        reasons: dict[Outside, Route] = {
            reason: replace(outside, outside=reason) for reason in get_args(Outside) if reason != "excluded"
        }
        production = outside.endpoint
        arms: dict[str, Route] = {}
        pieces: list[tuple[int, int, Route]] = []
        for arm in split.arms:
            endpoint = self._endpoint(entry.model, arm.version, f"{where}.splits.arms.{arm.name}")
            fallback = production if arm.version != entry.production else None
            arms[arm.name] = route = replace(outside, arm=arm.name, endpoint=endpoint, fallback=fallback)
            pieces += [(low, high, route) for low, high in arm.ranges]
        pieces.sort(key=lambda piece: piece[:2])
        edge = 0
        for low, high, _ in pieces:
            if low != edge or high <= low:
                raise SnapshotError(f"{where}.splits: the arms' ranges do not cover [0, {PPM}) exactly once")
            edge = high
        if edge != PPM:
            raise SnapshotError(f"{where}.splits: the arms' ranges end at {edge} instead of {PPM}")
        starts = tuple(low for low, _, _ in pieces)
        return Claim(split.salt, split.gates, starts, tuple(route for _, _, route in pieces), arms, reasons)

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
        """The route of an arm that an admin asks for, by its name; where several experiments have one of that
        name, by `experiment/arm`. Raises UnknownModel, UnknownVersion."""
        found = self.table(model).named(arm)
        if not found:
            raise UnknownVersion(f"{model!r} has no arm {arm!r} in a running experiment")
        if len(found) > 1:
            raise UnknownVersion(f"{model!r} has several arms {arm!r}: name {' or '.join(sorted(found))}")
        return next(iter(found.values()))

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
        written = document.get("format") if isinstance(document, dict) else None
        if type(written) is not int or not OLDEST <= written <= FORMAT:
            raise SnapshotError(
                f"format: expected {OLDEST} to {FORMAT}, got {str(written)[:20]}; was this written by "
                "another version of Turnout? Controller and proxies must be of the same one"
            )
        try:
            endpoints = [endpoint_of(entry) for entry in document["endpoints"]]
            models = [model_of(entry) for entry in document["models"]]
            return cls(
                version=whole(document["version"], "version"),
                published_ns=whole(document["published_ns"], "published_ns"),
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


__all__ = [
    "HOLDOUT_SALT",
    "LITELLM",
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
