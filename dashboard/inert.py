"""How does text written by models, users and operators become harmless on a page and in a file?

Streamlit reads Markdown in labels, badges and headings: an image in a model's name would be a request to
somebody's server. Long foreign text goes to `st.code` and `st.text`, which read no Markdown; what must stand
in a label passes through `label`, a sentence that may name commands through `prose`. Pure, and must not know
Streamlit.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence

# All ASCII punctuation may be escaped by a backslash (CommonMark 0.31, section 2.4).
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
# Autolinks, `:emoji:` and `:material/icon:` are recognised after escapes are resolved: only an invisible
# character inside breaks them.
_AFTER_ESCAPES = re.compile(r"(?i)(:(?=\w|/)|www(?=\.)|@(?=\w))")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_BREAK = "\u200b"
# Characters that make a spreadsheet read a cell as a formula (OWASP, CSV injection), in both widths.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def one_line(text: str, limit: int = 200) -> str:
    """`text` without control and direction characters, at most `limit` characters long."""
    flat = _CONTROL.sub(" ", text).strip()
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def label(text: object, limit: int = 200) -> str:
    """`text` as it may stand where Streamlit reads Markdown: shown as written, doing nothing."""
    return _escaped(one_line(str(text), limit))


def prose(text: object, limit: int = 200) -> str:
    """A sentence as `label` has it, but what stands between two backticks is code: a command to be typed."""
    parts = one_line(str(text), limit).split("`")
    if len(parts) % 2 == 0:  # the last backtick has no partner
        parts[-2:] = ["`".join(parts[-2:])]
    return "".join(_command(part) if place % 2 else _escaped(part) for place, part in enumerate(parts))


def _command(text: str) -> str:
    """As code; of nothing but blanks Markdown makes none."""
    return f"`{text}`" if text.strip(" ") else _escaped(f"`{text}`")


def _escaped(flat: str) -> str:
    return _PUNCTUATION.sub(r"\\\1", _AFTER_ESCAPES.sub(lambda found: found.group(0) + _BREAK, flat))


def badge(text: object, limit: int = 60) -> str:
    """`text` for a badge: Streamlit escapes square brackets there once more and would undo our escape."""
    return label(str(text).replace("[", "(").replace("]", ")"), limit)


def cell(value: object) -> object:
    """`value` as a CSV cell that no spreadsheet takes for a formula; numbers stay numbers."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    # Excel skips leading blanks before it looks for a formula.
    return (
        "'" + text if text.startswith(_FORMULA) or text.lstrip(" \u00a0\ufeff").startswith(_FORMULA) else text
    )


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file (UTF-8 with BOM, as Excel wants it) whose every cell is inert."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow([cell(column) for column in columns])
    writer.writerows([cell(value) for value in row] for row in rows)
    return out.getvalue().encode("utf-8-sig")
