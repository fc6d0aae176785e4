"""What stands on a version in MLflow, for people who look there and not here?

Pure. Its state, the hash of the verdict that was last acted on, the golden set that it last went through, a
fingerprint of what is served and where, and how it came out against others. Derived from the ledger and the
experiments: never read back as truth, written again when somebody has changed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any

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
    compared: Mapping[int, Labels] = MappingProxyType({}),
) -> dict[int, Labels]:
    """The labels of every version. `experiments` are the model's, the newest first; `verdicts` the hashes
    by experiment; `goldens` the set and its hash by version, `compared` its tags of what was compared.
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
        found[version.version] = {**labels, **compared.get(version.version, {})}
    return found


def golden_tag(comparison: Mapping[str, Any]) -> dict[str, str]:
    """The candidate's tag of a golden comparison, by its fields."""
    words = f"{comparison['verdict']} against version {comparison['control_version']}"
    return {f"golden.{comparison['set_name']}": f"{words} ({comparison['set_hash']})"}


def preflight_tag(preflight: Mapping[str, Any]) -> dict[str, str]:
    """The candidate's tag of a preflight, by its fields."""
    return {"preflight": f"{preflight['verdict']} against version {preflight['control_version']}"}


def tags_of(
    preflights: Iterable[Mapping[str, Any]], comparisons: Iterable[Mapping[str, Any]]
) -> dict[int, Labels]:
    """By version of a model, its tags of these. The last of a kind stands."""
    found: dict[int, dict[str, str]] = {}
    for one in preflights:
        found.setdefault(one["candidate_version"], {}).update(preflight_tag(one))
    for one in comparisons:
        found.setdefault(one["candidate_version"], {}).update(golden_tag(one))
    return dict(found)


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
            if version.labels.get(key, version.tags.get(key)) != value
        }
        if due:
            found[version.version] = due
    return found
