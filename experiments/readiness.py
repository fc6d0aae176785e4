"""Does a version's endpoint answer now? Asked before a promotion and in a rehearsal, never by traffic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httpx

from .snapshot import Endpoint

#: Why an endpoint cannot be used now, in words; None if it can.
Probe = Callable[[Endpoint], str | None]

PATIENCE_S: Final = 2.0


def answers(endpoint: Endpoint) -> str | None:
    """None if a replica answers at all: a refusal (401, 404) is an answer, an error of its own is none."""
    troubles: list[str] = []
    with httpx.Client(timeout=PATIENCE_S, trust_env=False) as client:
        for replica in endpoint.replicas:
            try:
                status = client.get(f"{replica}/v1/models").status_code
            except httpx.HTTPError as error:
                troubles.append(f"{replica}: {type(error).__name__}")
                continue
            if status < httpx.codes.INTERNAL_SERVER_ERROR:
                return None
            troubles.append(f"{replica}: status {status}")
    return "; ".join(troubles) or "no replica"
