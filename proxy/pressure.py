"""How busy are the engines that copies would go to? Asked of their own /metrics, beside the traffic.

An engine that says nothing is not taken for a busy one: shedding copies to an engine that is down would
hide that it is down.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import httpx

log = logging.getLogger("turnout.proxy")

EVERY_SECONDS: Final = 1.0
#: A reading that is older says nothing any more.
STALE_SECONDS: Final = 5.0
_PATIENCE_SECONDS: Final = 1.0
_LARGEST: Final = 4 << 20

#: Names of the two quantities at vLLM (before and since 0.10), SGLang and TGI.
_WAITING: Final = frozenset((b"vllm:num_requests_waiting", b"sglang:num_queue_reqs", b"tgi_queue_size"))
_KV_USED: Final = frozenset(
    (b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc", b"sglang:token_usage")
)
_SAMPLE: Final = re.compile(
    rb"^("
    + b"|".join(re.escape(name) for name in sorted(_WAITING | _KV_USED))
    + rb")(?:\{[^\n]*\})? ([^ \n]+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What an engine said: requests waiting, the used part of its KV cache (ppm), when (the loop's clock)."""

    waiting: int
    kv_ppm: int
    at: float


def read_metrics(text: bytes, at: float) -> Reading | None:
    """The reading in a Prometheus exposition; None if neither quantity is there.

    Requests add up over the engine's parts, a KV cache counts where it is fullest.
    """
    waiting = kv = 0.0
    seen = False
    for name, number in _SAMPLE.findall(text):
        try:
            value = float(number)
            whole = int(value * 1e6)
        except (ValueError, OverflowError):  # NaN and Inf are numbers to Prometheus
            continue
        seen = True
        if name in _WAITING:
            waiting += value
        else:
            kv = max(kv, whole)
    return Reading(waiting=int(waiting), kv_ppm=int(kv), at=at) if seen else None


class PressureGauge:
    """The latest readings of the replicas that are watched. Reading one is a look-up."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._watched: frozenset[str] = frozenset()
        self._wanted = asyncio.Event()
        self.readings: dict[str, Reading] = {}

    def watch(self, urls: Iterable[str]) -> None:
        """From now on ask these replicas and no others."""
        self._watched = frozenset(urls)
        if self._watched:
            self._wanted.set()
        self.readings = {url: found for url, found in self.readings.items() if url in self._watched}

    def busy(self, urls: Iterable[str], *, waiting: int, kv_ppm: int) -> bool:
        """Whether one of the replicas is above a threshold (0: not watched), as far as is known now."""
        fresh = self._clock() - STALE_SECONDS
        for url in urls:
            found = self.readings.get(url)
            if found is None or found.at < fresh:
                continue
            if (waiting and found.waiting > waiting) or (kv_ppm and found.kv_ppm > kv_ppm):
                return True
        return False

    async def run(self) -> None:
        """Ask every second until cancelled. No proxy, no redirect: only the snapshot's own addresses."""
        await self._wanted.wait()  # most watch nothing, and reading the root certificates holds up requests
        patience = httpx.Timeout(_PATIENCE_SECONDS)
        async with httpx.AsyncClient(timeout=patience, trust_env=False, follow_redirects=False) as client:
            while True:
                await asyncio.gather(*(self._ask(client, url) for url in self._watched))
                await asyncio.sleep(EVERY_SECONDS)

    async def _ask(self, client: httpx.AsyncClient, url: str) -> None:
        try:
            async with (
                asyncio.timeout(_PATIENCE_SECONDS),
                client.stream("GET", f"{url}/metrics") as answer,
            ):
                if answer.status_code != httpx.codes.OK:
                    return
                text = bytearray()
                async for piece in answer.aiter_bytes():
                    text += piece
                    if len(text) > _LARGEST:
                        return
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            log.debug("%s/metrics: %r", url, error)
            return
        found = read_metrics(bytes(text), self._clock())
        if found is not None and url in self._watched:
            self.readings[url] = found
