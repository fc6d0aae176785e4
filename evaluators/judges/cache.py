"""Was this very answer to this very question judged before, by this judge, in this way?

A judge costs money and time; the same call again is answered from an SQLite file. The key holds everything
that a score depends on, and the repeat: five repeats are five opinions. Only scores are kept; a reply that
was no verdict, or no reply at all, is asked for again.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from evaluators.canonical import content_hash
from evaluators.errors import EvaluatorError
from evaluators.golden import Check, GoldenItem
from evaluators.score import Output, Score

log = logging.getLogger("turnout.evaluators")

#: Where it lies in the data folder.
CACHE_FILE: Final = "judge-cache.sqlite"
_TABLE: Final = "CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, score TEXT NOT NULL) WITHOUT ROWID"


def score_key(check: Check, item: GoldenItem, outputs: tuple[Output, ...], repeat: int, judge: str) -> str:
    """The key: evaluator, version and options, item, outputs, repeat, and who judges."""
    return content_hash(
        {
            "evaluator": check.evaluator_version,
            "options": check.options.model_dump(mode="json", by_alias=True),
            "item": item.hash,
            "outputs": [output.content for output in outputs],
            "repeat": repeat,
            "judge": judge,
        }
    )


class ScoreCache:
    """Scores by key in one SQLite file, which several processes may share. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(path, timeout=30.0, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(_TABLE)
        except sqlite3.Error as error:
            mend = "remove it: what it holds is asked of the judge again"
            raise EvaluatorError(f"the cache of judges {path} cannot be used ({error}); {mend}") from None
        self.hits = 0

    def __enter__(self) -> ScoreCache:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def get(self, key: str) -> Score | None:
        """The score of that key. What it cost was paid when it was made: a hit costs nothing."""
        row = self._tried("SELECT score FROM scores WHERE key = ?", [key])
        if row is None:
            return None
        self.hits += 1
        fields: dict[str, Any] = json.loads(row[0])
        return Score(**{**fields, "cost_usd": None, "metadata": {**fields["metadata"], "cached": True}})

    def put(self, key: str, score: Score) -> None:
        """Keep a score; an error, and what is unscored, is not kept."""
        if score.status != "scored":
            return
        text = json.dumps(asdict(score), allow_nan=False)
        self._tried("INSERT OR REPLACE INTO scores VALUES (?, ?)", [key, text])

    def _tried(self, query: str, values: list[str]) -> Any:
        """The first row, if any. A full disk, or a lock that is held, costs the memory and no verdict."""
        try:
            return self._connection.execute(query, values).fetchone()
        except sqlite3.Error as error:
            log.warning("the cache of judges: %s", error)
            return None
