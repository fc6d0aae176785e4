"""Which routing table follows from the registry and the open experiments? Pure.

The registry says which versions exist and which one is production, the experiments who else gets traffic.
What cannot be routed (a model without production, an endpoint that was taken away) is left out and told,
never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from registry import RegisteredModel

from .ledger.exchange import Recording
from .lifecycle import Experiment, open_on
from .snapshot import Endpoint, Mirror, ModelRoute, Snapshot, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogModel:
    """A model as the controller knows it. `former` is where a rollback would go, None if nowhere;
    `came_back_from` is set once a rollback has been done, so that repeating it changes nothing.

    `entry` is what the registry last said; None when all that is known comes from the last snapshot. `held`
    says why `production` is not what the alias names, None while it is.
    """

    name: str
    production: int | None
    former: int | None = None
    came_back_from: int | None = None
    endpoints: Mapping[int, Endpoint] = field(default_factory=dict)
    entry: RegisteredModel | None = None
    held: str | None = None

    def standing_as(self, other: CatalogModel) -> CatalogModel:
        """With what is production, and where it came from, of another."""
        return replace(
            self,
            production=other.production,
            former=other.former,
            came_back_from=other.came_back_from,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The routes of every model that can be routed, and in words what had to be left out; `unserved` are
    experiments that therefore get no traffic, and why.
    """

    models: Mapping[str, ModelRoute]
    endpoints: Mapping[tuple[str, int], Endpoint]
    keys: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    unserved: Mapping[str, str] = field(default_factory=dict)


def catalog_model(entry: RegisteredModel) -> CatalogModel:
    """What the registry says of a model, as the controller keeps it."""
    endpoints = {
        version.version: Endpoint(
            model=entry.name,
            version=version.version,
            served_name=version.endpoint.served_name,
            engine=version.endpoint.engine,
            replicas=version.endpoint.replicas,
            credential=version.endpoint.credential or "",
        )
        for version in entry.versions
        if version.endpoint is not None
    }
    current = None if entry.production is None else entry.version(entry.production)
    return CatalogModel(
        name=entry.name,
        production=entry.production,
        former=entry.former,
        came_back_from=current.rolled_back_from if current else None,
        endpoints=endpoints,
        entry=entry,
    )


def hold(before: CatalogModel, coming: CatalogModel) -> CatalogModel | None:
    """What is in force where the alias names nothing that could answer, and production still can: users are
    not left without an answer because other hands were hasty. None where the alias can be followed."""
    if coming.production in coming.endpoints or before.production not in coming.endpoints:
        return None
    named = (
        "the alias 'production' is gone"
        if coming.production is None
        else f"version {coming.production} is production in the registry and has no endpoint"
    )
    until = f"version {before.production} goes on answering until one that is served is named"
    return replace(coming.standing_as(before), held=f"{coming.name!r}: {named}; {until}")


def catalog_of(snapshot: Snapshot) -> dict[str, CatalogModel]:
    """What a snapshot still tells when the registry is away: who is production, who is served where."""
    return {
        name: CatalogModel(
            name=name,
            production=route.production,
            endpoints={e.version: e for e in snapshot.endpoints.values() if e.model == name},
        )
        for name, route in snapshot.models.items()
    }


def table(
    catalog: Mapping[str, CatalogModel],
    experiments: Iterable[Experiment],
    recordings: Mapping[str, Recording],
    keys: Mapping[str, str],
) -> Table:
    """The routes that follow. `recordings` says what is recorded of a model, in full by default; `keys`
    are tenants by the SHA-256 of their API keys.
    """
    asking = [one for one in experiments if one.has_traffic]
    models: dict[str, ModelRoute] = {}
    left_out: list[str] = []
    unserved: dict[str, str] = {}
    for model in catalog.values():
        mine = open_on(asking, model.name)
        why = None
        if model.production is None:
            why = f"model {model.name!r} has no production version: promote one"
        elif model.production not in model.endpoints:
            why = f"version {model.production} of {model.name!r} is production but has no endpoint"
        else:
            splits, mirrors = _splits(mine), _mirrors(mine)
            lacking = _lacking(model, splits, mirrors)
            unserved |= lacking
            left_out += [model.held] if model.held else []
            splits = tuple(split for split in splits if split.experiment not in lacking)
            mirrors = tuple(mirror for mirror in mirrors if mirror.experiment not in lacking)
            models[model.name] = ModelRoute(
                model=model.name,
                production=model.production,
                unit=splits[0].unit if splits else next((m.unit for m in mirrors if not m.recorded), "user"),
                recording=recordings.get(model.name, "full"),
                splits=splits,
                mirrors=mirrors,
            )
        if why is not None:
            left_out.append(why)
            unserved |= {one.name: why for one in mine}
    unserved |= {
        one.name: f"no model {one.model!r} is registered any more"
        for one in asking
        if one.model not in catalog
    }
    left_out += [f"experiment {name!r} gets no traffic: {why}" for name, why in unserved.items()]
    endpoints = {(e.model, e.version): e for model in catalog.values() for e in model.endpoints.values()}
    return Table(
        models=models, endpoints=endpoints, keys=dict(keys), left_out=tuple(left_out), unserved=unserved
    )


def _splits(experiments: Iterable[Experiment]) -> tuple[Split, ...]:
    return tuple(found for one in experiments if (found := one.split()) is not None)


def _mirrors(experiments: Iterable[Experiment]) -> tuple[Mirror, ...]:
    return tuple(found for one in experiments if (found := one.mirror()) is not None)


def _lacking(model: CatalogModel, splits: Iterable[Split], mirrors: Iterable[Mirror]) -> dict[str, str]:
    """Why an experiment gets no traffic, by its name: a version that is not served."""
    needed = {split.experiment: {arm.version for arm in split.arms} for split in splits}
    needed |= {mirror.experiment: {mirror.version} for mirror in mirrors}
    lacking = {name: sorted(versions - set(model.endpoints)) for name, versions in needed.items()}
    return {
        name: f"version {', '.join(map(str, versions))} of {model.name!r} has no endpoint"
        for name, versions in lacking.items()
        if versions
    }
