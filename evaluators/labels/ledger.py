"""Where are draws and labels kept, and which comparison is to be labelled?

The control API keeps them (docs: control API, /api/golden). They belong to the ledger and not to the golden
set's folder: they are about answers, which the ledger has, and whoever runs the gate must see them.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from evaluators.canonical import content_hash
from evaluators.errors import EvaluatorError
from evaluators.golden import GoldenSet
from evaluators.labels.cases import Cases, cases_to_label
from evaluators.labels.draw import Draw, seed_of
from evaluators.labels.label import NOBODY, Label, People
from evaluators.labels.worksheet import document
from evaluators.ledger import ControlApi, GoldenLedger, StoredRun
from evaluators.summary import RunResults

_BATCH: Final = 400
#: Items of a worksheet in the ledger where no greater sample is declared: more than anybody grades in a day.
_OFFERED: Final = 100
_MOST: Final = 100_000


class NothingToLabel(EvaluatorError):
    """There is no comparison of these versions, or no judge in it that gates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRuns:
    """The two runs of a stored comparison, and what it says."""

    control: StoredRun
    candidate: StoredRun
    result: dict[str, Any]


class LabelLedger:
    """Draws and labels behind the control API."""

    def __init__(self, api: ControlApi) -> None:
        self._api = api

    def compared(self, golden: GoldenSet, model: str, control: int, candidate: int) -> ComparedRuns:
        """The runs of the newest comparison of these versions on this very set. Raises NothingToLabel."""
        found = self._newest(golden, model, control, candidate)
        if not found:
            mend = f"turnout golden compare {golden.name} --model {model} --candidate {candidate}"
            message = (
                f"versions {control} and {candidate} of {model} are not compared on this set yet: {mend}"
            )
            raise NothingToLabel(message)
        runs = [
            StoredRun.of(self._api.get(f"/api/golden/runs/{found[0][name]}")["run"])
            for name in ("control_run", "candidate_run")
        ]
        return ComparedRuns(control=runs[0], candidate=runs[1], result=found[0]["result"])

    def people(self, golden: GoldenSet, control_run: str, candidate_run: str) -> People:
        """What people said that bears upon these two runs. A task of another comparison counts where it is
        the same; the draw is these runs' own."""
        draws = self._api.get(
            "/api/golden/draws", {"control_run": control_run, "candidate_run": candidate_run}
        )
        labels = self._labels(golden) if draws else []
        return People.of(map(Draw.from_json, draws), map(Label.from_json, labels))

    def mark(self, golden: GoldenSet, model: str, control: int, candidate: int) -> list[str]:
        """What changes with every label of the set and every draw of the versions' newest comparison, where a
        judge of it gates; else empty. A draw may make labels count that are there already."""
        if not any(golden.judged.values()):
            return []
        said = [label["label_id"] for label in self._labels(golden)]
        for one in self._newest(golden, model, control, candidate):
            runs = {name: one[name] for name in ("control_run", "candidate_run")}
            said += [draw["draw_id"] for draw in self._api.get("/api/golden/draws", runs)]
        return [content_hash(said)]

    def _newest(self, golden: GoldenSet, model: str, control: int, candidate: int) -> list[dict[str, Any]]:
        """The newest comparison of these versions on this very set; empty if there is none."""
        found: list[dict[str, Any]] = self._api.get(
            "/api/golden/comparisons",
            {
                "model": model,
                "control_version": control,
                "candidate_version": candidate,
                "set_hash": golden.hash,
                "limit": 1,
            },
        )
        return found

    def _labels(self, golden: GoldenSet) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._api.get(
            "/api/golden/labels", {"set_name": golden.name, "limit": _MOST}
        )
        return found

    def declare(self, runs: ComparedRuns, evaluator: str, size: int, *, declared_by: str) -> Draw:
        """Declare that so many drawn items are labelled. Raises ControlError where as many are already."""
        control, candidate = runs.control.run_id, runs.candidate.run_id
        draw = Draw(
            draw_id=uuid.uuid4().hex,
            control_run=control,
            candidate_run=candidate,
            evaluator=evaluator,
            seed=seed_of(control, candidate, evaluator),
            size=size,
            declared_by=declared_by,
        )
        return Draw.from_json(self._api.post("/api/golden/draws", draw.to_json()))

    def hand_out(self, set_name: str, control_run: str, candidate_run: str, cases: Cases) -> None:
        """Put the worksheet of a check into the ledger, in the place of an earlier one: of all that was ever
        declared to be labelled, and of some more, so that a draw can be declared from it. Raises
        ControlError."""
        if not cases.open:
            return
        of = {"control_run": control_run, "candidate_run": candidate_run}
        draws = self._api.get("/api/golden/draws", {**of, "evaluator": cases.evaluator})
        size = max([_OFFERED, *(draw["size"] for draw in draws)])
        self._api.post("/api/golden/worksheet", {**of, **document(cases, size, set_name)})

    def add(self, labels: Sequence[Label]) -> None:
        """Store labels. Raises ControlError."""
        for start in range(0, len(labels), _BATCH):
            batch = [label.to_json() for label in labels[start : start + _BATCH]]
            self._api.post("/api/golden/labels", {"labels": batch})


def hand_out(ledger: GoldenLedger, golden: GoldenSet, control: RunResults, candidate: RunResults) -> None:
    """Put what people may be asked about two runs into the ledger: whoever has not the set's folder, such as
    the dashboard, can then ask for grades. Raises ControlError."""
    labels = LabelLedger(ledger.api)
    for key in golden.judged:
        labels.hand_out(
            golden.name, control.run_id, candidate.run_id, cases_to_label(golden, key, control, candidate)
        )


def people_of(ledger: GoldenLedger, golden: GoldenSet, control: RunResults, candidate: RunResults) -> People:
    """What people said about two runs; nobody is asked where the set has no judge."""
    if not golden.judged:
        return NOBODY
    return LabelLedger(ledger.api).people(golden, control.run_id, candidate.run_id)
