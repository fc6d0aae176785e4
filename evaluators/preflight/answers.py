"""What does each version say to the probes, whole and streamed, and how fast?

Through the proxy, to a named version, as golden runs do: the path that users take, marked as golden traffic.
Both ways of answering are read by the ledger's own decoder, so that a difference is the engine's.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import httpx

from evaluators.admission import (
    MAX_ANSWER,
    OVERLOADED,
    VERSION_HEADER,
    Taken,
    golden_headers,
    heed_missing_key,
    heed_refusal,
    outcome_of,
    refuses_key,
    root_of,
)
from evaluators.pacing import PATIENT, Retry
from evaluators.preflight.probes import Probe
from evaluators.score import ToolCall
from experiments.ledger.exchange import Outcome
from experiments.ledger.transcript import Transcript, decode
from experiments.tls import over_tls

PATH: Final = "/v1/chat/completions"
_SHOWN: Final = 200
#: A version that was waited for in vain for so many timeouts on end is asked no more.
_PATIENCE: Final = 3
#: What nobody has a reason to refuse.
_PLAIN: Final = Probe(name="plain", messages=({"role": "user", "content": "Say yes."},))


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One answer. `outcome` None: no answer of this version was had, `error` says why. Milliseconds."""

    outcome: Outcome | None
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_ms: float | None = None
    latency_ms: float = 0.0
    error: str | None = None

    @property
    def complete(self) -> bool:
        """There is an answer to look at, if need be one that ran into max_tokens."""
        return self.outcome in ("complete", "length", "empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A probe put to both versions: whole and streamed."""

    probe: Probe
    control: Said
    control_stream: Said
    candidate: Said
    candidate_stream: Said


class Asker:
    """Puts probes to the versions of one model behind the proxy. Use as an async context manager."""

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        token: str,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        retry: Retry = PATIENT,
    ) -> None:
        self._model = model
        self._timeout_s = timeout_s
        self._retry, self._jitter = retry, Random()
        self._taken: defaultdict[int, Taken] = defaultdict(Taken)  # by version
        self._in_vain: dict[int, tuple[float, Said]] = {}  # seconds since a version's last answer; what came
        self._answers: set[int] = set()  # versions that have answered something
        root = root_of(base_url)
        self._client = httpx.AsyncClient(
            base_url=root,
            headers=golden_headers(token, api_key=api_key),
            timeout=None,  # an answer is timed as a whole
            trust_env=False,
            verify=over_tls(root),
        )

    async def __aenter__(self) -> Asker:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def ask(self, probe: Probe, version: int, *, stream: bool) -> Said:
        """The version's answer, however it ended; of one that keeps silent, after a while, what it said last.
        Raises RunRefused where Turnout itself refuses to ask, or has no good key to ask with."""
        waited, last = self._in_vain.get(version, (0.0, None))
        if last is not None and waited >= _PATIENCE * self._timeout_s:
            return last
        began = time.monotonic()
        said = await self._put(probe, version, stream=stream)
        if said.complete:
            self._answers.add(version)
            self._in_vain.pop(version, None)
        else:
            self._in_vain[version] = waited + time.monotonic() - began, said
        return said

    async def _takes_its_key(self, version: int) -> bool:
        """Whether it is the question that a version refuses as if its key were bad: a plain one is answered.
        Raises RunRefused where that is refused too."""
        if version not in self._answers and (await self._put(_PLAIN, version, stream=False)).complete:
            self._answers.add(version)
        return version in self._answers

    async def _put(self, probe: Probe, version: int, *, stream: bool, attempt: int = 1) -> Said:
        known = self._taken[version]
        body = known.asked(probe.body(self._model) | ({"stream": True} if stream else {}))
        content = json.dumps(body, ensure_ascii=False).encode()
        started = time.monotonic()
        taken = bytearray()
        times: list[int] = []
        ends: list[int] = []
        by: str | None = None
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(
                    "POST", PATH, content=content, headers={"x-turnout-version": str(version)}
                ) as response,
            ):
                by = response.headers.get(VERSION_HEADER)
                async for piece in response.aiter_raw():
                    taken += piece
                    times.append(int((time.monotonic() - started) * 1e6))
                    ends.append(len(taken))
                    if len(taken) > MAX_ANSWER:
                        return Said(outcome="truncated", error=f"more than {MAX_ANSWER} bytes")
        except TimeoutError:
            error = f"no whole answer within {self._timeout_s:g} s"
            return Said(outcome="timeout" if by == str(version) else None, error=error)
        except httpx.HTTPError as failure:
            return Said(outcome=None, error=f"{type(failure).__name__} after {len(taken)} bytes")
        took = (time.monotonic() - started) * 1000
        if response.status_code in OVERLOADED and attempt < self._retry.attempts:
            wait = self._retry.wait_s(attempt + 1, response.headers.get("retry-after"), self._jitter)
            await asyncio.sleep(wait)
            return await self._put(probe, version, stream=stream, attempt=attempt + 1)
        if by is None:
            heed_refusal(f"{self._model} version {version}", response.status_code, _message(bytes(taken)))
        if by != str(version):
            return Said(outcome=None, error=_refusal(by, version, response.status_code, bytes(taken)))
        if known.refused(body, response.status_code, bytes(taken)):
            return await self._put(probe, version, stream=stream, attempt=attempt)
        if response.status_code != httpx.codes.OK:
            asked = f"{self._model} version {version}"
            plain = probe is _PLAIN or not refuses_key(response.status_code, bytes(taken))
            doubted = plain or not await self._takes_its_key(version)
            heed_missing_key(asked, response.status_code, bytes(taken), or_refused=doubted)
            return Said(
                outcome=outcome_of(response.status_code),
                latency_ms=took,
                error=f"{response.status_code}: {_message(bytes(taken))}",
            )
        kind = response.headers.get("content-type", "")
        transcript = decode(PATH, kind, response.status_code, bytes(taken), times, ends, content)
        return _said(transcript, took)


def _said(transcript: Transcript, took: float) -> Said:
    return Said(
        outcome=transcript.outcome,
        text=transcript.text or "",
        tool_calls=tuple(ToolCall(name=one.name, arguments=one.arguments) for one in transcript.tool_calls),
        finish_reason=transcript.finish_reason,
        prompt_tokens=transcript.prompt_tokens,
        completion_tokens=transcript.completion_tokens,
        ttft_ms=None if transcript.ttft_us is None else transcript.ttft_us / 1000,
        latency_ms=took,
        error=transcript.error_code,
    )


def _refusal(by: str | None, version: int, status: int, body: bytes) -> str:
    if by is None:
        return f"the proxy answers {status}: {_message(body)}"
    return f"version {by} answered in place of version {version}"


def _message(body: bytes) -> str:
    try:
        error: Mapping[str, Any] = json.loads(body)["error"]
        return str(error["message"])[:_SHOWN]
    except (ValueError, KeyError, TypeError, RecursionError):
        return body[:_SHOWN].decode("utf-8", "replace")
