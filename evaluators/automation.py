"""What do the evaluators do by themselves? The operator's file, DATA/evaluators.yaml.

    gate:
      chat: {set: goldens/support, alias: candidate}
    online:
      - {name: short, model: chat, checks: [{type: length, max: 2000}], rate: 0.05, per_day: 2000}

`gate`: a new version of the model, or one that the alias moves to, is held against production and put the
golden set. `online`: a share of the recorded exchanges is scored. Paths are relative to the file's folder.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from evaluators.canonical import content_hash, why_no_json
from evaluators.errors import GoldenSetError
from evaluators.golden import Check, GoldenSet
from evaluators.loading import load_golden_set
from evaluators.preflight.finding import CHECKS
from evaluators.scoring import requires
from experiments.document import check, read_document
from experiments.errors import DocumentError, Problem

FILE: Final = "evaluators.yaml"
_NAME: Final = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _GateEntry(_Entry):
    set: str = Field(min_length=1, description="the folder of a golden set")
    alias: str = Field(default="candidate", pattern=_NAME, description="an alias such as candidate")
    accept: list[str] = Field(default=[], description="preflight checks whose difference is intended")
    repeats: int = Field(default=1, ge=1, le=100, description="how often each item is asked")
    concurrency: int = Field(default=4, ge=1, le=256, description="questions in flight at once")

    @field_validator("accept")
    @classmethod
    def _known(cls, accept: list[str]) -> list[str]:
        if unknown := sorted(set(accept) - set(CHECKS)):
            raise ValueError(f"{unknown[0]!r} is no check of the preflight; there are {', '.join(CHECKS)}")
        return accept


class _OnlineEntry(_Entry):
    name: str = Field(pattern=_NAME, description="what its scores are called")
    model: str = Field(pattern=_NAME, description="a model's name")
    checks: list[dict[str, Any]] = Field(min_length=1, description="a list of checks, as in a golden set")
    judge: dict[str, Any] | None = Field(default=None, description="who judges and embeds, as in set.yaml")
    of: Literal["exchanges", "pairs"] = Field(default="exchanges", description="exchanges or pairs")
    rate: float = Field(ge=0, le=1, description="the share that is scored, from 0 to 1")
    per_day: int = Field(default=1000, ge=1, description="at most so many scores in 24 hours")
    usd_per_day: float | None = Field(default=None, ge=0, description="at most so much in 24 hours")
    concurrency: int = Field(default=2, ge=1, le=64, description="scored at once")
    hours: float = Field(default=24.0, gt=0, le=24 * 3660, description="not older than so many hours")
    version: str = Field(default="", max_length=40, description="a word that begins the scores anew")


class _File(_Entry):
    gate: dict[str, _GateEntry] = Field(default={}, description="a mapping of model names to their gate")
    online: list[_OnlineEntry] = Field(default=[], description="a list of what is scored online")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRule:
    """How a model's new versions come to traffic."""

    model: str
    set: Path
    alias: str = "candidate"
    accept: tuple[str, ...] = ()
    repeats: int = 1
    concurrency: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineRule:
    """Which recorded exchanges are scored, by what, and within which limits.

    `golden` is a set of one item, which has the checks and says who judges. Each check is an evaluator
    `NAME.KEY`; its version is the scorer's with a hash of its options and of the judge, so that a changed
    question, or another judge, is another version.
    """

    name: str
    model: str
    golden: GoldenSet
    versions: tuple[str, ...]
    role: Literal["primary", "shadow"] = "primary"
    rate: float = 1.0
    per_day: int = 1000
    usd_per_day: float | None = None
    concurrency: int = 2
    hours: float = 24.0

    @property
    def checks(self) -> tuple[Check, ...]:
        """What is looked at."""
        return self.golden.items[0].checks


@dataclass(frozen=True, slots=True, kw_only=True)
class Automation:
    """All that is to be done."""

    gates: tuple[GateRule, ...] = ()
    online: tuple[OnlineRule, ...] = ()


def read_automation(path: Path) -> Automation:
    """What the file declares; nothing if there is none. Raises GoldenSetError with every problem."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return Automation()
    except UnicodeDecodeError as error:
        problem = Problem(
            file=str(path), line=None, field="", found=str(error), expected="UTF-8", mend="Save it as UTF-8"
        )
        raise GoldenSetError([problem]) from None
    try:
        found = check(read_document(text, str(path)), _File)
    except DocumentError as error:
        raise GoldenSetError(error.problems) from None
    base = path.resolve().parent
    return Automation(
        gates=tuple(
            GateRule(
                model=model,
                set=base / entry.set,
                alias=entry.alias,
                accept=tuple(entry.accept),
                repeats=entry.repeats,
                concurrency=entry.concurrency,
            )
            for model, entry in found.gate.items()
        ),
        online=tuple(_online(path, entry) for entry in found.online),
    )


def _online(path: Path, entry: _OnlineEntry) -> OnlineRule:
    golden = _golden(path, entry)
    if problems := list(_unfit(path, entry, golden)):
        raise GoldenSetError(problems)
    word = content_hash([entry.version, entry.judge])
    return OnlineRule(
        name=entry.name,
        model=entry.model,
        golden=golden,
        versions=tuple(_version(one, word) for one in golden.items[0].checks),
        role="shadow" if entry.of == "pairs" else "primary",
        rate=entry.rate,
        per_day=entry.per_day,
        usd_per_day=entry.usd_per_day,
        concurrency=entry.concurrency,
        hours=entry.hours,
    )


def _unfit(path: Path, entry: _OnlineEntry, golden: GoldenSet) -> Iterator[Problem]:
    """Checks that could never be carried out: without their model, or on what they cannot look at."""
    where = f"online {entry.name}"
    if golden.compares and entry.of != "pairs":
        yield Problem(
            file=str(path),
            line=None,
            field=f"{where} of",
            found=entry.of,
            expected="pairs, for a pairwise check compares the two halves of one",
            mend="Write of: pairs, and mirror traffic with an experiment in mode shadow",
        )
    needs = {need for one in golden.items[0].checks for need in requires(one)}
    judge = golden.judge
    lacking = {
        "judge": judge is None or not (judge.model or judge.provider),
        "embedder": judge is None or not judge.embeddings,
    }
    for need in sorted(needs & {need for need, absent in lacking.items() if absent}):
        yield Problem(
            file=str(path),
            line=None,
            field=f"{where} judge",
            found="nothing",
            expected=f"a model for a check that needs a {need}",
            mend="Add judge: {model: NAME}, {provider: ...} or {embeddings: ..., embeddings_base: ...}",
        )


def _version(one: Check, word: str) -> str:
    options = one.options.model_dump(mode="json", by_alias=True)
    digest = content_hash([options, one.negate, word]).removeprefix("sha256:")[:12]
    return f"{one.type}@{one.version}:{digest}"


def _golden(path: Path, entry: _OnlineEntry) -> GoldenSet:
    """The checks as a golden set's loader reads them. Raises GoldenSetError, with the file's own name."""
    asked = {"messages": [{"role": "user", "content": "?"}]}
    item = {"id": entry.name, "input": asked, "checks": _gating(entry.checks)}
    if (why := why_no_json([item, entry.judge])) is not None:
        problem = Problem(
            file=str(path), line=None, field=f"online {entry.name}", found=why,
            expected="values of JSON", mend="Put it in quotation marks",
        )  # fmt: skip
        raise GoldenSetError([problem]) from None
    with tempfile.TemporaryDirectory(prefix="turnout-online-") as folder:
        (Path(folder) / "items.jsonl").write_text(json.dumps(item), "utf-8")
        declared = {"name": entry.name} | ({"judge": entry.judge} if entry.judge else {})
        (Path(folder) / "set.yaml").write_text(json.dumps(declared), "utf-8")
        try:
            return load_golden_set(Path(folder))
        except GoldenSetError as error:
            raise GoldenSetError(_renamed(path, entry.name, error.problems)) from None


def _gating(checks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Online nothing gates; the loader wants something that does."""
    return [{key: value for key, value in one.items() if key != "gate"} for one in checks]


def _renamed(path: Path, name: str, problems: Sequence[Problem]) -> list[Problem]:
    return [
        Problem(
            file=str(path),
            line=None,
            field=f"online {name} {problem.field}",
            found=problem.found,
            expected=problem.expected,
            mend=problem.mend,
        )
        for problem in problems
    ]
