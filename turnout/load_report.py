"""What do the rounds of a load test say? Their figures, as a table, a plot and files."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from rich.text import Text

from .load import Round
from .terminal import table

#: What a file's ending makes of a plot.
PLOTS: Final = (".png", ".svg")
_MEASURES: Final = (
    ("latency", "latency of the whole answer"),
    ("ttft", "time to first token"),
    ("gap", "time between tokens"),
)
_PERCENTILES: Final = (50, 90, 99)
_MIDDLE: Final = 50
_LINES: Final = ["p50", "p90", "p99", "p50 cold", "tokens/s", "tokens/s cold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One round in numbers. Times are milliseconds, None where nothing was measured; failures count nowhere
    but in `failed` and `errors`. `said` are the words that came with the first of each error."""

    concurrency: int
    cold: bool
    requests: int
    failed: int
    seconds: float
    requests_per_s: float
    tokens_per_s: float
    latency_p50_ms: float | None
    latency_p90_ms: float | None
    latency_p99_ms: float | None
    ttft_p50_ms: float | None
    ttft_p90_ms: float | None
    ttft_p99_ms: float | None
    gap_p50_ms: float | None
    gap_p90_ms: float | None
    gap_p99_ms: float | None
    errors: dict[str, int]
    said: dict[str, str]


def figures(round_: Round) -> Figures:
    """The figures of a round."""
    good = [sample for sample in round_.samples if sample.error is None]
    measured = {
        "latency": [sample.latency_ms for sample in good],
        "ttft": [sample.ttft_ms for sample in good if sample.ttft_ms is not None],
        "gap": [gap for sample in good for gap in sample.gaps_ms],
    }
    times: dict[str, Any] = {
        f"{name}_p{percent}_ms": percentile(values, percent)
        for name, values in measured.items()
        for percent in _PERCENTILES
    }
    seconds = max(round_.seconds, 1e-9)
    said: dict[str, str] = {}
    for sample in round_.samples:
        if sample.error is not None and sample.said:
            said.setdefault(sample.error, sample.said)
    return Figures(
        concurrency=round_.concurrency,
        cold=round_.cold,
        requests=len(round_.samples),
        failed=len(round_.samples) - len(good),
        seconds=round(round_.seconds, 3),
        requests_per_s=round(len(good) / seconds, 2),
        tokens_per_s=round(sum(sample.tokens for sample in good) / seconds, 1),
        errors=dict(Counter(sample.error for sample in round_.samples if sample.error is not None)),
        said=said,
        **times,
    )


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The smallest value that `percent` % of the values do not exceed (nearest rank); None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[max(0, -(-percent * len(ordered) // 100) - 1)], 3)


def print_table(rounds: Sequence[Figures]) -> None:
    """The rounds for people."""
    columns = ["at once", "requests", "failed", "req/s", "tokens/s"]
    columns += [f"{name} p{percent}" for name, _ in _MEASURES for percent in (50, 99)]
    rows = []
    for each in rounds:
        row: list[object] = [f"{each.concurrency}{' cold' if each.cold else ''}", each.requests]
        row += [Text(str(each.failed), style="red" if each.failed else "")]
        row += [f"{each.requests_per_s:.1f}", f"{each.tokens_per_s:.0f}"]
        values = asdict(each)
        row += [_ms(values[f"{name}_p{percent}_ms"]) for name, _ in _MEASURES for percent in (50, 99)]
        rows.append(row)
    table(columns, rows, title="Times in milliseconds; cold: the first requests, on new connections.")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def write(path: Path, rounds: Sequence[Figures], title: str) -> None:
    """A file in the form that its ending names: .json, .csv, .png or .svg. Raises ValueError, OSError."""
    ending = path.suffix.lower()
    if ending == ".json":
        document = {"target": title, "rounds": [asdict(each) for each in rounds]}
        path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    elif ending == ".csv":
        path.write_text(to_csv(rounds), encoding="utf-8")
    elif ending in PLOTS:
        plot(rounds, title).save(str(path), scale_factor=2)
    else:
        raise ValueError(f"{path}: expected a name that ends in .json, .csv, .png or .svg")


def to_csv(rounds: Sequence[Figures]) -> str:
    """One line per round; errors as `reason: count`."""
    text = io.StringIO()
    names = list(Figures.__dataclass_fields__)
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for each in rounds:
        errors = "; ".join(f"{reason}: {count}" for reason, count in each.errors.items())
        said = "; ".join(f"{reason}: {words}" for reason, words in each.said.items())
        writer.writerow(asdict(each) | {"errors": errors, "said": said})
    return text.getvalue()


def plot(rounds: Sequence[Figures], title: str) -> Any:
    """Percentiles against concurrency, one panel for each measure that was taken, and tokens a second; an
    Altair chart. The median of the cold round stands apart, as a dot."""
    import altair as alt
    import pandas as pd

    panels = []
    levels = sorted({each.concurrency for each in rounds})
    for name, words in _MEASURES:
        lines = [
            {"at once": each.concurrency, "is": value, "line": _line(each, f"p{percent}")}
            for each in rounds
            for percent in _PERCENTILES
            if percent == _MIDDLE or not each.cold
            if (value := asdict(each)[f"{name}_p{percent}_ms"]) is not None
        ]
        if lines:
            panels.append(_panel(alt, pd.DataFrame(lines), words, "milliseconds", levels))
    if not panels:
        nothing = pd.DataFrame(columns=["at once", "is", "line"])
        return alt.hconcat(_panel(alt, nothing, "no answers", "milliseconds", levels)).properties(title=title)
    throughput = [
        {"at once": each.concurrency, "is": each.tokens_per_s, "line": _line(each, "tokens/s")}
        for each in rounds
    ]
    last = _panel(alt, pd.DataFrame(throughput), "tokens a second, all together", "tokens/s", levels)
    both = alt.hconcat(alt.hconcat(*panels), last)
    return both.resolve_scale(color="independent").properties(title=title)


def _line(each: Figures, name: str) -> str:
    return f"{name} cold" if each.cold else name


def _panel(alt: Any, frame: Any, words: str, unit: str, levels: Sequence[int]) -> Any:
    ticks = alt.Axis(values=list(levels), format="d")
    return (
        alt.Chart(frame, title=words, width=240, height=200)
        .mark_line(point=True)
        .encode(
            x=alt.X("at once:Q", scale=alt.Scale(type="log"), axis=ticks, title="requests at once"),
            y=alt.Y("is:Q", title=unit),
            color=alt.Color("line:N", sort=_LINES, title=None),
        )
    )
