"""Turnout's top-level names are plain nouns: in its environment they must be its own (ADR 1)."""

from __future__ import annotations

from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"turnout", "registry", "experiments", "evaluators", "proxy", "dashboard"}


def test_no_other_distribution_owns_one_of_our_names() -> None:
    claims = {
        (distribution.metadata["Name"], file.parts[0])
        for distribution in distributions()
        for file in distribution.files or ()
        if file.parts[0].removesuffix(".py") in NAMES
    }
    assert {claim for claim in claims if claim[0] != "turnout-llm"} == set()


def test_the_names_lead_here() -> None:
    for name in NAMES:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin == str(ROOT / name / "__init__.py")


def test_nothing_is_sent_home_and_nothing_is_unpickled() -> None:
    """Cheap greps for what must never come back."""
    sources = [path for name in NAMES for path in (ROOT / name).rglob("*.py")]
    assert len(sources) > 30
    for path in sources:
        text = path.read_text()
        for banned in ("import pickle", "unsafe_allow_html", "eval(", "shell=True"):
            assert banned not in text, f"{path}: {banned}"
