"""Which recorded requests does an experiment put to its candidate, and how far has that gone?"""

from __future__ import annotations

from typing import Final

from .errors import Conflict
from .ledger.recorded import NOT_RECORDED, Selection, progress
from .ledger.standings import Standings
from .ledger.store import Store
from .lifecycle import Experiment, exclusion, gates
from .spec import ExperimentSpec, ShadowTraffic

#: From the end of a copy to its row in the ledger, at the longest.
_ON_THE_WAY_S: Final = 15.0


def selection_of(experiment: Experiment) -> Selection | None:
    """What an experiment asks of the past, None if it does not. It is fixed when the experiment begins."""
    return _selection(
        experiment.spec,
        experiment.control_version,
        began_ns=experiment.created_ns,
        salt=experiment.salt,
        name=experiment.name,
    )


def foreseen(spec: ExperimentSpec, control_version: int, now_ns: int) -> Selection | None:
    """What a spec would ask if it began now. Which units a share below 100 % takes is drawn at the start;
    here others stand for them.
    """
    return _selection(spec, control_version, began_ns=now_ns, salt=spec.experiment, name=None)


def _selection(
    spec: ExperimentSpec, control_version: int, *, began_ns: int, salt: str, name: str | None
) -> Selection | None:
    traffic = next((stage.traffic for stage in spec.plan if stage.recorded is not None), None)
    if not isinstance(traffic, ShadowTraffic) or traffic.recorded is None:
        return None
    since_ns, until_ns = traffic.recorded.window(began_ns)
    rules = exclusion(spec)
    return Selection(
        experiment=name,
        model=spec.model,
        control_version=control_version,
        since_ns=since_ns,
        until_ns=until_ns,
        salt=salt,
        share_ppm=round(traffic.share * 10_000),
        by_unit=traffic.sample == "unit",
        gates=tuple((gate.salt, gate.low, gate.high) for gate in gates(spec)),
        tenants=rules.tenants if rules else (),
        limit=traffic.recorded.limit,
    )


def check_something_recorded(store: Store, spec: ExperimentSpec, control_version: int, now_ns: int) -> None:
    """Raises Conflict where a spec begins with recorded requests and none can be replayed."""
    selection = foreseen(spec, control_version, now_ns)
    if selection is None or spec.plan[0].recorded is None:
        return
    found = progress(store, selection)
    if found.remaining:
        return
    why = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in found.skipped.items())
    raise Conflict(
        f"of {spec.model!r}, version {control_version}, no recorded request can be replayed: "
        f"{found.selected} lie in the window{f' ({why})' if why else ''}. Choose another window, "
        "or record bodies in full (turnout.yaml)",
        code="nothing_recorded",
        param="traffic.recorded",
    )


def exhausted(standings: Standings, experiment: Experiment) -> bool:
    """Whether the present stage replays, and nothing is left that it could ask, nor under way: a body may be
    deleted while the copy of its request is asked."""
    traffic = experiment.stage.traffic
    selection = selection_of(experiment) if experiment.stage.recorded is not None else None
    if selection is None or not isinstance(traffic, ShadowTraffic):
        return False
    found = standings.of(selection)
    if found.remaining:
        return False
    # Only what has lost its body meanwhile can be under way and not remain.
    lost = NOT_RECORDED in found.skipped
    return not (lost and standings.awaited(experiment.name, traffic.timeout + _ON_THE_WAY_S))
