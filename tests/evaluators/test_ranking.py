"""More than two versions: one strength for each, of all comparisons that were stored."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from evaluators.ranking import rank
from experiments.client import ControlClient
from turnout.golden import golden

Json = dict[str, Any]


def comparison(candidate: int, control: int, preferred: list[str], hash_: str = "h") -> Json:
    pairs = [
        {"item_id": f"q{n}", "repeat": 0, "evaluator": "pairs.pairwise", "status": "scored", "preferred": one}
        for n, one in enumerate(preferred)
    ]
    return {
        "candidate_version": candidate,
        "control_version": control,
        "set_hash": hash_,
        "result": {"preferences": {"checks": [], "pairs": pairs}},
    }


def round_of(candidate: int, control: int, chance: float, items: int = 300, seed: int = 1) -> Json:
    random_ = random.Random(1000 * candidate + control + seed)
    return comparison(
        candidate, control, ["candidate" if random_.random() < chance else "control" for _ in range(items)]
    )


#: v3 beats v2 three times in four, and v2 beats v1 so: then v3 beats v1 nine times in ten.
ROUNDS = [round_of(3, 2, 0.75), round_of(2, 1, 0.75)]


def test_versions_that_never_met_are_compared_by_those_they_both_met() -> None:
    (found,) = rank(ROUNDS)
    assert [one.version for one in found.standings] == [3, 2, 1]
    assert found.beats[0][2] == pytest.approx(0.9, abs=0.04)
    assert found.problem is None
    for one in found.standings:
        assert one.interval is not None
        assert one.strength is not None
        assert one.interval.lower < one.strength < one.interval.upper


def test_the_order_of_the_rounds_and_who_was_called_candidate_do_not_matter() -> None:
    swap = {"candidate": "control", "control": "candidate"}
    turned = comparison(
        1, 2, [swap[pair["preferred"]] for pair in ROUNDS[1]["result"]["preferences"]["pairs"]]
    )
    (one,), (other,) = rank(ROUNDS), rank([turned, ROUNDS[0]])
    assert [s.version for s in one.standings] == [s.version for s in other.standings]
    for a, b in zip(one.standings, other.standings, strict=True):
        assert (a.strength, a.wins, a.pairs) == pytest.approx((b.strength, b.wins, b.pairs))


def test_of_two_rounds_of_the_same_versions_the_newest_counts() -> None:
    (found,) = rank([round_of(2, 1, 0.9), round_of(2, 1, 0.1, seed=9)])
    assert found.standings[0].version == 2
    assert found.standings[0].pairs == 300


def test_ties_are_halves_and_unscored_pairs_are_nothing() -> None:
    (found,) = rank([comparison(2, 1, ["tie", "tie", "candidate", "control"])])
    assert [one.wins for one in found.standings] == [2.0, 2.0]
    one = comparison(2, 1, ["candidate"])
    one["result"]["preferences"]["pairs"][0]["preferred"] = None
    assert rank([one]) == []


def in_clusters(rng: np.random.Generator, known: bool) -> Json:
    """Twenty clusters of five items that are won and lost as one."""
    found = comparison(2, 1, [one for one in rng.choice(["candidate", "control"], 20) for _ in range(5)])
    for n, pair in enumerate(found["result"]["preferences"]["pairs"]):
        pair |= {"cluster": f"cluster:{n // 5}"} if known else {}
    return found


def holds_the_truth(found: Json) -> bool:
    (ranking,) = rank([found])
    interval = ranking.standings[0].interval
    return interval is not None and interval.lower <= 0.0 <= interval.upper


def test_items_that_hang_together_are_counted_as_clusters() -> None:
    """Counted as items, one interval in four misses that the versions are the same."""
    rng = np.random.default_rng(1)
    assert np.mean([holds_the_truth(in_clusters(rng, True)) for _ in range(200)]) >= 0.92
    assert np.mean([holds_the_truth(in_clusters(rng, False)) for _ in range(200)]) <= 0.8


def test_what_all_items_say_alike_has_no_interval() -> None:
    (found,) = rank([comparison(2, 1, ["tie"] * 50)])
    assert [(one.strength, one.interval) for one in found.standings] == [(0.0, None), (0.0, None)]


def test_a_version_that_never_lost_has_no_strength_and_it_is_said() -> None:
    (found,) = rank([comparison(2, 1, ["candidate"] * 5)])
    assert found.problem is not None
    assert [one.strength for one in found.standings] == [None, None]
    assert found.standings[0].version == 2


@pytest.mark.parametrize(
    ("stored", "code", "told"),
    [
        (ROUNDS, 0, "beats v1"),
        ([comparison(2, 1, ["candidate"])], 2, "never lost"),
        ([{**comparison(2, 1, []), "result": {}}], 3, "pairwise check"),
        ([], 3, "no two versions"),
        ([round_of(3, 2, 0.5), comparison(2, 1, ["candidate"] * 9, hash_="older")], 0, "300 items"),
    ],
)
def test_the_command(monkeypatch: pytest.MonkeyPatch, stored: list[Json], code: int, told: str) -> None:
    monkeypatch.setattr(ControlClient, "get", lambda self, path, params: stored)
    monkeypatch.setenv("COLUMNS", "200")
    found = CliRunner().invoke(golden, ["rank", "support", "-m", "chat", "--token", "t"])
    assert found.exit_code == code, found.output
    assert told in found.output
