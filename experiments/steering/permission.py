"""May a version become production: which one does a verdict say to ship, and what stands against one?

Asked before anything is changed. Reads experiments and the ledger and asks endpoints; changes nothing.
"""

from __future__ import annotations

from ..decision import Backing
from ..errors import Conflict, Refused
from ..ledger import trials
from ..ledger.store import Store
from ..lifecycle import Experiment
from ..readiness import Probe
from ..routing import CatalogModel
from .control import Author
from .junction import Junction


class Permission:
    """The questions. Safe to use from threads; every call may wait for the ledger or an endpoint."""

    def __init__(self, junction: Junction, store: Store, probe: Probe) -> None:
        self._junction = junction
        self._store = store
        self._probe = probe

    def shippable(self, model: CatalogModel) -> int:
        """The version that the latest experiment says to ship. Raises Refused, Conflict."""
        tried = self._tried(model.name)
        passed = [one for one in tried if one.passed]
        if len({one.candidate_version for one in passed}) > 1:
            named = " and ".join(str(one.candidate_version) for one in reversed(passed))
            raise Conflict(
                f"versions {named} of {model.name!r} have a passing verdict each: name one with --version",
                code="several_passed",
            )
        latest = next(iter((*passed, *tried)), None)
        if latest is None or latest.concluded_on != "ship" or latest.state not in ("concluded", "promoted"):
            raise Refused(
                f"no version of {model.name!r} has a passing verdict; name one with --version, and "
                "--force --reason if it must be without a verdict"
            )
        return latest.candidate_version

    def backing(self, model: CatalogModel, target: int, author: Author, force: bool) -> Backing | None:
        """The verdict that allows the promotion. Raises Refused, Conflict."""
        if target not in model.endpoints:
            raise Conflict(
                f"version {target} of {model.name!r} has no endpoint: traffic could not be sent to it",
                code="no_endpoint",
            )
        latest = self._latest(model.name, target)
        verdict = trials.last_verdict(self._store, latest.name, latest.phase.stage) if latest else None
        backing = None
        if latest and verdict:
            backing = Backing(kind=verdict["kind"], digest=verdict["digest"], experiment=latest.name)
        why_not = _why_not(model, target, latest, backing)
        if why_not is None or model.production is None:
            return backing
        if not force:
            raise Refused(f"{why_not}; `--force --reason '...'` promotes it all the same, and records that")
        if not (author.reason or "").strip():
            raise Refused(f"{why_not}; a forced promotion needs a reason", code="reason_required")
        return backing

    def _latest(self, model: str, target: int) -> Experiment | None:
        """The experiment that speaks for a version: the newest, but what is under way beside one that has
        passed, a shadow or a replay, says nothing yet."""
        tried = [one for one in self._tried(model) if one.candidate_version == target]
        spoken = next((one for one in tried if one.passed or not one.is_open), None)
        return spoken if spoken is not None and spoken.passed else next(iter(tried), None)

    def _tried(self, model: str) -> list[Experiment]:
        """What a model's versions were tried in, drafts left out; the newest first."""
        return [one for one in self._junction.experiments() if one.model == model and one.phase.number]

    def check_endpoints(self, model: CatalogModel, target: int) -> None:
        """The coming version must answer, and the former one stay warm: it is where a rollback goes.

        Raises Refused.
        """
        for version, what in (
            (target, "it cannot be production"),
            (model.production, "a rollback would fail"),
        ):
            endpoint = None if version is None else model.endpoints.get(version)
            why = endpoint and self._probe(endpoint)
            if why:
                raise Refused(
                    f"version {version} of {model.name!r} does not answer ({why}), so {what}; "
                    "`--force --reason '...'` promotes it all the same, and records that",
                    code="endpoint_down",
                )


def _why_not(
    model: CatalogModel, target: int, latest: Experiment | None, backing: Backing | None
) -> str | None:
    """Why the evidence does not carry a promotion; None if it does."""
    subject = f"version {target} of {model.name!r}"
    if latest is None:
        return f"{subject} was never tried: no experiment has it as candidate"
    if backing is None:
        return f"{subject} has no verdict yet (experiment {latest.name!r})"
    if latest.state == "rolled_back":
        return f"{subject} was rolled back in experiment {latest.name!r}"
    if backing.kind != "ship":
        return f"the verdict on {subject} is {backing.kind} (experiment {latest.name!r})"
    if not latest.routes or latest.next_stage is not None:
        return (
            f"{subject} has only passed the stage {latest.stage.mode} (experiment {latest.name!r}): "
            "the verdict that counts is one on traffic that it has answered, in the last stage"
        )
    if latest.control_version != model.production:
        return (
            f"{subject} was compared with version {latest.control_version}, but production is version "
            f"{model.production} now"
        )
    return None
