"""What did a preflight find, and may the candidate have traffic?

A finding is one check's result in a sentence. Only `fail` stands against the candidate; what could not be
checked is `unchecked` and is said, never taken for a pass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from evaluators.summary import Gate

Status = Literal["ok", "note", "warn", "fail", "unchecked"]
Check = Literal[
    "answers",
    "replicas",
    "tokenizer",
    "template",
    "prompt_tokens",
    "sampling_defaults",
    "artefacts",
    "context",
    "tool_calls",
    "json_schema",
    "streaming",
    "output_tokens",
    "greedy_agreement",
    "latency",
]
CHECKS: Final[tuple[str, ...]] = Check.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check's result. `items` are the probes, files or settings that it is about, `numbers` what was
    measured (milliseconds, tokens, shares from 0 to 1)."""

    check: Check
    status: Status
    sentence: str
    items: tuple[str, ...] = ()
    numbers: Mapping[str, float | int | str | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "status": self.status,
            "sentence": self.sentence,
            "items": list(self.items),
            "numbers": dict(self.numbers),
        }


def ended(sentence: str) -> str:
    """The sentence with one full stop: its last words may be somebody else's sentence, with its own."""
    return f"{sentence.rstrip().removesuffix('.')}."


def unchecked(check: Check, why: str) -> Finding:
    """The check could not be made."""
    return Finding(check=check, status="unchecked", sentence=ended(f"Not checked: {why}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings about a candidate against a control, of each where it was asked, and a fingerprint (None:
    nothing known)."""

    model: str
    control_version: int
    candidate_version: int
    findings: tuple[Finding, ...]
    control_fingerprint: str | None = None
    candidate_fingerprint: str | None = None
    control_endpoint: Mapping[str, Any] | None = None
    candidate_endpoint: Mapping[str, Any] | None = None

    @property
    def verdict(self) -> Gate:
        """`fail` if something stands against the candidate, `inconclusive` if it could not even be asked."""
        if any(finding.status == "fail" for finding in self.findings):
            return "fail"
        asked = [finding.status for finding in self.findings if finding.check == "answers"]
        return "inconclusive" if not asked or "unchecked" in asked else "pass"

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        failed = [finding.check for finding in self.findings if finding.status == "fail"]
        warned = [finding.check for finding in self.findings if finding.status == "warn"]
        blind = [finding.check for finding in self.findings if finding.status == "unchecked"]
        tail = f" Not checked: {_listed(blind)}." if blind else ""
        if failed:
            return f"Fail: {_listed(failed)}.{tail}"
        if self.verdict == "inconclusive":
            return f"Inconclusive: the versions could not be asked.{tail}"
        return f"Pass{f', with a warning about {_listed(warned)}' if warned else ''}.{tail}"

    def accepting(self, checks: Collection[str]) -> Report:
        """The report with the failures of these checks taken as intended: they become warnings."""
        findings = tuple(
            replace(one, status="warn", sentence=f"Accepted: {one.sentence}")
            if one.check in checks and one.status == "fail"
            else one
            for one in self.findings
        )
        return replace(self, findings=findings)

    def to_json(self) -> dict[str, Any]:
        """The report as the control API stores it."""
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "control_fingerprint": self.control_fingerprint,
            "candidate_fingerprint": self.candidate_fingerprint,
            "control_endpoint": self.control_endpoint,
            "candidate_endpoint": self.candidate_endpoint,
            "findings": [finding.to_json() for finding in self.findings],
        }


def _listed(names: Collection[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in names)
