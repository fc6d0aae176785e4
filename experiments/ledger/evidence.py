"""Which sums over the ledger does a verdict start from?

Everything is aggregated in SQL, by unit, phase and assigned arm, and those sums are added up; no row leaves
the database. Assignment counts as it was made (intention to treat): a fallback's answer belongs to the arm
that failed. What counts is what had arrived by a cut of the ledger, so that the same evidence can be had
again when the ledger has moved on. This module judges nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from duckdb import DuckDBPyConnection

from ..evidence import (
    AnalysisSpec,
    ArmCount,
    Cut,
    Evidence,
    Golden,
    Histogram,
    Instrument,
    MetricSums,
    Overlap,
    PastOverlap,
    PastSums,
)
from ..metrics import Metric, closed
from ..verdict.turns import turn_metrics
from .layout import SCALE, Columns
from .pair_sums import pair_sums
from .rollup import OVERLAP_TERMS, PAST_OVERLAP_TERMS, PAST_TERMS, Rollup, Slot
from .schema import NEWEST_EVALUATION
from .store import Row, Store, instant, nanoseconds, one_number, rows_in, rows_so_far


class Rollups:
    """The sums of the experiments that are looked at again and again. For one thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._epoch = store.epoch
        self._kept: dict[str, tuple[AnalysisSpec, Rollup, DuckDBPyConnection]] = {}

    @contextmanager
    def of(self, spec: AnalysisSpec) -> Iterator[tuple[Rollup, DuckDBPyConnection]]:
        """The experiment's rollup and its cursor. What fails in the block leaves nothing behind."""
        with self._store.reading():  # the file stays the same one for as long
            if self._store.epoch != self._epoch:
                self.keep(())
                self._epoch = self._store.epoch
            known = self._kept.pop(spec.experiment, None)
            if known is not None and known[0] != spec:
                self._store.give_back(known[2])
                known = None
            if known is None:
                cursor = self._store.cursor()
                # Sums do not care in which order the rows come, and keeping it costs half of the time.
                cursor.execute("SET SESSION preserve_insertion_order = false")
                known = (spec, Rollup(cursor, spec, _of_arms(spec), turn_metrics(spec)), cursor)
            try:
                yield known[1], known[2]
            except BaseException:
                self._store.give_back(known[2])
                raise
            self._kept[spec.experiment] = known

    def keep(self, experiments: Collection[str]) -> None:
        """Forget every other."""
        for name in [name for name in self._kept if name not in experiments]:
            self._store.give_back(self._kept.pop(name)[2])


def gather(
    store: Store,
    spec: AnalysisSpec,
    *,
    as_of_ns: int,
    golden_set: str | None = None,
    cut: Cut | None = None,
    rollups: Rollups | None = None,
) -> Evidence:
    """All that is known of an experiment from what has arrived, or had arrived at `cut`.

    `golden_set` names the golden set whose comparison counts; None: any set's latest does. With `rollups`
    only what is new since the last time is read. Raises LookupError if the ledger has no such experiment.
    """
    if rollups is None:
        once = Rollups(store)
        try:
            return gather(store, spec, as_of_ns=as_of_ns, golden_set=golden_set, cut=cut, rollups=once)
        finally:
            once.keep(())
    with rollups.of(spec) as (rollup, cursor):
        # One transaction: every number is of the same moment, whatever is written meanwhile.
        cursor.begin()
        found = _evidence(cursor, rollup, spec, as_of_ns, golden_set, cut)
        cursor.commit()
        return found


def _evidence(
    cursor: DuckDBPyConnection,
    rollup: Rollup,
    spec: AnalysisSpec,
    as_of_ns: int,
    golden_set: str | None,
    cut: Cut | None,
) -> Evidence:
    trial = rows_in(cursor.execute(_TRIAL, {"experiment": spec.experiment, "first": spec.first_phase}))
    if not trial:
        raise LookupError(f"the ledger has no experiment {spec.experiment!r}")
    started = trial[0]["started_at"] or trial[0]["created_at"]
    here = cut or Cut(**{name: rows_so_far(cursor, name) for name in ("exchanges", "feedback", "scores")})
    known: dict[str, Any] = {
        "experiment": spec.experiment,
        "as_of_ns": as_of_ns,
        "started_ns": nanoseconds(started),
        "lost": one_number(cursor, _LOST, {"since": started, "until": instant(as_of_ns)}),
        "golden": _golden(cursor, spec, trial[0]["model"], golden_set, as_of_ns),
        "cut": here,
    }
    goldens = _golden_sets(cursor, spec, trial[0], golden_set, as_of_ns)
    if spec.mode == "shadow":
        scope = {"experiment": spec.experiment, "first": spec.first_phase, "cut": here.exchanges}
        rollup.accounts.take_in(cursor, here)
        pairs = pair_sums(cursor, spec, distinct(spec), here)
        return Evidence(
            **known,
            pairs=pairs.sums,
            histograms=pairs.histograms,
            pair_quantiles=pairs.quantiles,
            instruments=(*pairs.judges, *goldens),
            recorded=one_number(cursor, _RECORDED, scope),
            accounts=rollup.accounts.found(),
            not_copied=one_number(
                cursor, _NOT_COPIED, {**scope, "model": trial[0]["model"], "since": started}
            ),
        )
    rollup.take_in(here, as_of_ns)
    named = _Named(spec)
    return Evidence(
        **known,
        recorded=rollup.recorded,
        arms=_arms(rollup, _shares(cursor, spec, as_of_ns, rollup.exchanges), named),
        sums=_sums(rollup, named),
        overlaps=_overlaps(rollup, named),
        past=_past(rollup, named),
        past_overlaps=_past_overlaps(rollup, named),
        histograms=_histograms(rollup, named),
        instruments=(*_judges(rollup), *goldens),
        units_in_two_arms=rollup.in_two_arms,
        accounts=rollup.accounts.found(),
    )


def distinct(spec: AnalysisSpec) -> tuple[Metric, ...]:
    """Each metric once, though it may be a success metric and a guardrail too."""
    return tuple({goal.metric.name: goal.metric for goal in spec.goals}.values())


def _of_arms(spec: AnalysisSpec) -> tuple[Metric, ...]:
    """Those, and of what has a window besides how it is where the window is over."""
    found = distinct(spec)
    return (*found, *(closed(metric) for metric in found if metric.within_s is not None))


#: The stage that is judged began with its first phase; without one, with the experiment.
_TRIAL: Final = """
    SELECT e.model, e.created_at, e.started_at AS begun_at,
        coalesce(p.started_at, e.started_at) AS started_at
    FROM experiments e LEFT JOIN phases p ON p.experiment = e.name AND p.phase = $first
    WHERE e.name = $experiment
"""

_RECORDED: Final = """
    SELECT count(*) FROM exchanges x
    WHERE x.experiment = $experiment AND x.role = 'shadow' AND x.phase >= $first
        AND x.rowid < $cut AND x.outcome <> 'rejected'
"""

_NOT_COPIED: Final = """
    SELECT count(*) FROM exchanges p
    WHERE p.model = $model AND p.role = 'primary' AND p.origin = 'live' AND p.outcome <> 'rejected'
        AND p.rowid < $cut AND p.started_at >= $since AND p.exchange_id NOT IN (
            SELECT x.pair_id FROM exchanges x
            WHERE x.experiment = $experiment AND x.role = 'shadow' AND x.phase >= $first
                AND x.rowid < $cut AND x.pair_id IS NOT NULL)
"""

#: Losses are a worker's, not an experiment's: whatever was lost meanwhile may have been of this one.
_LOST: Final = """
    SELECT coalesce((SELECT sum(count) FROM losses WHERE until >= $since AND since <= $until), 0)
        + coalesce((SELECT sum(quarantined) FROM segments
                    WHERE collected_at >= $since AND collected_at <= $until), 0)
"""

_GOLDEN: Final = f"""
    SELECT verdict FROM golden_comparisons
    WHERE model = $model AND control_version = $control AND candidate_version = $candidate
        AND (CAST($set AS VARCHAR) IS NULL OR set_name = $set) AND "at" <= $as_of
    ORDER BY {NEWEST_EVALUATION} LIMIT 1
"""


#: The set as it was when the experiment began (if it had been compared by then), and as it was since.
_GOLDEN_SETS: Final = """
    SELECT set_name, set_hash FROM golden_comparisons
    WHERE model = $model AND control_version = $control AND candidate_version = $candidate
        AND (CAST($set AS VARCHAR) IS NULL OR set_name = $set) AND "at" <= $as_of
    QUALIFY "at" > $begun OR row_number() OVER (PARTITION BY set_name, "at" <= $begun ORDER BY "at" DESC) = 1
    ORDER BY "at", comparison_id
"""


def _golden(
    cursor: DuckDBPyConnection, spec: AnalysisSpec, model: str, set_name: str | None, as_of_ns: int
) -> Golden | None:
    found = cursor.execute(
        _GOLDEN,
        {
            "model": model,
            "control": spec.control_version,
            "candidate": spec.candidate_version,
            "set": set_name,
            "as_of": instant(as_of_ns),
        },
    ).fetchone()
    return found[0] if found else None


def _golden_sets(
    cursor: DuckDBPyConnection, spec: AnalysisSpec, trial: Row, set_name: str | None, as_of_ns: int
) -> Iterator[Instrument]:
    """Each golden set by each of its hashes that counted during the experiment; the first one counts."""
    scope = {
        "model": trial["model"],
        "control": spec.control_version,
        "candidate": spec.candidate_version,
        "set": set_name,
        "as_of": instant(as_of_ns),
        "begun": trial["begun_at"] or trial["created_at"],
    }
    found: dict[str, dict[str, int]] = {}
    for name, digest in cursor.execute(_GOLDEN_SETS, scope).fetchall():
        hashes = found.setdefault(name, {})
        hashes[digest] = hashes.get(digest, 0) + 1
    for name, hashes in sorted(found.items()):
        for place, (digest, times) in enumerate(hashes.items()):
            yield Instrument(metric=f"golden:{name}", version=digest, scores=times, counted=place == 0)


# -- arms of a split -------------------------------------------------------------------------------


def _shares(
    cursor: DuckDBPyConnection, spec: AnalysisSpec, as_of_ns: int, seen: Collection[Slot]
) -> dict[Slot, float]:
    """The declared share of every arm of every phase that had begun, also of those that got nobody. A phase
    of which rows were seen has begun, whatever a clock says that was set back since."""
    found = cursor.execute(
        "SELECT phase, candidate_ppm FROM phases WHERE experiment = ? AND phase >= ?"
        " AND (started_at <= ? OR list_contains(?, phase))",
        [spec.experiment, spec.first_phase, instant(as_of_ns), [slot // 2 for slot in seen]],
    ).fetchall()
    control = {2 * phase: (1_000_000 - ppm) / 1e6 for phase, ppm in found}
    return control | {2 * phase + 1: ppm / 1e6 for phase, ppm in found}


class _Named:
    """Slots as phases and arms."""

    def __init__(self, spec: AnalysisSpec) -> None:
        self._arms = (spec.control, spec.candidate)

    def __call__(self, slot: Slot) -> dict[str, Any]:
        return {"phase": slot // 2, "arm": self._arms[slot % 2]}

    def both(self, a: Slot, b: Slot) -> dict[str, Any]:
        return {
            f"{name}_{side}": part for side, slot in (("a", a), ("b", b)) for name, part in self(slot).items()
        }


def _by_name(slots: Collection[Slot]) -> list[Slot]:
    """By phase, the candidate first: in the order of the arms' names."""
    return sorted(slots, key=_place)


def _place(slot: Slot) -> tuple[int, int]:
    return slot // 2, -(slot % 2)


def _arms(rollup: Rollup, shares: dict[Slot, float], named: _Named) -> tuple[ArmCount, ...]:
    """A missing arm must not go unseen: every declared one is here, and every one that was seen."""
    return tuple(
        ArmCount(
            **named(slot),
            expected_share=shares.get(slot, 0.0),
            units=rollup.firsts.get((-1, slot), 0),
            exchanges=rollup.exchanges.get(slot, 0),
            present=rollup.present.get(slot, 0),
        )
        for slot in _by_name(shares.keys() | rollup.exchanges.keys())
    )


def _sums(rollup: Rollup, named: _Named) -> tuple[MetricSums, ...]:
    return tuple(
        _sums_of(rollup, index, one, slot, named)
        for index, one in enumerate(rollup.layout.of)
        for slot in _by_name(rollup.exchanges)
    )


def _sums_of(rollup: Rollup, index: int, one: Columns, slot: Slot, named: _Named) -> MetricSums:
    sums = rollup.sums[index, slot]
    return MetricSums(
        metric=one.metric.name,
        **named(slot),
        units=sums.units,
        exchanges=rollup.exchanges[slot],
        observed=rollup.observed[index, slot],
        missing=rollup.missing.get((index, slot), 0),
        **_in_units(("y", "m", "yy", "mm", "ym"), (sums.y, sums.m, sums.yy, sums.mm, sums.ym), one),
        failing_units=0 if one.failed is None else rollup.firsts[one.failed, slot],
        missing_units=0 if one.lacking is None else rollup.firsts[one.lacking, slot],
    )


def _overlaps(rollup: Rollup, named: _Named) -> tuple[Overlap, ...]:
    return tuple(
        Overlap(
            metric=one.metric.name,
            **named.both(a, b),
            **_in_units(OVERLAP_TERMS, rollup.overlaps[index, a, b], one),
        )
        for index, one in enumerate(rollup.layout.of)
        for a, b in _shared(rollup)
        if (index, a, b) in rollup.overlaps
    )


def _shared(rollup: Rollup) -> list[tuple[Slot, Slot]]:
    """The pairs of slots that share units."""
    shared = (pair for pair, units in rollup.shared.items() if units)
    return sorted(shared, key=lambda pair: [_place(slot) for slot in pair])


def _past(rollup: Rollup, named: _Named) -> tuple[PastSums, ...]:
    return tuple(
        PastSums(
            metric=rollup.layout.of[index].metric.name,
            **named(slot),
            **_in_units(PAST_TERMS, rollup.past[index, slot], rollup.layout.of[index]),
        )
        for index in rollup.remembering
        for slot in _by_name(rollup.exchanges)
        if (index, slot) in rollup.past
    )


def _past_overlaps(rollup: Rollup, named: _Named) -> tuple[PastOverlap, ...]:
    return tuple(
        PastOverlap(
            metric=rollup.layout.of[index].metric.name,
            **named.both(a, b),
            **_in_units(PAST_OVERLAP_TERMS, rollup.past_overlaps[index, a, b], rollup.layout.of[index]),
        )
        for index in rollup.remembering
        for a, b in _shared(rollup)
        if (index, a, b) in rollup.past_overlaps
    )


def _in_units(terms: Sequence[str], sums: Sequence[int], one: Columns) -> dict[str, Any]:
    """The sums in the metric's own unit: a and y are in parts of it, b and m in parts of its weight's.

    Division of whole numbers rounds once, and correctly.
    """
    weight = 1 if one.weight is None else SCALE
    parts = {"a": SCALE, "y": SCALE, "b": weight, "m": weight}
    return {
        term: value / math.prod(parts[factor] for factor in term)
        for term, value in zip(terms, sums, strict=True)
    }


def _judges(rollup: Rollup) -> Iterator[Instrument]:
    for number in range(len(rollup.layout.said)):
        yield from rollup.said.instruments.get(number, ())


def _histograms(rollup: Rollup, named: _Named) -> tuple[Histogram, ...]:
    return tuple(
        Histogram(
            metric=one.metric.name,
            **named(slot),
            bins=tuple(sorted(bins)),
            counts=tuple(bins[b] for b in sorted(bins)),
        )
        for one in rollup.layout.of
        if one.histogram is not None
        for slot in _by_name(rollup.exchanges)
        if (bins := rollup.histograms.get((one.histogram, slot)))
    )
