"""How good are the versions on the golden sets: which items fail, and which fail newly?"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import streamlit as st

from .. import charts, chips, figures
from .. import results as shapes
from ..answers import GoldenComparison, GoldenResult, GoldenRun, GoldenRunResults
from ..client import path
from ..inert import label, one_line
from ..live import Loaded, load, refreshed, usable
from ..worddiff import word_diff
from . import judges, paging, preferences
from .panes import ADDED, MAX_SHOWN, REMOVED, pane

# More items than this make a grid nobody reads; what fails is shown first.
MAX_ITEMS = 60
MAX_RUNS = 8
MAX_NEWLY_FAILING = 20
# One that waits for labels must be found also when others came after it.
PER_PAGE = 5
# What is asked for: the newest. A comparison with all that it quotes is large, a run in the list is not.
RUNS, COMPARISONS = 500, 100
COMPARISONS_PAGE = "comparisons-page"


def page() -> None:
    """Draw the page."""
    body()


@refreshed
def body() -> None:
    """Comparisons, newly failing items of the chosen one, the grid and the runs."""
    loaded: Loaded[tuple[GoldenRun, ...]] = load(
        tuple[GoldenRun, ...], path("golden", "runs"), {"limit": RUNS}
    )
    runs = usable(loaded, "The golden runs")
    if runs is None:
        return
    if not runs:
        st.info(
            "No golden set has been run yet. `turnout golden run SET.jsonl MODEL VERSION` runs one.",
            icon=":material/grading:",
        )
        return
    asked: Loaded[tuple[GoldenComparison, ...]] = load(
        tuple[GoldenComparison, ...], path("golden", "comparisons"), {"limit": COMPARISONS}
    )
    comparisons = usable(asked, "The comparisons")
    if comparisons:
        _comparisons(comparisons)
    elif comparisons is not None:
        st.info(
            "Two versions have not been compared yet. `turnout golden compare` does it.",
            icon=":material/compare_arrows:",
        )
    _grid(runs, comparisons or ())
    _runs(runs)


def _comparisons(comparisons: Sequence[GoldenComparison]) -> None:
    st.subheader("Comparisons", anchor=False)
    newest = sorted(comparisons, key=lambda one: one.at.timestamp() if one.at else 0.0, reverse=True)
    for one in paging.part(newest, COMPARISONS_PAGE, PER_PAGE):
        with st.container(border=True, gap="xsmall"):
            of_set = f"set {one.set_name} · " if one.set_name else ""
            chips.compared(one, f"{of_set}{figures.moment(one.at)}")
            said = one.result.get("sentence") or one.result.get("text")
            if said:
                st.text(str(said)[:600])
            _newly_failing(one)
            preferences.show(one)
            judges.show(one)
    paging.turn(COMPARISONS_PAGE, len(newest), PER_PAGE)
    paging.tell_newest(len(newest), COMPARISONS, "comparisons")


def _newly_failing(one: GoldenComparison) -> None:
    """The items that the comparison itself calls newly failing, with what was expected and what came."""
    listed = one.result.get("newly_failing")
    counts = one.result.get("items")
    words = []
    if isinstance(counts, dict):
        words.append(f"{counts.get('compared')} items compared, {counts.get('missing')} missing")
    if not isinstance(listed, list):
        st.caption(label("; ".join([*words, "the comparison lists no items"])))
        return
    broken = [change for change in listed if isinstance(change, dict)]
    st.caption(label("; ".join([*words, *([] if broken else ["no item fails newly"])])))
    if not broken:
        return
    items = len({str(change.get("item_id")) for change in broken})
    title = f"{figures.count(items)} item{'' if items == 1 else 's'} newly failing"
    with st.expander(title, icon=":material/new_releases:"):
        for change in broken[:MAX_NEWLY_FAILING]:
            _change(change)
        if len(broken) > MAX_NEWLY_FAILING:
            st.caption(f"and {figures.count(len(broken) - MAX_NEWLY_FAILING)} more")


def _change(change: dict[str, Any]) -> None:
    """What was expected, and the failing answer: against the one that passes, if the comparison has it."""
    said = change.get("explanation") or ""
    got, other = (str(change.get(name) or "")[:MAX_SHOWN] for name in ("got", "other"))
    difference = word_diff(other, got) if other and got else None
    with st.container(gap="xsmall"):
        st.text(f"{change.get('item_id')} · {change.get('evaluator')}: {said}"[:400])
        st.caption("Expected")
        st.code(str(change.get("expected") or figures.DASH)[:MAX_SHOWN], language=None, wrap_lines=True)
        if difference is None:
            st.caption("Got")
            st.code(got or figures.DASH, language=None, wrap_lines=True)
            return
        # Green passes and red fails, as in the grid.
        sides = (("Passes", difference.control, ADDED), ("Fails", difference.candidate, REMOVED))
        for column, (title, stretches, colour) in zip(st.columns(2, gap="medium"), sides, strict=True):
            with column:
                st.caption(title)
                pane(stretches, colour)


def _run(listed: GoldenRun) -> Loaded[GoldenRunResults]:
    """The run with all its results, which are many: asked again only once the list says something else."""
    kept: dict[str, tuple[GoldenRun, Loaded[GoldenRunResults]]] = st.session_state.setdefault(
        "_golden_runs", {}
    )
    if listed.ended_at is not None and listed.run_id in kept and kept[listed.run_id][0] == listed:
        return kept[listed.run_id][1]
    loaded: Loaded[GoldenRunResults] = load(GoldenRunResults, path("golden", "runs", listed.run_id))
    if loaded.error is None:
        kept[listed.run_id] = (listed, loaded)
    return loaded


def passed(result: GoldenResult) -> bool | None:
    """True or False for a scored result, None for one without a score (error, skipped, unscored)."""
    if result.status not in ("", "scored"):
        return None
    if result.label in ("pass", "fail"):
        return result.label == "pass"
    if isinstance(found := result.detail.get("passes"), bool):
        return found  # a check with a threshold of its own
    return None if result.value is None else result.value >= 0.5


def states(results: Iterable[GoldenResult]) -> dict[str, tuple[str, int]]:
    """Per item `passes` (every score passes), `fails` or `no score`, and the number of results behind it."""
    by_item: dict[str, list[bool | None]] = defaultdict(list)
    for result in results:
        by_item[result.item_id].append(passed(result))
    return {item: (_state(scores), len(scores)) for item, scores in by_item.items()}


def decisive(one: GoldenRunResults) -> list[GoldenResult]:
    """The results without those of checks that only inform (`gate: false`): no comparison counts them."""
    informing = {
        check.get("evaluator")
        for check in shapes.mappings(one.run.summary.get("evaluators"))
        if check.get("gate") is False
    }
    deciding = [result for result in one.results if result.evaluator not in informing]
    return deciding or list(one.results)


def _state(scores: Sequence[bool | None]) -> str:
    if any(score is False for score in scores):
        return "fails"
    return "passes" if any(score is True for score in scores) else "no score"


def _grid(runs: Sequence[GoldenRun], comparisons: Sequence[GoldenComparison]) -> None:
    st.subheader("Items by version", anchor=False)
    sets = list(dict.fromkeys((run.model or "", run.set_name or "") for run in runs))
    names = [f"{model} · {set_name}" for model, set_name in sets]
    chosen = st.selectbox(
        "Model and set", names, key="set", bind="query-params", label_visibility="collapsed", width=360
    )
    model, set_name = sets[names.index(chosen)] if chosen in names else sets[0]
    mine = sorted(
        (run for run in runs if (run.model or "", run.set_name or "") == (model, set_name)),
        key=lambda run: run.started_at.timestamp() if run.started_at else 0.0,
    )[-MAX_RUNS:]
    loaded = [usable(_run(run), f"The run of {figures.version(run.version)}") for run in mine]
    full = [one for one in loaded if one is not None]
    rows, items = grid_rows(full, controls(comparisons, model, set_name))
    chart = charts.golden_grid(rows, charts.PALETTES[chips.page_theme()])
    if chart is None:
        if full:
            st.info("These runs have no results yet.", icon=":material/hourglass_empty:")
        return
    st.altair_chart(chart, key="golden-grid")
    shown = min(items, MAX_ITEMS)
    st.caption(
        f"{figures.count(shown)} of {figures.count(items)} items, newly failing first, then failing. "
        "Newly: the version that it was compared with (else the one before it) passes."
    )


def controls(comparisons: Sequence[GoldenComparison], model: str, set_name: str) -> dict[int, int]:
    """Version -> the version that it was last compared with on the set."""
    found: dict[int, int] = {}
    for one in sorted(comparisons, key=lambda one: one.at.timestamp() if one.at else 0.0):
        mine = (one.model or "") == model and (one.set_name or "") in ("", set_name)
        if mine and one.candidate_version is not None and one.control_version is not None:
            found[one.candidate_version] = one.control_version
    return found


def grid_rows(runs: Sequence[GoldenRunResults], against: dict[int, int]) -> tuple[list[dict[str, Any]], int]:
    """Rows for the grid (newest run of each version, newly failing items first), and the number of items.

    `against`: version -> the version that it is compared with; a version without one, with that before it.
    """
    by_version = {one.run.version or 0: states(decisive(one)) for one in runs}
    versions = sorted(by_version)
    control = {two: one for one, two in pairwise(versions)} | against
    table: dict[str, dict[int, tuple[str, int]]] = defaultdict(dict)
    for version in versions:
        before = by_version.get(control.get(version, -1), {})
        for item, (state, n) in by_version[version].items():
            newly = state == "fails" and before.get(item, ("", 0))[0] == "passes"
            table[item][version] = ("fails newly" if newly else state, n)
    ranked = sorted(table, key=lambda item: (*_rank(table[item]), item))[:MAX_ITEMS]
    rows = [
        {
            "item": one_line(item),
            "version": figures.version(version),
            "state": table[item][version][0],
            "against": figures.version(control.get(version)),
            "n": table[item][version][1],
        }
        for version in versions
        for item in ranked
        if version in table[item]
    ]
    order = {one_line(item): place for place, item in enumerate(ranked)}
    # The chart takes the order of items from the rows: a version may lack some of them.
    return sorted(rows, key=lambda row: (order[row["item"]], int(row["version"].lstrip("v") or 0))), len(
        table
    )


def _rank(found: dict[int, tuple[str, int]]) -> tuple[int, int]:
    """Newly failing first (in the newest version before older ones), then failing, unscored, passing."""
    newly = [version for version, (state, _) in found.items() if state == "fails newly"]
    if newly:
        return 0, -max(newly)
    states_ = [state for state, _ in found.values()]
    rank = next((rank for rank, state in ((1, "fails"), (2, "no score")) if state in states_), 3)
    return rank, -states_.count("fails")


def _runs(runs: Sequence[GoldenRun]) -> None:
    st.subheader("Runs", anchor=False)
    rows = [
        {
            "Model": run.model,
            "Version": figures.version(run.version),
            "Set": run.set_name,
            "Status": run.status,
            "Answers": summary(run.summary),
            "Gate": str(run.summary.get("gate") or figures.DASH),
            "Started": figures.moment(run.started_at),
            "Took": _took(run),
            "Run": run.run_id,
        }
        for run in runs
    ]
    st.dataframe(rows, hide_index=True)
    paging.tell_newest(len(runs), RUNS, "runs")


def _took(run: GoldenRun) -> str:
    if run.started_at is None or run.ended_at is None:
        return figures.DASH
    return figures.span((run.ended_at - run.started_at).total_seconds())


def summary(values: dict[str, Any]) -> str:
    """A run in one line: what passed, of how many with a score, and how many have none."""
    scored, missing, passed = (values.get(name) for name in ("scored", "missing", "passed"))
    if not isinstance(passed, int | float) or not isinstance(scored, int | float):
        return figures.DASH
    gone = missing if isinstance(missing, int | float) else None
    return f"{passed:g} of {figures.count(scored)} passed, {figures.count(gone)} missing"
