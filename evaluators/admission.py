"""How do the operator's own questions get through the proxy, and how is it seen which version answered?"""

from __future__ import annotations

from typing import Final

#: The version that answered; without it, Turnout itself did.
VERSION_HEADER: Final = "x-turnout-model-version"
REQUEST_ID_HEADER: Final = "x-turnout-request-id"


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


def root_of(base_url: str) -> str:
    """The proxy's address without a trailing /v1, which clients of OpenAI's API need and we do not."""
    return base_url.rstrip("/").removesuffix("/v1")
