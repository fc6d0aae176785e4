"""How does a verdict that was stored become a folder that stands by itself?

The evidence is gathered again from the ledger, up to the cut that the verdict had seen, however much has
come since; and the verdict that follows from it must be the stored one, to the byte.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import orjson

from .dossier import documents, seal
from .errors import Conflict, NotFound
from .evidence import Cut
from .ledger import trials
from .ledger.dossier import export_rows
from .ledger.evidence import gather
from .ledger.store import Store
from .ledger.trials import KeptLook
from .lifecycle import Experiment
from .spec import analysis_of
from .verdict import conclude

#: Verdicts that the curve over time is drawn from.
_HISTORY: Final = 500


def write_dossier(store: Store, experiment: Experiment, folder: Path, *, digest: str | None = None) -> None:
    """Write the folder of the experiment's latest verdict, or of the one with that digest.

    Raises NotFound if there is no such verdict, and Conflict if another verdict follows from the ledger by
    this code than the one that was stored.
    """
    kept = trials.kept_look(store, experiment.name, digest)
    if kept is None:
        which = f"verdict with the digest {digest}" if digest else "verdict yet"
        raise NotFound(f"experiment {experiment.name!r} has no {which}", code="no_verdict")
    stored = orjson.loads(kept.verdict)
    if "cut" not in stored:
        message = f"the verdict on {experiment.name!r} is of a Turnout that did not keep what it had seen"
        mend = "let it look again" if experiment.state == "running" else "no report can be made of it"
        raise Conflict(f"{message}: {mend}", code="not_reproducible")
    spec = analysis_of(
        experiment.spec,
        control_version=experiment.control_version,
        candidate_version=experiment.candidate_version,
        stage=kept.stage,
        first_phase=kept.first_phase,
    )
    cut, as_of_ns = Cut(**stored["cut"]), stored["as_of_ns"]
    gate = experiment.spec.gate
    # What was lost is known better by now, and golden sets are compared again: as it was told then.
    evidence = replace(
        gather(store, spec, as_of_ns=as_of_ns, cut=cut, golden_set=gate.set if gate else None),
        lost=stored["lost"],
        golden=stored["golden"],
        exhausted=stored.get("exhausted", False),
    )
    looks = trials.past_looks(store, experiment.name, kept.stage, before=kept.number)
    verdict = conclude(spec, evidence, past_looks=looks)
    if verdict.to_json() != kept.verdict:
        reached = orjson.loads(verdict.to_json())
        other = [name for name, value in reached.items() if stored.get(name) != value]
        raise Conflict(
            f"from the ledger another verdict on {experiment.name!r} follows than the stored one, in "
            f"{', '.join(other)}: was it reached by another version of Turnout? A report is for that version "
            "to write, on a copy of the data folder from before the upgrade",
            code="not_reproducible",
        )
    for name, content in documents(spec, evidence, looks, verdict).items():
        (folder / name).write_bytes(content)
    (folder / "spec.yaml").write_text(experiment.spec_yaml, "utf-8")
    (folder / "history.json").write_bytes(orjson.dumps(_history(store, experiment.name, kept)))
    export_rows(store, spec, cut, folder)
    seal(folder)


def _history(store: Store, name: str, last: KeptLook) -> list[dict[str, Any]]:
    """The verdicts on the stage up to this one, as far as a curve needs them."""
    return [
        {
            "as_of_ns": document["as_of_ns"],
            "units": document["units"],
            "kind": document["kind"],
            "bands": {
                metric["metric"]: [band["estimate"], band["lower"], band["upper"]]
                for metric in document["metrics"]
                if (band := metric.get("band"))
            },
        }
        for document in trials.verdicts(store, name, stage=last.stage, until=last.number, limit=_HISTORY)
    ]
