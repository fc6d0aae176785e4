"""How does an experiment's accounting read in one line?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def accounting(document: Mapping[str, Any]) -> str:
    """Where the requests went, in a line, of an experiment or of a verdict."""
    books = document["accounting"]
    arms = [
        f"{arm} {one['assigned']:,} ({_ends(one)})"
        for arm, one in sorted(books["by_arm"].items(), reverse=True)
    ]
    outside = [f"{why.replace('_', ' ')} {count:,}" for why, count in books["outside"].items() if count]
    told = f"{books['eligible']:,} eligible = {' + '.join([*arms, *outside]) or 'nothing yet'}"
    if books["not_copied"] is not None:
        told += f"; {books['not_copied']:,} not copied"
    closes = f"{books['missing']:,} rows are MISSING" if books["missing"] else "the accounting closes"
    return f"{told}; {closes}" + (f"; {books['lost']:,} lost" if books["lost"] else "")


def _ends(arm: Mapping[str, Any]) -> str:
    """How an arm's requests ended, whole answers first."""
    outcomes = sorted(arm["outcomes"].items(), key=lambda one: (one[0] != "complete", one[0]))
    ends = [f"{count:,} {outcome.replace('_', ' ')}" for outcome, count in outcomes]
    return ", ".join([*ends, *([f"{arm['missing']:,} missing"] if arm["missing"] else [])])
