"""How do the operator's own questions get through the proxy, and how is it seen which version answered?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from evaluators.errors import RunRefused, TokenRefused
from experiments.ledger.exchange import UNKEYED, Outcome

#: The version that answered; without it, Turnout itself did.
VERSION_HEADER: Final = "x-turnout-model-version"
REQUEST_ID_HEADER: Final = "x-turnout-request-id"

#: Bytes, more than any answer that is of use: of what does not end, no more is read.
MAX_ANSWER: Final = 16 * 1024 * 1024

#: Too much to do just now: a question is put again, later.
OVERLOADED: Final = frozenset((429, 503))

_NO_KEY: Final = 401
_WRONG_TOKEN: Final = 403
_UNREACHED: Final = 502
_HOPELESS: Final = frozenset((_NO_KEY, _WRONG_TOKEN, 404, 405))

#: One of the codes for want of a key that is good, and what mends them.
_MISSING: Final = "provider_credential_missing"
_SET_IT: Final = (
    "put a good key into the variable that it was registered with (--credential), in the environment of the"
    " proxy, and restart the proxy"
)

#: What a model may not take, and what it is then asked with instead (None: without). The first two make an
#: answer repeatable as far as a model can be.
_DISPENSABLE: Final[Mapping[str, str | None]] = {
    "seed": None,
    "temperature": None,
    "max_tokens": "max_completion_tokens",
}


class Taken:
    """Which fields of our own questions one model was found not to take, by asking."""

    def __init__(self) -> None:
        self._not_taken: set[str] = set()

    def asked(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The question without what the model does not take, or with what it takes instead."""
        names = {name: _DISPENSABLE[name] if name in self._not_taken else name for name in body}
        return {name: body[given] for given, name in names.items() if name is not None}

    def refused(self, asked: Mapping[str, Any], status: int, answer: bytes) -> bool:
        """Whether this is the refusal of such a field, which was in the question: ask again."""
        if status not in (400, 422):
            return False
        return self.learned(asked, _error(answer).get("param"))

    def learned(self, asked: Mapping[str, Any], field: object) -> bool:
        """Whether the field that a refusal names is one of these, and was in the question."""
        if not isinstance(field, str) or field not in _DISPENSABLE or field not in asked:
            return False
        self._not_taken.add(field)
        return True


def golden_headers(token: str, *, version: int | None = None, api_key: str | None = None) -> dict[str, str]:
    """What opens the proxy to the operator's own questions, in JSON: they go to the named version (if any),
    and are golden traffic, which takes part in no experiment."""
    headers = {
        "x-turnout-admin": token,
        "x-turnout-origin": "golden",
        "content-type": "application/json",
    }
    if version is not None:
        headers["x-turnout-version"] = str(version)
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    return headers


def heed_refusal(asked: str, status: int, message: str) -> None:
    """Raises RunRefused, TokenRefused where Turnout's own answer is one that every further question would
    meet too."""
    if status not in _HOPELESS:
        return
    mend = "; set TURNOUT_API_KEY to a key that is in force" if status == _NO_KEY else ""
    refused = TokenRefused if status == _WRONG_TOKEN else RunRefused
    said = message.removesuffix(".")
    raise refused(f"the proxy refuses the questions to {asked} with {status}: {said}{mend}")


def heed_missing_key(asked: str, status: int, answer: bytes, *, or_refused: bool) -> None:
    """Raises RunRefused where the version could not be asked for want of a key, `or_refused` also where that
    is not taken: of questions that are not ours some say so that they do not like what is asked.
    """
    if not refuses_key(status, answer):
        return
    error = _error(answer)
    if error["code"] == _MISSING or or_refused:
        said = str(error.get("message", "")).removesuffix(".")
        raise RunRefused(f"{asked} cannot be asked: {said}; {_SET_IT}")


def refuses_key(status: int, answer: bytes) -> bool:
    """Whether the proxy says that the key is missing or is not taken. An engine's own 502 may have anything
    for its code."""
    return status == _UNREACHED and str(_error(answer).get("code")) in UNKEYED


def _error(answer: bytes) -> dict[str, Any]:
    """What a refusal's body says of it; empty of what is none."""
    try:
        found = json.loads(answer)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def outcome_of(status: int) -> Outcome:
    """How an answer of a version ended that is none, by its status."""
    if status in OVERLOADED:
        return "overloaded"
    if status in (408, 504):
        return "timeout"
    return "upstream_rejected" if 400 <= status < 500 else "upstream_error"


def root_of(base_url: str) -> str:
    """The proxy's address without a trailing /v1, which clients of OpenAI's API need and we do not."""
    return base_url.rstrip("/").removesuffix("/v1")
