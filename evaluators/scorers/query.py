"""Is the SQL in the answer the same query as the right one?

Compares syntax trees after sqlglot has normalised them (extra `sql`): case of keywords and names, white
space, comments, quotes, redundant brackets and the order of AND-ed conditions make no difference. It does not
decide whether two different queries mean the same: that is undecidable, and a judge's or a database's matter.
Nothing is executed.
"""

from __future__ import annotations

import re
from typing import Any, Final

from evaluators.errors import MissingExtra
from evaluators.golden import GoldenItem, Reference
from evaluators.score import Output
from evaluators.scorers.registry import scorer
from evaluators.scorers.text import ValuesOptions

_FENCED: Final = re.compile(r"```(?:\w+)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_MAX_SQL: Final = 50_000  # characters: the parser's time grows with them


class SqlOptions(ValuesOptions):
    """`values`, or else the item's reference, any of which the query must equal, in sqlglot's `dialect`."""

    dialect: str | None = None

    def expects(self, reference: tuple[Reference, ...]) -> str:
        return " or ".join(self.wanted(reference))

    def suits(self, reference: tuple[Reference, ...]) -> None:
        _known(self.dialect)
        for value in self.wanted(reference):
            if _tree(value, self.dialect) is None:
                raise ValueError(f"{value!r} is no SQL that sqlglot can read")


@scorer("sql", version="1", options=SqlOptions, requires=frozenset({"reference"}))
def sql(item: GoldenItem, output: Output, options: SqlOptions) -> tuple[bool, str]:
    """The answer, or its first ``` block, is the right query."""
    block = _FENCED.search(output.text)
    text = output.text if block is None else block[1]
    got = _tree(text, options.dialect)
    expected = f"expected {options.expects(item.reference)}"
    if got is None:
        return False, f"{expected}; the answer is no SQL"
    passed = any(got == _tree(wanted, options.dialect) for wanted in options.wanted(item.reference))
    return passed, expected


def _known(dialect: str | None) -> None:
    """Raise ValueError for a dialect that sqlglot does not know, which says what is near."""
    try:
        from sqlglot import Dialect
    except ModuleNotFoundError:
        raise MissingExtra("sql", "sqlglot", "sql") from None
    Dialect.get_or_raise(dialect)


def _tree(text: str, dialect: str | None) -> Any:
    """The normalised syntax tree of exactly one statement, or None."""
    try:
        import sqlglot
        from sqlglot.errors import SqlglotError
        from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
        from sqlglot.optimizer.simplify import simplify
    except ModuleNotFoundError:
        raise MissingExtra("sql", "sqlglot", "sql") from None
    if len(text) > _MAX_SQL:
        return None
    try:
        statements = [found for found in sqlglot.parse(text, dialect=dialect) if found is not None]
        if len(statements) != 1 or isinstance(statements[0], sqlglot.exp.Command):
            return None
        tree = simplify(normalize_identifiers(statements[0], dialect=dialect))
    except (SqlglotError, RecursionError, ValueError):
        return None
    for identifier in tree.find_all(sqlglot.exp.Identifier):
        identifier.set("quoted", False)
    for node in tree.walk():
        node.comments = None
    return tree
