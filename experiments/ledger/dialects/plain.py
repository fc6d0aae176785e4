"""How do the APIs speak that answer with one JSON document and no prose: vectors, scores, tokens?

Shapes: OpenAI's embeddings; vLLM 0.32 `entrypoints/pooling/scoring` and `entrypoints/serve/tokenize`
(rerank is Jina's and Cohere's).
"""

from __future__ import annotations

from typing import Final

from .answer import Answer, Dialect, Payload, field_asked, last_asked, shown, text


def _entries(answer: Answer, payload: Payload) -> None:
    """Embeddings and scores: a list under `data`."""
    answer.usage = payload.get("usage")
    answer.items = len(payload["data"])


def _ranked(answer: Answer, payload: Payload) -> None:
    answer.usage = payload.get("usage")
    answer.items = len(payload["results"])


def _tokens(answer: Answer, payload: Payload) -> None:
    """An empty text has no tokens, and that is a whole answer. Nothing was generated: no usage."""
    answer.items = 1 + len(payload["tokens"])


def _detokenized(answer: Answer, payload: Payload) -> None:
    answer.choice().text.append(text(payload["prompt"]))
    answer.items = 1


def _query(request: Payload) -> str | None:
    return shown(request["query"]) or "[a query that is no text]"


def _pair(request: Payload) -> str | None:
    """What is scored: the left side, which vLLM calls `queries` and, before, `text_1`."""
    return shown(request["queries"] if "queries" in request else request["text_1"])


def _tokenized(request: Payload) -> str | None:
    return last_asked(request["messages"]) if "messages" in request else shown(request["prompt"])


EMBEDDINGS: Final = Dialect(whole=_entries, asked=field_asked("input"))
RERANK: Final = Dialect(whole=_ranked, asked=_query)
SCORE: Final = Dialect(whole=_entries, asked=_pair)
TOKENIZE: Final = Dialect(whole=_tokens, asked=_tokenized)
DETOKENIZE: Final = Dialect(whole=_detokenized, asked=field_asked("tokens"))
