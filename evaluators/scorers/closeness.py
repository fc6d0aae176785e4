"""How close is the text to the right one: by letters, by n-grams, by meaning?

Graded scores in [0, 1]; the best of several references counts. Letters by rapidfuzz; BLEU and chrF by
sacrebleu (extra `metrics`), whose signature is kept with the score; meaning by the cosine of two embeddings
from an OpenAI-compatible endpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from rapidfuzz import fuzz
from rapidfuzz.distance import JaroWinkler, Levenshtein

from evaluators.errors import MissingExtra
from evaluators.golden import GoldenItem, Kind, Reference
from evaluators.score import Output, Score
from evaluators.scorers.registry import Direction, EvalContext, Need, Options, ValueType, register, scorer
from evaluators.scorers.text import ValuesOptions

_RATIOS: Final[dict[str, Callable[[str, str], float]]] = {
    "levenshtein": Levenshtein.normalized_similarity,
    "jaro_winkler": JaroWinkler.similarity,
    "ratio": lambda got, wanted: fuzz.ratio(got, wanted) / 100.0,
    "token_sort": lambda got, wanted: fuzz.token_sort_ratio(got, wanted) / 100.0,
    "token_set": lambda got, wanted: fuzz.token_set_ratio(got, wanted) / 100.0,
}


class _CloseOptions(ValuesOptions):
    def expects(self, reference: tuple[Reference, ...]) -> str:
        return "close to " + " or ".join(repr(value) for value in self.wanted(reference))


class SimilarityOptions(_CloseOptions):
    """`values`, or else the item's reference; `measure` of similarity, `case_sensitive` or not."""

    measure: Literal["levenshtein", "jaro_winkler", "ratio", "token_sort", "token_set"] = "levenshtein"
    case_sensitive: bool = True


class NgramOptions(_CloseOptions):
    """`values`, or else the item's reference."""


class EmbeddingOptions(_CloseOptions):
    """`values`, or else the item's reference."""


_REFERENCE: Final = frozenset[Need]({"reference"})


@scorer(
    "similarity",
    version="1",
    options=SimilarityOptions,
    requires=_REFERENCE,
    value_type="float",
    threshold=0.8,
)
def similarity(item: GoldenItem, output: Output, options: SimilarityOptions) -> tuple[float, str]:
    """The similarity of the text with the closest right one, outer white space aside."""
    measure = _RATIOS[options.measure]
    fold: Callable[[str], str] = str if options.case_sensitive else str.casefold
    got = fold(output.text.strip())
    values = [measure(got, fold(wanted.strip())) for wanted in options.wanted(item.reference)]
    return max(values), f"{options.measure} {max(values):.3f} to {_short(options.wanted(item.reference))}"


@scorer("chrf", version="1", options=NgramOptions, requires=_REFERENCE, value_type="float", threshold=0.5)
def chrf(item: GoldenItem, output: Output, options: NgramOptions) -> Score:
    """chrF of the answer as a whole (Popović 2015), from 0 to 1."""
    return _ngram("chrf", output.text, options.wanted(item.reference))


@scorer("bleu", version="1", options=NgramOptions, requires=_REFERENCE, value_type="float", threshold=0.3)
def bleu(item: GoldenItem, output: Output, options: NgramOptions) -> Score:
    """BLEU of the answer as one segment, with effective order (Post 2018), from 0 to 1."""
    return _ngram("bleu", output.text, options.wanted(item.reference))


def _ngram(name: Literal["chrf", "bleu"], text: str, references: Sequence[str]) -> Score:
    metric = _metric(name)
    found = metric.sentence_score(text, list(references)).score / 100.0
    return Score(
        name=name,
        status="scored",
        value=min(1.0, found),
        explanation=f"{name} {found:.3f} to {_short(references)}",
        metadata={"signature": str(metric.get_signature())},
    )


@cache
def _metric(name: Literal["chrf", "bleu"]) -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ModuleNotFoundError:
        raise MissingExtra(name, "sacrebleu", "metrics") from None
    return CHRF() if name == "chrf" else BLEU(effective_order=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSimilarity:
    """The cosine of the answer's embedding and the closest right one's; what points apart is 0."""

    name: str = "embedding"
    version: str = "1"
    kind: Kind = "code"
    direction: Direction = "max"
    value_type: ValueType = "float"
    threshold: float = 0.8
    requires: frozenset[Need] = frozenset({"reference", "embedder"})
    options: type[Options] = EmbeddingOptions

    async def score(self, item: GoldenItem, output: Output, context: EvalContext) -> Score:
        """One call embeds the answer and the references. Raises ModelUnavailable."""
        embedder = context.services.embedder
        if embedder is None:
            return Score.skipped(context.name, "there is no embedder")
        wanted = context.options.wanted(item.reference)
        answer, *references = await embedder.embed([output.text, *wanted])
        value = max(cosine(answer, reference) for reference in references)
        return Score(
            name=context.name,
            status="scored",
            value=max(0.0, value),
            explanation=f"cosine {value:.3f} to {_short(wanted)}",
            metadata={"model": embedder.identity},
        )


register(EmbeddingSimilarity())


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    """The cosine of two vectors. Raises ValueError for vectors of other lengths, or of length zero."""
    if len(left) != len(right):
        raise ValueError(f"embeddings of {len(left)} and {len(right)} dimensions cannot be compared")
    product = math.sqrt(math.fsum(x * x for x in left) * math.fsum(x * x for x in right))
    if not product:
        raise ValueError("an embedding of zeros has no direction")
    return math.fsum(x * y for x, y in zip(left, right, strict=True)) / product


def _short(references: Sequence[str]) -> str:
    first = references[0] if len(references[0]) <= 60 else references[0][:57] + "..."
    return repr(first) + (f" (the best of {len(references)})" if len(references) > 1 else "")
