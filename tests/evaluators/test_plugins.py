from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from evaluators.errors import EvaluatorUnusable, GoldenSetError
from evaluators.golden import GoldenSet, Policy
from evaluators.plugins import register_entry_points
from evaluators.scorers import FunctionEvaluator, Options, registered
from evaluators.scorers.registry import collecting
from evaluators.scoring import score_output

from .sets import make_set, row, said

POLITE = """
from evaluators.scorers import Options, scorer

class Words(Options):
    word: str = "please"

@scorer("polite", version="3", options=Words)
def polite(item, output, options):
    return options.word in output.text, "says " + options.word

@scorer("brief", version="1", direction="min", value_type="float", threshold=0.5)
async def brief(item, output, options):
    return len(output.text) / 10, "length"
"""


def own_set(folder: Path, source: str, *checks: dict[str, Any], name: str = "checks.py") -> GoldenSet:
    (folder / "checks.py").write_text(source, "utf-8")
    return make_set(folder, [row("a", checks=list(checks))], f"evaluators: [{name}]\n")


async def scores(golden: GoldenSet, text: str) -> list[tuple[str, float | None, bool]]:
    found = await score_output(golden.items[0], said(text), Policy())
    return [
        (score.status, score.value, score.value is not None and check.passes(score.value))
        for check, score in found
    ]


async def test_a_file_of_the_set_brings_evaluators_of_its_own(tmp_path: Path) -> None:
    golden = own_set(tmp_path, POLITE, {"type": "polite"}, {"type": "brief"})
    assert await scores(golden, "please") == [("scored", 1.0, True), ("scored", pytest.approx(0.4), False)]
    assert "polite" not in registered()


async def test_an_edited_file_is_another_version_and_both_live_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = own_set(tmp_path / "a", POLITE, {"type": "polite"})
    second = own_set(
        tmp_path / "b", POLITE.replace('word: str = "please"', 'word: str = "thanks"'), {"type": "polite"}
    )
    assert first.evaluators["polite"].startswith("polite@3+")
    assert first.evaluators != second.evaluators
    assert [await scores(golden, "please") for golden in (first, second)] == [
        [("scored", 1.0, True)],
        [("scored", 0.0, False)],
    ]


@pytest.mark.parametrize(
    ("source", "name", "told"),
    [
        ("raise RuntimeError('boom')", "checks.py", "does not run (RuntimeError: boom)"),
        ("x = 1", "checks.py", "registers no scorer"),
        (POLITE.replace('"polite"', '"exact"'), "checks.py", "there is a scorer 'exact' already"),
        (POLITE, "../checks.py", "no .py file in the folder of the set"),
        (POLITE, "absent.py", "cannot be read"),
    ],
)
def test_a_file_that_is_no_use_is_told(tmp_path: Path, source: str, name: str, told: str) -> None:
    with pytest.raises(GoldenSetError, match="evaluators") as caught:
        own_set(tmp_path, source, {"type": "polite"}, name=name)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("raise KeyError('x')", "KeyError"),
        ("return 7.0, 'a number'", "out_of_range"),
        ("return float('nan'), 'none'", "ValueError"),
        ("return True, {'reason': 'no text'}", "TypeError"),
        ("return True, 'half of an emoji \\ud83d'", "TypeError"),
        ("raise ValueError('\\ud83d')", "ValueError"),
    ],
)
async def test_what_a_scorer_gets_wrong_is_missing_and_never_a_number(
    tmp_path: Path, body: str, kind: str
) -> None:
    source = (
        "from evaluators.scorers import scorer\n\n"
        f"@scorer('odd', version='1')\ndef odd(item, output, options):\n    {body}\n"
    )
    golden = own_set(tmp_path, source, {"type": "odd"})
    [(_, score)] = await score_output(golden.items[0], said("x"), Policy())
    assert (score.status, score.value, score.error and score.error.kind) == ("error", None, kind)


def test_a_package_registers_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = FunctionEvaluator(
        name="from_a_package", version="1", options=Options, function=lambda item, output, options: (True, "")
    )
    monkeypatch.setattr("tests.evaluators.sets.plugged", evaluator, raising=False)
    with collecting() as found:
        register_entry_points([EntryPoint("x", "tests.evaluators.sets:plugged", "turnout.evaluators")])
    assert found == [evaluator]


def test_a_broken_package_is_named() -> None:
    with pytest.raises(EvaluatorUnusable, match=r"no_such_module.*mend or uninstall"):
        register_entry_points([EntryPoint("x", "no_such_module", "turnout.evaluators")])


async def test_a_graded_check_passes_from_its_threshold_on_and_not_inverts_that(tmp_path: Path) -> None:
    source = (
        "from evaluators.scorers import scorer\n\n"
        "@scorer('share', version='1', value_type='float', threshold=0.8)\n"
        "def share(item, output, options):\n    return float(output.text), 'share'\n"
    )
    golden = own_set(
        tmp_path,
        source,
        {"type": "share"},
        {"type": "share", "key": "low", "threshold": 0.3},
        {"type": "share", "key": "not", "not": True},
    )
    assert await scores(golden, "0.5") == [
        ("scored", 0.5, False),
        ("scored", 0.5, True),
        ("scored", 1.0, True),
    ]
    assert await scores(golden, "0.8") == [
        ("scored", 0.8, True),
        ("scored", 0.8, True),
        ("scored", 0.0, False),
    ]


def test_a_margin_of_a_check_that_no_item_has_is_told(tmp_path: Path) -> None:
    with pytest.raises(GoldenSetError, match=r"metrics\.similar: found no check of this key"):
        make_set(tmp_path, [row("a")], "metrics: {similar: {margin: 0.1}}\n")
