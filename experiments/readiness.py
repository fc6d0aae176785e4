"""Does a version's endpoint answer now? Asked before a promotion and in a rehearsal, never by traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import httpx

from .snapshot import Endpoint
from .tls import over_tls

#: Why an endpoint cannot be used now, in words; None if it can.
Probe = Callable[[Endpoint], str | None]

PATIENCE_S: Final = 2.0


def answers(endpoint: Endpoint) -> str | None:
    """None if a replica answers at all: a refusal (401, 404) is an answer, an error of its own is none.

    All are asked at once, and none is waited for beyond the head of its answer.
    """
    troubles = asyncio.run(_ask(endpoint.replicas))
    return None if None in troubles else "; ".join(filter(None, troubles)) or "no replica"


async def _ask(replicas: Sequence[str]) -> list[str | None]:
    async with httpx.AsyncClient(timeout=None, trust_env=False, verify=over_tls(*replicas)) as client:
        return await asyncio.gather(*(_trouble(client, replica) for replica in replicas))


async def _trouble(client: httpx.AsyncClient, replica: str) -> str | None:
    try:
        async with asyncio.timeout(PATIENCE_S), client.stream("GET", f"{replica}/v1/models") as answer:
            failed = answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
            return f"{replica}: status {answer.status_code}" if failed else None
    except (httpx.HTTPError, TimeoutError) as error:
        return f"{replica}: {type(error).__name__}"
