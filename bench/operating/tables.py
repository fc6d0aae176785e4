"""Which figures make up the operating characteristics, and which bars do they have to keep?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from experiments.statistics import sample_ratio

from . import coverage, golden, rules
from .rules import Characteristic, Rule, characteristic, characteristics
from .streams import Name, Stream

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What was promised, and whether it is so."""

    text: str
    measured: str
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A heading, what is said about it, and rows of text."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def markdown(self) -> str:
        """As a Markdown section."""
        lines = [f"## {self.title}", "", self.note, ""]
        lines += ["| " + " | ".join(self.head) + " |", "| " + " | ".join("---" for _ in self.head) + " |"]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"


@dataclass(slots=True)
class Found:
    """Tables, bars, and what the plots need."""

    replications: int
    tables: list[Table] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    null_rates: dict[tuple[str, str], float] = field(default_factory=dict)
    canary: dict[str, list[tuple[float, float, float | None]]] = field(default_factory=dict)
    covered: list[coverage.Covered] = field(default_factory=list)


def _rate(found: Characteristic) -> str:
    return f"{found.rate:.3f} ± {found.error:.3f}"


def _bar(found: Found, text: str, measured: str, kept: bool) -> None:
    found.bars.append(Bar(text=text, measured=measured, kept=kept))


OURS: dict[str, Rule] = {
    "fixed horizon, one look": rules.fixed(),
    "group-sequential, 20 looks": rules.group_looks(20),
    "asymptotic sequence (band), every request": rules.sequence(),
    "one-sided sequence (harm), every request": rules.harm_sequence(),
}
FAILURES: dict[str, Rule] = {
    "failures e-process, one-sided (F9)": rules.failure_harm(),
    "failures e-process, two-sided (F8)": rules.failure_imbalance(),
}
PAIRED: dict[str, Rule] = {
    "betting on pairs (F7)": rules.betting_pairs(),
    "safe two-by-two (F10)": rules.safe_tables(),
}
OTHERS: dict[str, Rule] = {
    "*fixed-look test at every request*": rules.naive(),
    "*fixed-look test every 100 requests*": rules.naive(100),
    "*mSPRT, tau = MDE*": rules.mixture_ratio(),
    "*flat boundary (Statsig)*": rules.flat_boundary(),
}
BINARY = ("pass95", "pass70", "err05", "ramp")
NULLS: tuple[Name, ...] = ("pass95", "pass70", "err05", "judge", "lat", "loglat", "users", "ramp")


def _applies(label: str, name: str) -> bool:
    if label in OURS:
        return True
    if label in OTHERS:
        return name != "ramp"
    return name in (BINARY if label in FAILURES else ("pass95", "pass70", "err05"))


def nulls(found: Found, say: Say) -> None:
    """Ever-reject rates where there is no effect."""
    allowed = 0.05 + 2.0 * math.sqrt(0.05 * 0.95 / found.replications)
    worst: dict[str, float] = {}
    every = {**OURS, **FAILURES, **PAIRED, **OTHERS}
    for name in NULLS:
        these = {label: rule for label, rule in every.items() if _applies(label, name)}
        measured = characteristics(these, Stream(name=name), replications=found.replications, burn_in=100)
        for label, one in measured.items():
            found.null_rates[label, name] = one.rate
            if label not in OTHERS:
                worst[label] = max(worst.get(label, 0.0), one.rate)
        say(f"{name}: " + ", ".join(f"{label} {one.rate:.3f}" for label, one in measured.items()))
    rows = [
        (label, *(f"{found.null_rates[label, name]:.3f}" if _applies(label, name) else "" for name in NULLS))
        for label in every
    ]
    found.tables.append(
        Table(
            title="No effect: how often each rule ever rejects",
            note=(
                f"Nominal .05, {found.replications:,} replications of 5,000 requests, looked at after "
                "every request from the 100th on (the one-look rules at their looks). The Monte-Carlo "
                "error at .05 is .005. In italics: what others do, for comparison. `users`: 500 users "
                "with ten requests each, ICC .3, analysed by user; `ramp`: three stages while the error "
                "rate drifts from .01 to .05, by stage."
            ),
            head=("rule", *NULLS),
            rows=rows,
        )
    )
    for label, rate in worst.items():
        _bar(
            found,
            f"{label}: ever-reject rate at most {allowed:.3f} on every stream",
            f"{rate:.4f}",
            rate <= allowed,
        )


def power(found: Found, say: Say) -> None:
    """How often, and how soon, a drop of the pass rate is seen."""
    every = {**OURS, **FAILURES, **PAIRED}
    drops = {
        effect: characteristics(
            every, Stream(name="pass95", effect=effect), replications=found.replications, burn_in=100
        )
        for effect in (-0.02, -0.04)
    }
    rows = []
    for label in every:
        cells = [label]
        for one in (drops[-0.02][label], drops[-0.04][label]):
            cells += [_rate(one), f"{one.mean:,.0f}"]
        rows.append(tuple(cells))
        say(" | ".join(cells))
    rates = {label: one.rate for label, one in drops[-0.02].items()}
    found.tables.append(
        Table(
            title="A worse candidate: how often and how soon it is seen",
            note=(
                "Pass rate .95 against .93 and .91 in 5,000 requests, half each; the mean number of "
                "requests counts a stream that never rejects as 5,000."
            ),
            head=("rule", ".95 → .93", "mean n", ".95 → .91", "mean n"),
            rows=rows,
        )
    )
    gap = rates["fixed horizon, one look"] - rates["group-sequential, 20 looks"]
    _bar(
        found,
        "group-sequential power within 2 points of the fixed-horizon test's at .95 → .93",
        f"{100 * gap:.1f} points",
        gap <= 0.02,
    )


CANARY: dict[str, Rule] = {
    "F9, alpha .05": rules.failure_harm(),
    "F9, margin 1.25, alpha .05": rules.failure_harm(ratio=1.25),
    "F9, alpha .01": rules.failure_harm(alpha=0.01),
    "F9, alpha .01 shared by four guardrails": rules.failure_harm(alpha=0.0025),
    "F8, two-sided, alpha .05": rules.failure_imbalance(),
    "*fixed-look z at every request*": rules.naive(one_sided=True),
    "*window of 50 > 5 %, five failed checks*": rules.windows(failed_checks=5),
    "*window of 50 > 5 %, first failed check*": rules.windows(),
}


def canary(found: Found, say: Say) -> None:
    """How many of the candidate's requests a bad canary costs."""
    cells: dict[str, list[str]] = {label: [label] for label in CANARY}
    for error in (0.02, 0.04, 0.06, 0.10):
        stream = Stream(name="canary", share=0.1, error=(0.02, error))
        for label, one in characteristics(CANARY, stream, replications=found.replications).items():
            shown = f"{one.rate:.3f}"
            if error > 0.02 and one.exposed is not None:
                shown += f" ({one.exposed:,.0f})"
            cells[label].append(shown)
            found.canary.setdefault(label, []).append((error, one.rate, one.exposed))
    rows = [tuple(row) for row in cells.values()]
    for row in rows:
        say(" | ".join(row))
    found.tables.append(
        Table(
            title="A canary at 10 %: how often it is rolled back, after how many of its requests",
            note=(
                "The control fails 2 % of 5,000 requests; in brackets the median number of the canary's "
                "requests until the rollback, among the canaries that were rolled back. No burn-in."
            ),
            head=("rule", "2 % (healthy)", "4 %", "6 %", "10 %"),
            rows=rows,
        )
    )
    exposed = found.canary["F9, alpha .05"][2][2] or math.inf
    _bar(found, "F9 at 2 % → 6 %: median of at most 160 canary requests", f"{exposed:.0f}", exposed <= 160)


def mismatch(found: Found, say: Say) -> None:
    """How soon a sample-ratio mismatch is seen."""
    rng = np.random.default_rng(5)
    rows = []
    for split in (0.50, 0.53, 0.55):
        crossed, at = [], []
        for _ in range(0, found.replications, 250):
            one = np.cumsum(rng.random((250, 5000)) < split, axis=1)
            total = np.arange(1, 5001)
            counts = np.stack([one, total - one], axis=-1)
            logs = [
                sample_ratio.log_e(counts, (0.5, 0.5), concentration=k) for k in sample_ratio.CONCENTRATIONS
            ]
            found_e = np.logaddexp.reduce(logs, axis=0) - math.log(len(logs)) >= math.log(100.0)
            some = found_e.any(axis=1)
            crossed.extend(some.tolist())
            at.extend((found_e.argmax(axis=1) + 1)[some].tolist())
        rate = float(np.mean(crossed))
        rows.append((f"{split:.0%} / {1 - split:.0%}", f"{rate:.4f}", f"{np.median(at):,.0f}" if at else ""))
        say(" | ".join(rows[-1]))
        if split == 0.53:
            _bar(
                found,
                "sample-ratio mismatch of 53/47 found in at least 75 % by 5,000 units",
                f"{rate:.3f}",
                rate >= 0.75,
            )
    found.tables.append(
        Table(
            title="Sample-ratio mismatch",
            note=("The sequential test at alpha .01 after every unit, 5,000 units, 50/50 expected."),
            head=("split", "found", "median units"),
            rows=rows,
        )
    )


def stages(found: Found, say: Say) -> None:
    """What becomes of a ramp with a drifting base rate when it is pooled."""
    ramp = Stream(name="ramp")
    these: dict[str, Rule] = {
        "Cochran-Mantel-Haenszel, one look": rules.stratified_test(),
        "group-sequential on the stratified score, 20 looks": rules.group_looks(20),
        "failures e-process by stage (F9)": rules.failure_harm(),
        "*pooled, one look*": rules.pooled(),
        "*stages combined by inverse variance, one look*": rules.inverse_variance(),
    }
    rows = []
    for label, rule in these.items():
        one = characteristic(rule, ramp, replications=found.replications, burn_in=100)
        rows.append((label, _rate(one)))
        say(" | ".join(rows[-1]))
    found.tables.append(
        Table(
            title="A ramp while the base rate drifts",
            note=("No effect: shares .05, .2, .5 while the error rate goes .01, .03, .05."),
            head=("rule", "ever rejects"),
            rows=rows,
        )
    )


def latencies(found: Found, say: Say) -> None:
    """Which latency rule sees which kind of slowness."""
    streams = {
        "healthy": Stream(name="lat"),
        "all 15 % slower": Stream(name="slow", effect=math.log(1.15)),
        "5 % of requests three times as slow": Stream(name="tail"),
    }
    these: dict[str, Rule] = {
        "sequence on the raw mean": rules.sequence(),
        "sequence on the log mean": rules.on_logs(rules.sequence()),
        "exceedance of the limit, F9": rules.on_limit(rules.failure_harm()),
        "exceedance of the limit, F8": rules.on_limit(rules.failure_imbalance()),
        "p95 by the shares below it, one look": rules.high_quantile(),
    }
    rows = []
    count = min(found.replications, 1000)
    for label, rule in these.items():
        cells = [label]
        for stream in streams.values():
            cells.append(_rate(characteristic(rule, stream, replications=count, burn_in=100)))
        rows.append(tuple(cells))
        say(" | ".join(cells))
    found.tables.append(
        Table(
            title="Latency: which rule sees which slowness",
            note=(
                f"Log-normal latencies (sd of the log .8), 5,000 requests, {count:,} replications; the "
                "limit is the healthy p95. A slower tail is nearly invisible to the log mean, and a "
                "general slowness to a limit: show all three."
            ),
            head=("rule", *streams),
            rows=rows,
        )
    )


def intervals(found: Found, say: Say) -> None:
    """Coverage of the intervals."""
    found.covered = coverage.run()
    rows = [
        (one.case.method, one.case.setting, f"{one.coverage:.3f} ± {one.error:.3f}") for one in found.covered
    ]
    for row in rows:
        say(" | ".join(row))
    found.tables.append(
        Table(
            title="Intervals at one look",
            note=("The share of nominal 95 % intervals that hold the truth."),
            head=("interval", "setting", "coverage"),
            rows=rows,
        )
    )
    least = min(found.covered, key=lambda one: one.coverage)
    _bar(
        found,
        "coverage of one-look intervals at least 94 % (within Monte-Carlo error)",
        f"{least.coverage:.3f} ({least.case.method})",
        least.coverage + 2 * least.error >= 0.94,
    )
    whole = coverage.always(sequential=True, replications=found.replications)
    naive = coverage.always(sequential=False, replications=found.replications)
    found.tables.append(
        Table(
            title="Intervals at every moment",
            note=(
                "True difference -.02 (.95 → .93): does the interval hold it at every moment, and where "
                "it first leaves out zero? What is estimated at that moment overstates the effect."
            ),
            head=("interval", "at every moment", "where it first excludes zero", "mean estimate there"),
            rows=[
                (label, f"{one.everywhere:.3f}", f"{one.at_stop:.3f}", f"{one.mean_estimate_at_stop:.4f}")
                for label, one in (("asymptotic sequence", whole), ("*fixed-look interval*", naive))
            ],
        )
    )
    _bar(
        found,
        "coverage of the sequence at every moment at least 94 %",
        f"{whole.everywhere:.3f}",
        whole.everywhere >= 0.94,
    )
    sets(found, say)


def sets(found: Found, say: Say) -> None:
    """Coverage on golden sets."""
    rows = []
    worst = 1.0
    for n in (30, 50, 200):
        cover = golden.paired_coverage(n, both=0.85, only_control=0.02, only_candidate=0.06)
        cells = [f"{n} items"]
        for name in ("bounded", "bonett_price", "newcombe_paired", "may_johnson", "paired_t", "wald"):
            cells.append(f"{cover[name].coverage:.3f} ({cover[name].width:.3f})")
        worst = min(worst, cover["bounded"].coverage)
        rows.append(tuple(cells))
        say(" | ".join(cells))
    found.tables.append(
        Table(
            title="Golden sets: paired intervals",
            note=(
                "8 % of pairs disagree (2 % and 6 %), 40,000 replications: coverage of nominal 95 % "
                "intervals, in brackets their mean width. Turnout uses the binomial bound."
            ),
            head=(
                "size",
                "binomial bound",
                "Bonett-Price",
                "Newcombe, paired",
                "May-Johnson, floored",
                "paired t",
                "*Wald*",
            ),
            rows=rows,
        )
    )
    _bar(found, "coverage of the golden-set intervals at least 94 %", f"{worst:.3f}", worst >= 0.94)


SECTIONS: Sequence[Callable[[Found, Say], None]] = (
    nulls,
    power,
    canary,
    mismatch,
    stages,
    latencies,
    intervals,
)


def run(replications: int, *, say: Say) -> Found:
    """All sections."""
    found = Found(replications=replications)
    for section in SECTIONS:
        say(f"\n{section.__doc__}")
        section(found, say)
    say("")
    for bar in found.bars:
        say(f"{'kept  ' if bar.kept else 'MISSED'}  {bar.text}: {bar.measured}")
    return found


def write(found: Found, path: Path) -> None:
    """The page of the documentation."""
    lines = [
        "# Operating characteristics",
        "<!-- Made by `python -m bench.operating --out docs`: change the code, then run it. -->",
        "",
        "How often Turnout's rules are wrong, and how soon right: simulated experiments put through the "
        "functions that the verdict uses. Seeded; minutes on two cores. [Statistics](../statistics.md) says "
        "what the rules are.",
        "",
    ]
    lines += [table.markdown() for table in found.tables]
    lines += ["## Bars", "", "| promised | measured | |", "| --- | --- | --- |"]
    lines += [f"| {bar.text} | {bar.measured} | {'kept' if bar.kept else 'missed'} |" for bar in found.bars]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
