"""How does each API of an engine speak? One `Dialect` per path; a further API is one more line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .answer import MISREAD, Answer, Choice, Dialect, Payload, Usage
from .chat import CHAT, COMPLETIONS
from .messages import MESSAGES
from .plain import DETOKENIZE, EMBEDDINGS, RERANK, SCORE, TOKENIZE
from .responses import RESPONSES

DIALECTS: Final[Mapping[str, Dialect]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/rerank": RERANK,
    "/v2/rerank": RERANK,
    "/rerank": RERANK,
    "/v1/score": SCORE,
    "/score": SCORE,
    "/tokenize": TOKENIZE,
    "/detokenize": DETOKENIZE,
}

__all__ = ["DIALECTS", "MISREAD", "Answer", "Choice", "Dialect", "Payload", "Usage"]
