"""How do the operator's own questions get through the proxy, and how is it seen which version answered?"""

from __future__ import annotations

import json
from typing import Final

from evaluators.errors import RunRefused, TokenRefused

#: The version that answered; without it, Turnout itself did.
VERSION_HEADER: Final = "x-turnout-model-version"
REQUEST_ID_HEADER: Final = "x-turnout-request-id"

#: Bytes, more than any answer that is of use: of what does not end, no more is read.
MAX_ANSWER: Final = 16 * 1024 * 1024

_NO_KEY: Final = 401
_WRONG_TOKEN: Final = 403
_HOPELESS: Final = frozenset((_NO_KEY, _WRONG_TOKEN, 404, 405))

#: They make an answer repeatable as far as a model can be; one that does not take them is asked without.
_REPEATABLE: Final = frozenset(("seed", "temperature"))


def not_taken(status: int, body: bytes) -> str | None:
    """Which of the fields `seed` and `temperature` this refusal of a question is about; None: neither."""
    if status not in (400, 422):
        return None
    try:
        field = json.loads(body)["error"]["param"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return field if isinstance(field, str) and field in _REPEATABLE else None


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


def root_of(base_url: str) -> str:
    """The proxy's address without a trailing /v1, which clients of OpenAI's API need and we do not."""
    return base_url.rstrip("/").removesuffix("/v1")
