"""What stands on a version in MLflow, for people who look there and not here?

Pure. Its state, the hash of the verdict that was last acted on, the golden set that it last went through, and
a fingerprint of what is served and where. Derived from the ledger and the experiments: never read back as
truth, written again when somebody has changed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

import orjson

from registry import ModelVersion, RegisteredModel
from registry.records import FINGERPRINT, GOLDEN, STATE, VERDICT

from .lifecycle import Experiment
from .routing import CatalogModel

Labels = Mapping[str, str]


def wanted(
    model: CatalogModel,
    experiments: Iterable[Experiment],
    verdicts: Mapping[str, str],
    goldens: Mapping[int, str],
) -> dict[int, Labels]:
    """The labels of every version. `experiments` are the model's, the newest first; `verdicts` the hashes
    by experiment; `goldens` the set and its hash by version.
    """
    found: dict[int, Labels] = {}
    tried = sorted(experiments, key=lambda one: not one.is_open)  # one that has ended beside it hides none
    for version in model.entry.versions if model.entry else ():
        last = next((one for one in tried if one.candidate_version == version.version), None)
        labels = {STATE: _state(model, version.version, last), FINGERPRINT: fingerprint(version)}
        if last is not None and last.name in verdicts:
            labels[VERDICT] = verdicts[last.name]
        if version.version in goldens:
            labels[GOLDEN] = goldens[version.version]
        found[version.version] = labels
    return found


def _state(model: CatalogModel, version: int, last: Experiment | None) -> str:
    if version == model.production:
        return "production"
    if last is not None and last.is_open:
        return f"{last.state} in {last.name}"
    if version == model.former:
        return "former production"
    return f"{last.state} in {last.name}" if last else "registered"


def fingerprint(version: ModelVersion) -> str:
    """SHA-256 (16 hex digits) of what a version is and where it is served: another one, another thing."""
    endpoint = version.endpoint
    served = [list(endpoint.replicas), endpoint.served_name, endpoint.engine] if endpoint else None
    return sha256(orjson.dumps([version.source, served])).hexdigest()[:16]


def differences(entry: RegisteredModel, labels: Mapping[int, Labels]) -> dict[int, dict[str, str]]:
    """What must be written so that the registry says what is wanted."""
    found: dict[int, dict[str, str]] = {}
    for version in entry.versions:
        due = {
            key: value
            for key, value in labels.get(version.version, {}).items()
            if version.labels.get(key) != value
        }
        if due:
            found[version.version] = due
    return found
