"""`turnout golden rank`: which of several versions is preferred, over all their comparisons on a set?

Exit codes as for the other `turnout golden` commands: 0 there is a ranking, 2 the pairs are too few for one,
3 nothing was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluators.errors import EvaluatorError
from evaluators.ranking import Ranking, Standing, rank
from evaluators.summary import Gate
from turnout.golden_commands import (
    EXIT_CODES,
    NOTHING_CONCLUDED,
    ControlOption,
    JsonOption,
    ModelOption,
    Places,
    TokenOption,
    concluding,
)
from turnout.terminal import concluding_with, emit, out


def rank_command(
    name: Annotated[str, typer.Argument(metavar="SET", help="The golden set's name.")],
    model: ModelOption,
    as_json: JsonOption = False,
    control_url: ControlOption = None,
    token: TokenOption = None,
) -> None:
    """Rank versions by what judges of pairs preferred in all stored comparisons on a golden set.

    Bradley and Terry's strengths with intervals over clusters of items. `turnout golden compare` makes the
    comparisons, where the set has a pairwise check.
    """
    places = Places(control_url=control_url, token=token)
    with concluding(), places.api() as api:
        found = api.get("/api/golden/comparisons", {"model": model, "set_name": name, "limit": 1000})
        if not found:
            raise EvaluatorError(
                f"no two versions of {model!r} have been compared on the golden set {name!r}: name the set as"
                " its set.yaml does, not by its folder; `turnout golden compare` makes comparisons"
            )
        hash_ = found[0]["set_hash"]  # the newest: what was asked of others is no common ground
        rankings = rank([one for one in found if one["set_hash"] == hash_])
        if not rankings:
            raise EvaluatorError(
                f"no judge has compared pairs on {name!r} as it is now: give its items a pairwise check, and"
                " run `turnout golden compare`"
            )
    gate: Gate = "inconclusive" if any(one.problem for one in rankings) else "pass"
    with concluding_with(EXIT_CODES[gate], NOTHING_CONCLUDED):
        if as_json:
            emit([asdict(one) for one in rankings])
        else:
            for one in rankings:
                _print(out, model, one)


def _print(console: Console, model: str, ranking: Ranking) -> None:
    title = f"{model}, {ranking.evaluator}: {ranking.rounds} comparisons, {ranking.items} items"
    table = Table(title=escape(title), title_justify="left")
    columns = ("version", "strength", "95 % interval", "wins", "pairs")
    ahead = [f"beats v{one.version}" for one in ranking.standings] if ranking.beats else []
    for column in (*columns, *ahead):
        table.add_column(column, justify="right")
    for at, one in enumerate(ranking.standings):
        table.add_row(*_cells(one), *(_chances(ranking.beats[at], at) if ranking.beats else ()))
    console.print(table)
    if ranking.problem:
        console.print(f"No strengths: {ranking.problem}.", style="yellow", markup=False)


def _cells(one: Standing) -> tuple[str, ...]:
    interval = one.interval
    return (
        f"v{one.version}",
        "-" if one.strength is None else f"{one.strength:+.2f}",
        "-" if interval is None else f"{interval.lower:+.2f} to {interval.upper:+.2f}",
        f"{one.wins:g}",
        str(one.pairs),
    )


def _chances(row: Sequence[float], own: int) -> list[Any]:
    return ["" if at == own else f"{100 * value:.0f} %" for at, value in enumerate(row)]
