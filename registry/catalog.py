"""Which versions exist, where are they served, and which one is in production?

Models, versions, aliases and endpoints in MLflow's registry, as records of our own. Metadata only.
It decides nothing: whether a version may be promoted is for `experiments` to say.

Production is one alias, and an alias is one row in MLflow: at every instant it names exactly one version.
A move writes what a later rollback needs on the version that is to come, and only then moves the alias.
Whatever is cut off in between has changed nothing, and can be repeated.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import time_ns
from typing import Any, Final

from . import names
from .connection import AlreadyThere, Connection, shown_uri
from .errors import (
    NoSuchAlias,
    NoSuchModel,
    NoSuchVersion,
    NotFound,
    NothingToRollBack,
    RegistryError,
)
from .records import (
    ENDPOINT_TAGS,
    FORMER,
    LABELS,
    MANAGED,
    ROLLED_BACK_FROM,
    SOURCE,
    EndpointSpec,
    ModelVersion,
    Move,
    RegisteredModel,
    endpoint_from,
    version_tag,
)

GOLDEN_EXPERIMENT: Final = "turnout-golden"
#: On a run in MLflow: which golden run it is, by its id in the ledger (32 hexadecimal digits).
GOLDEN_RUN: Final = "turnout.golden.run"
#: MLflow wants a source. For a version without one, and for a path on a server that takes none, it gets this.
_NO_SOURCE: Final = "turnout:///version"
_PAGE: Final = 100
_MOST_METRICS: Final = 1000  # per call, MLflow's limit
_LONGEST_PARAM: Final = 6000  # characters, MLflow's limit


class Registry:
    """The model registry at `tracking_uri`. Thread-safe; opened at the first question.

    Every method raises `RegistryUnreachable` when MLflow does not answer, and `InvalidEntry` for a name
    that is none; what else it may raise stands beside it.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self._mlflow = Connection(tracking_uri)
        self._moving = threading.RLock()  # a move reads, then writes: one at a time

    def ping(self) -> None:
        """Returns when MLflow answers."""
        with self._mlflow.asking("reach the registry") as client:
            client.search_registered_models(max_results=1)

    # -- reading -----------------------------------------------------------------------------------------

    def models(self) -> list[RegisteredModel]:
        """Every model that has been registered through Turnout, by name."""
        with self._mlflow.asking("list the models") as client:
            found = _all_pages(
                lambda page: client.search_registered_models(
                    filter_string=f"tags.`{MANAGED}` = 'true'",
                    max_results=_PAGE,
                    order_by=["name ASC"],
                    page_token=page,
                )
            )
        # Others may write the registry too: what has no name of ours is not ours.
        return [self._with_versions(one) for one in found if names.is_model_name(one.name)]

    def model(self, name: str) -> RegisteredModel:
        """One model with all its versions; `NoSuchModel`."""
        return self._with_versions(self._entry(name))

    def version(self, model: str, ref: int | str) -> ModelVersion:
        """The version with that number or alias; `NoSuchModel`, `NoSuchVersion`, `NoSuchAlias`."""
        entry, ref = self._entry(model), names.reference(ref)
        number = ref if isinstance(ref, int) else _aliases(entry).get(ref)
        if number is None:
            known = ", ".join(sorted(_aliases(entry))) or "none"
            raise NoSuchAlias(f"model {model!r} has no alias {ref!r}; it has: {known}")
        try:
            with self._mlflow.asking(f"read version {number} of model {model!r}") as client:
                return _version(client.get_model_version(model, str(number)), _aliases(entry))
        except NotFound:
            raise NoSuchVersion(
                f"model {model!r} has no version {number} in {shown_uri(self.tracking_uri)}; "
                f"`turnout models show {model}` lists those it has"
            ) from None

    # -- writing -----------------------------------------------------------------------------------------

    def register(
        self,
        model: str,
        endpoint: EndpointSpec | None,
        source: str | None = None,
        aliases: Iterable[str] = (),
        tags: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """A new version of `model` (made if need be), served at `endpoint`, or nowhere yet if None.

        The alias `production` among `aliases` is a promotion. Every call makes one version.
        """
        names.model_name(model)
        wanted = [names.alias_name(alias) for alias in aliases]
        all_tags = names.free_tags(tags or {}) | (endpoint.tags() if endpoint else {})
        if source is not None:
            all_tags[SOURCE] = names.source_text(source)
        self._ensure_model(model)
        with self._mlflow.asking(f"register a version of model {model!r}") as client:
            made = client.create_model_version(
                model, self._mlflow_source(source), tags=all_tags, await_creation_for=0
            )
        number = int(made.version)
        try:
            for alias in wanted:
                self.set_alias(model, alias, number)
        except RegistryError as error:
            error.add_note(f"version {number} of model {model!r} is registered, but without all its aliases")
            raise
        return self.version(model, number)

    def set_endpoint(self, model: str, version: int, endpoint: EndpointSpec | None) -> ModelVersion:
        """Notes where the version is served from now on (None: nowhere)."""
        number = self.version(model, version).version
        self._ensure_model(model)  # it may have been registered by others
        with self._mlflow.asking(f"note the endpoint of version {number} of model {model!r}") as client:
            # The list of replicas goes last, and first when it is taken away: it is what makes an endpoint.
            written = endpoint.tags() if endpoint else {}
            for key in reversed(ENDPOINT_TAGS):
                if key in written:
                    client.set_model_version_tag(model, str(number), key, written[key])
        self._forget(model, number, *(key for key in ENDPOINT_TAGS if key not in written))
        return self.version(model, number)

    def tag_version(self, model: str, version: int, key: str, value: str) -> None:
        """A tag of the caller's own; `NoSuchVersion`."""
        number = self.version(model, version).version
        names.free_tags({key: value})
        with self._mlflow.asking(f"tag version {number} of model {model!r}") as client:
            client.set_model_version_tag(model, str(number), key, value)

    def label(self, model: str, version: int, labels: Mapping[str, str]) -> None:
        """Write what Turnout knows of a version (`records.LABELS`) where others see it; `NoSuchVersion`."""
        number = names.version_number(version)
        with self._mlflow.asking(f"label version {number} of model {model!r}") as client:
            for key, value in labels.items():
                client.set_model_version_tag(model, str(number), key, value)

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Lets `alias` name that version. `production` goes the way of `promote`; `NoSuchVersion`."""
        if names.alias_name(alias) == names.PRODUCTION:
            self.promote(model, version)
            return
        number = self.version(model, version).version
        with self._mlflow.asking(f"set alias {alias!r} of model {model!r}") as client:
            client.set_registered_model_alias(model, alias, str(number))

    def promote(self, model: str, version: int) -> Move:
        """Makes `version` production, remembers the one before. Safe to repeat; `NoSuchVersion`."""
        with self._moving:
            coming = self.version(model, version)
            current = _aliases(self._entry(model)).get(names.PRODUCTION)
            if current == coming.version:
                return Move(former=coming.former, current=current, changed=False)
            if current is None:
                self._forget(model, coming.version, FORMER)
            else:
                self._note(model, coming.version, FORMER, current)
            self._forget(model, coming.version, ROLLED_BACK_FROM)
            self._move_production(model, coming.version)
            return Move(former=current, current=coming.version, changed=True)

    def rollback(self, model: str) -> Move:
        """Production goes back to the version it came from. `former` of the answer is the version left.

        Repeated, it changes nothing more: it never walks further back. `NothingToRollBack` when no version
        was in production before; `NoSuchVersion` when that one has been deleted.
        """
        with self._moving:
            left = self._in_production(model)
            if left.rolled_back_from is not None:
                return Move(former=left.rolled_back_from, current=left.version, changed=False)
            if left.former is None:
                raise NothingToRollBack(
                    f"model {model!r}: no version was in production before version {left.version}; "
                    f"name one: `turnout promote {model} --version N`"
                )
            back = self.version(model, left.former)
            self._note(model, back.version, ROLLED_BACK_FROM, left.version)
            self._move_production(model, back.version)
            return Move(former=left.version, current=back.version, changed=True)

    def log_golden_run(
        self,
        model: str,
        version: int,
        name: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float | None],
        tags: Mapping[str, str] | None = None,
        *,
        lasted_ms: tuple[int, int] | None = None,
        latest: bool = True,
    ) -> str:
        """A golden run as a finished MLflow run that names the version; returns its run id.

        Safe to repeat where `tags` name the run (`GOLDEN_RUN`): what was cut off is gone on with.
        `lasted_ms` is when it began and ended (unix milliseconds), None: now. `latest`: the version is to
        name it. A metric that is None or not a number is left out: no data is not zero. `NoSuchVersion`.
        """
        number = self.version(model, version).version
        from mlflow.entities import Metric, Param  # after the first question, which set mlflow's switches

        began, ended = lasted_ms or (time_ns() // 1_000_000,) * 2
        own = {**(tags or {}), "turnout.model": model, "turnout.version": str(number), "mlflow.runName": name}
        points = [
            Metric(names.tracked_name(key), value, ended, 0)  # the same, when it is written a second time
            for key, value in metrics.items()
            if value is not None and math.isfinite(value)
        ]
        settings = [
            Param(names.tracked_name(key), str(value)[:_LONGEST_PARAM]) for key, value in params.items()
        ]
        experiment = self._golden_experiment()
        with self._mlflow.asking(f"log golden run {name!r} of version {number} of model {model!r}") as client:
            run = _begun(client, experiment, own.get(GOLDEN_RUN))
            if run is None:
                run = client.create_run(experiment, start_time=began, tags=own)
            run_id = str(run.info.run_id)
            if run.info.status != "FINISHED":
                for start in range(0, max(len(points), 1), _MOST_METRICS):
                    client.log_batch(run_id, metrics=points[start : start + _MOST_METRICS])
                for start in range(0, len(settings), _PAGE):
                    client.log_batch(run_id, params=settings[start : start + _PAGE])
                client.set_terminated(run_id, "FINISHED", ended)
            if latest:
                client.set_model_version_tag(model, str(number), "turnout.golden_run", run_id)
        return run_id

    # -- inside ------------------------------------------------------------------------------------------

    def _entry(self, name: str) -> Any:
        names.model_name(name)
        try:
            with self._mlflow.asking(f"read model {name!r}") as client:
                return client.get_registered_model(name)
        except NotFound:
            raise NoSuchModel(
                f"no model {name!r} in {shown_uri(self.tracking_uri)}; "
                "`turnout models list` shows those there are"
            ) from None

    def _with_versions(self, entry: Any) -> RegisteredModel:
        aliases = _aliases(entry)
        with self._mlflow.asking(f"list the versions of model {entry.name!r}") as client:
            found = _all_pages(
                lambda page: client.search_model_versions(
                    f"name = '{entry.name}'", max_results=_PAGE, page_token=page
                )
            )
        versions = sorted((_version(one, aliases) for one in found), key=lambda one: one.version)
        current = next((one for one in versions if one.version == aliases.get(names.PRODUCTION)), None)
        back = current.former if current and current.rolled_back_from is None else None
        return RegisteredModel(
            name=entry.name,
            production=current.version if current else None,
            former=back if any(one.version == back for one in versions) else None,
            versions=tuple(versions),
            aliases=aliases,
        )

    def _in_production(self, model: str) -> ModelVersion:
        try:
            return self.version(model, names.PRODUCTION)
        except NoSuchAlias:
            raise NothingToRollBack(
                f"model {model!r} has no production version; `turnout promote {model} --version N` makes one"
            ) from None

    def _ensure_model(self, name: str) -> None:
        try:
            with self._mlflow.asking(f"register model {name!r}") as client:
                client.create_registered_model(name, tags={MANAGED: "true"})
        except AlreadyThere:
            # By us before, by another process just now, or by another pipeline: then it gets our mark.
            with self._mlflow.asking(f"register model {name!r}") as client:
                if MANAGED not in client.get_registered_model(name).tags:
                    client.set_registered_model_tag(name, MANAGED, "true")

    def _mlflow_source(self, source: str | None) -> str:
        """MLflow follows `models:` and `runs:` itself, and a server refuses paths: these stay in our tag."""
        if source is None or self._mlflow.remote or source.startswith(("models:", "runs:")):
            return _NO_SOURCE
        return source

    def _note(self, model: str, version: int, key: str, number: int) -> None:
        with self._mlflow.asking(f"prepare version {version} of model {model!r}") as client:
            client.set_model_version_tag(model, str(version), key, str(number))

    def _forget(self, model: str, version: int, *keys: str) -> None:
        with self._mlflow.asking(f"prepare version {version} of model {model!r}") as client:
            present = client.get_model_version(model, str(version)).tags
            for key in keys:
                if key in present:
                    client.delete_model_version_tag(model, str(version), key)

    def _move_production(self, model: str, version: int) -> None:
        with self._mlflow.asking(
            f"move alias 'production' of model {model!r} to version {version}"
        ) as client:
            client.set_registered_model_alias(model, names.PRODUCTION, str(version))

    def _golden_experiment(self) -> str:
        with self._mlflow.asking("find the MLflow experiment of golden runs") as client:
            found = client.get_experiment_by_name(GOLDEN_EXPERIMENT)
            if found is not None:
                if found.lifecycle_stage == "deleted":  # it takes no runs, and no other may have its name
                    client.restore_experiment(found.experiment_id)
                return str(found.experiment_id)
        try:
            with self._mlflow.asking("create the MLflow experiment of golden runs") as client:
                return str(client.create_experiment(GOLDEN_EXPERIMENT))
        except AlreadyThere:  # another process was faster
            return self._golden_experiment()


def _begun(client: Any, experiment: str, golden_run: str | None) -> Any | None:
    """The run in MLflow of a golden run, None if there is none yet."""
    if golden_run is None:
        return None
    named = f"tags.`{GOLDEN_RUN}` = '{golden_run}'"
    return next(iter(client.search_runs([experiment], filter_string=named, max_results=1)), None)


def _version(entry: Any, aliases: Mapping[str, int]) -> ModelVersion:
    tags, number = dict(entry.tags), int(entry.version)
    endpoint, problem = endpoint_from(tags)
    return ModelVersion(
        model=entry.name,
        version=number,
        aliases=tuple(sorted(alias for alias, named in aliases.items() if named == number)),
        endpoint=endpoint,
        problem=problem,
        source=tags.get(SOURCE) or (entry.source if entry.source != _NO_SOURCE else None) or None,
        tags={key: value for key, value in tags.items() if not key.startswith(names.RESERVED_TAGS)},
        created_ms=int(entry.creation_timestamp or 0),
        former=version_tag(tags, FORMER),
        rolled_back_from=version_tag(tags, ROLLED_BACK_FROM),
        labels={key: tags[key] for key in LABELS if key in tags},
    )


def _aliases(entry: Any) -> dict[str, int]:
    """MLflow's REST client gives a mapping, other stores a list of (alias, version) entries."""
    pairs: Any = entry.aliases
    if isinstance(pairs, Mapping):
        return {str(alias): int(version) for alias, version in pairs.items()}
    return {str(one.alias): int(one.version) for one in pairs}


def _all_pages(search: Callable[[str | None], Any]) -> Sequence[Any]:
    answer = search(None)
    found = list(answer)
    while answer.token:
        answer = search(answer.token)
        found += answer
    return found
