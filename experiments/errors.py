"""Which errors can the control plane raise towards its users?

    ExperimentsError
    ├── DocumentError      a YAML file that does not say what it must: every problem at once
    ├── NotFound           no such experiment, model, version, run
    ├── Conflict           the state of things forbids it: says which state, and what would be possible
    │   └── Refused        a promotion without a passing verdict
    └── Unavailable        a part that is needed does not answer (the registry, the ledger's disk)

Each carries a stable `code`: the API hands it on unchanged, and scripts may rely on it.
"""

from __future__ import annotations

from dataclasses import dataclass


class ExperimentsError(Exception):
    """Something the user asked for cannot be done; the message says what, where and how to mend it."""

    code = "turnout_error"
    status = 400

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.param = param


class NotFound(ExperimentsError):
    """The thing named does not exist."""

    code = "not_found"
    status = 404


class Conflict(ExperimentsError):
    """The thing exists, but not in a state that allows this."""

    code = "conflict"
    status = 409


class Refused(Conflict):
    """Production stays as it is: the evidence does not carry the change."""

    code = "promotion_refused"


class Unavailable(ExperimentsError):
    """A part that this needs does not answer. Trying again later may help."""

    code = "unavailable"
    status = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong in a file: where it stands, what is there, what should be there."""

    file: str
    line: int | None
    field: str
    found: str
    expected: str
    mend: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        field = f" {self.field}:" if self.field else ""
        mend = f". {self.mend}" if self.mend else ""
        return f"{place}:{field} found {self.found}, expected {self.expected}{mend}"


class DocumentError(ExperimentsError):
    """A YAML document with problems. `problems` is never empty."""

    code = "invalid_spec"

    def __init__(self, problems: tuple[Problem, ...], *, code: str | None = None) -> None:
        self.problems = problems
        super().__init__(
            "\n".join(str(problem) for problem in problems), code=code, param=problems[0].field or None
        )
