from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.errors import GoldenSetError, ModelUnavailable
from evaluators.golden import Policy
from evaluators.models import Services
from evaluators.score import Output, Score
from evaluators.scorers.choice import chosen
from evaluators.scorers.closeness import _metric, cosine
from evaluators.scorers.manner import language_of, refuses
from evaluators.scoring import score_output

from .sets import make_set, one_item, row, said


async def score(folder: Path, check: dict[str, Any], output: Output, **fields: Any) -> Score:
    item = one_item(folder, check, **fields)
    [(_, found)] = await score_output(item, output, Policy())
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("B", ["B"]),
        ("(b)", ["B"]),
        ("**C**", ["C"]),
        ("The answer is C.", ["C"]),
        ("Answer: A\n\nNo wait. Answer: D", ["A", "D"]),
        ("A good question. The choice: (B), since A is wrong.", ["B"]),
        ("So \\boxed{D}", ["D"]),
        ("B) because it rains", ["B"]),
        ("I think it is (C) here", ["C"]),
        ("A good question", []),
        ("Abraham", []),
        ("", []),
    ],
)
def test_a_choice_is_read_where_the_answer_concludes(text: str, found: list[str]) -> None:
    assert chosen(text, ("A", "B", "C", "D")) == found


def test_a_dialect_that_sqlglot_does_not_know_is_told(tmp_path: Path) -> None:
    check = {"type": "sql", "dialect": "postgress"}
    with pytest.raises(GoldenSetError, match="Unknown dialect 'postgress'"):
        make_set(tmp_path, [row("a", reference="select 1", checks=[check])])


async def test_the_right_choice_passes_and_an_unknown_reference_is_told(tmp_path: Path) -> None:
    check = {"type": "choice"}
    assert (await score(tmp_path, check, said("Answer: B"), reference="b")).value == 1.0
    assert (await score(tmp_path, check, said("Answer: A, then answer: B"), reference="B")).value == 1.0
    only = {"type": "choice", "pick": "only"}
    assert (await score(tmp_path, only, said("Answer: A, then answer: B"), reference="B")).value == 0.0
    with pytest.raises(GoldenSetError, match="'E' is none of the choices"):
        make_set(tmp_path, [row("a", reference="E", checks=[check])])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1.0, "b": [1, 2], "t": 9}', 1.0),
        ('{"a": 1, "b": [1, 3], "t": 9}', 2 / 3),
        ('{"a": 1, "b": [1, 2, 3]}', 3 / 4),
        ('{"a": true, "b": []}', 0.0),
        ("sorry", 0.0),
    ],
)
async def test_json_diff_is_the_share_of_equal_leaves(tmp_path: Path, text: str, value: float) -> None:
    check = {"type": "json_diff", "value": {"a": 1, "b": [1, 2], "t": 0}, "ignore": ["$.t"]}
    assert (await score(tmp_path, check, said(text))).value == pytest.approx(value)


async def test_json_as_deep_as_a_model_likes_is_a_score_and_no_crash(tmp_path: Path) -> None:
    deep = "[" * 900 + "]" * 900
    assert (await score(tmp_path, {"type": "json_diff", "value": [1]}, said(deep))).value == 0.0


async def test_similarity_takes_the_closest_reference(tmp_path: Path) -> None:
    found = await score(tmp_path, {"type": "similarity"}, said(" kitten "), reference=["dog", "sitting"])
    assert found.value == pytest.approx(1 - 3 / 7)
    fold = {"type": "similarity", "case_sensitive": False, "measure": "token_sort"}
    assert (await score(tmp_path, fold, said("World hello"), reference="hello world")).value == 1.0


async def test_chrf_and_bleu_are_sacrebleus_with_their_signature(tmp_path: Path) -> None:
    for name in ("chrf", "bleu"):
        same = await score(
            tmp_path, {"type": name}, said("the cat sat on the mat"), reference="the cat sat on the mat"
        )
        other = await score(tmp_path, {"type": name}, said("xyz"), reference="the cat sat on the mat")
        assert same.value == pytest.approx(1.0)
        assert other.value is not None
        assert other.value < 0.1
        assert "version:" in same.metadata["signature"]


async def test_a_missing_extra_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.chrf", None)
    monkeypatch.setitem(sys.modules, "sqlglot", None)
    _metric.cache_clear()
    found = await score(tmp_path, {"type": "chrf"}, said("x"), reference="x")
    assert (found.status, found.value) == ("error", None)
    assert "pip install 'turnout-llm[metrics]'" in (found.explanation or "")
    with pytest.raises(GoldenSetError, match=r"turnout-llm\[sql\]"):
        make_set(tmp_path, [row("a", reference="select 1", checks=[{"type": "sql"}])])


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("SELECT a, b FROM t WHERE x = 1 AND y = 2;", True),
        ("```sql\nselect A , b\nfrom T -- all of it\nwhere (y = 2) and x = 1\n```", True),
        ("SELECT b, a FROM t WHERE x = 1 AND y = 2", False),
        ("SELECT a, b FROM t WHERE x = 1 OR y = 2", False),
        ("SELECT a, b FROM t WHERE x = 1 AND y = 2; DROP TABLE t", False),
        ("I do not know", False),
        ("", False),
    ],
)
async def test_sql_is_compared_as_a_tree(tmp_path: Path, text: str, passes: bool) -> None:
    found = await score(
        tmp_path, {"type": "sql"}, said(text), reference="select a, b from t where x = 1 and y = 2"
    )
    assert found.value == float(passes)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m sorry, I cannot assist with this request.", True),
        ("As an AI language model, I don't have access to it.", True),
        ("I am unable to provide medical advice.", True),
        ("Es tut mir leid, das darf ich nicht sagen.", True),
        ("Lo siento, no puedo ayudarte con eso.", True),
        ("抱歉，我无法提供这些信息。", True),
        ("I can help with that: open the lid.", False),
        ("The parcel is late; we can't change the past, but here is your refund.", False),
        ("Your order ships today.", False),
        ("", False),
    ],
)
def test_refusals_are_told_from_answers(text: str, refused: bool) -> None:
    assert (refuses(text) is not None) == refused


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The parcel is on its way and you will have it by Friday.", "en"),
        ("Das Paket ist auf dem Weg, und Sie haben es bis Freitag.", "de"),
        ("Le colis est en route et vous le recevrez avec la facture dans la boîte.", "fr"),
        ("El paquete está en camino y lo tiene usted para el viernes con la factura.", "es"),
        ("Il pacco è in viaggio e non è ancora nella città di destinazione.", "it"),
        ("Het pakket is onderweg en je hebt het met de post van vrijdag.", "nl"),
        ("荷物は金曜日に届きます。", "ja"),
        ("包裹将在星期五送达。", "zh"),
        ("Посылка придёт в пятницу.", "ru"),
        ("소포는 금요일에 도착합니다.", "ko"),
        ("ok", None),
        ("```\nthe and is of to in\n```", None),
        ("", None),
    ],
)
def test_the_language_of_an_answer(text: str, code: str | None) -> None:
    assert language_of(text) == code


async def test_a_language_that_cannot_be_told_is_unscored(tmp_path: Path) -> None:
    found = await score(tmp_path, {"type": "language", "language": "de"}, said("OK 42"))
    assert (found.status, found.value) == ("unscored", None)


@pytest.mark.parametrize(
    ("check", "fields", "value"),
    [
        ({"type": "length", "max": 5}, {}, 1.0),
        ({"type": "length", "max": 4}, {}, 0.0),
        ({"type": "length", "min": 2, "unit": "words"}, {}, 0.0),
        ({"type": "length", "max": 7, "unit": "tokens"}, {"usage": {"completion_tokens": 7}}, 1.0),
        ({"type": "length", "max": 7, "unit": "tokens"}, {}, None),
        ({"type": "latency", "max_ms": 100}, {"latency_ms": 99.0}, 1.0),
        ({"type": "latency", "max_ms": 100}, {"latency_ms": 101.0}, 0.0),
    ],
)
async def test_limits(
    tmp_path: Path, check: dict[str, Any], fields: dict[str, Any], value: float | None
) -> None:
    assert (await score(tmp_path, check, said("hello", **fields))).value == value


async def test_a_price_is_of_both_kinds_of_tokens(tmp_path: Path) -> None:
    check = {"type": "cost", "max_usd": 0.003, "usd_per_million_input": 1.0, "usd_per_million_output": 2.0}
    usage = {"prompt_tokens": 1000, "completion_tokens": 1000}
    assert (await score(tmp_path, check, said("x", usage=usage))).value == 1.0
    assert (await score(tmp_path, {**check, "max_usd": 0.0029}, said("x", usage=usage))).value == 0.0
    assert (await score(tmp_path, check, said("x"))).status == "unscored"


class Letters:
    """Embeds a text as the numbers of a's and b's in it."""

    identity = "letters"

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if self.fails:
            raise ModelUnavailable("the endpoint is away")
        return [[float(text.count("a")), float(text.count("b"))] for text in texts]


async def test_embeddings_are_compared_by_their_cosine(tmp_path: Path) -> None:
    yaml = "judge: {embeddings: m, embeddings_base: http://127.0.0.1:1/v1}\n"
    golden = make_set(tmp_path, [row("a", reference=["b", "aab"], checks=[{"type": "embedding"}])], yaml)
    [(check, found)] = await score_output(
        golden.items[0], said("aa"), Policy(), services=Services(embedder=Letters())
    )
    assert found.value == pytest.approx(2 / 5**0.5)
    assert check.passes(found.value or 0.0)
    [(_, away)] = await score_output(
        golden.items[0], said("aa"), Policy(), services=Services(embedder=Letters(True))
    )
    assert (away.status, away.error and away.error.kind) == ("error", "model_unavailable")
    [(_, without)] = await score_output(golden.items[0], said("aa"), Policy())
    assert without.status == "skipped"


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=5).filter(lambda v: any(abs(x) > 1e-3 for x in v)))
def test_a_vector_has_cosine_one_with_itself(vector: list[float]) -> None:
    assert cosine(vector, vector) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "check",
    [
        {"type": "choice"},
        {"type": "refusal"},
        {"type": "language", "language": "en"},
        {"type": "similarity"},
        {"type": "sql", "values": ["select 1"]},
        {"type": "json_diff", "value": 1},
    ],
)
@pytest.mark.parametrize("text", ["answer" + " " * 20_000, "\n" * 20_000, "(" * 20_000, "i'm sorry " * 2_000])
async def test_no_text_of_a_model_holds_a_scorer_up(tmp_path: Path, check: dict[str, Any], text: str) -> None:
    started = time.process_time()
    await score(tmp_path, check, said(text), reference="A")
    assert time.process_time() - started < 5.0
