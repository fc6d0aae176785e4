"""How is a candidate held against production before it gets traffic? Asks both, compares, reports.

Facts first (the engines' own words), then answers through the proxy, one at a time, control and candidate in
turn. Whatever cannot be had becomes an unchecked finding; a preflight does not fail for its own instruments.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from evaluators.canonical import content_hash
from evaluators.errors import EvaluatorError
from evaluators.ledger import ControlApi, GoldenLedger
from evaluators.preflight import artefacts, behaviour, drift, traffic
from evaluators.preflight.answers import Asked, Asker
from evaluators.preflight.engine import EngineClient, EngineFacts
from evaluators.preflight.finding import Finding, Report
from evaluators.preflight.probes import PROBES, Probe
from experiments.client import path_part

_PROMPTS: Final = 100
_MOST_REPLICAS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One version: where it is served, and what is known of its files."""

    version: int
    replicas: tuple[str, ...]
    served_name: str
    engine: str
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def endpoint(self) -> dict[str, Any]:
        """Where it was asked, as the control API tells it."""
        return {"replicas": [*self.replicas], "served_name": self.served_name, "engine": self.engine}


class NotServed(EvaluatorError):
    """A version without an endpoint cannot be held against anything."""


def side(api: ControlApi, model: str, reference: str, files: Mapping[str, str] | None = None) -> Side:
    """The version that a number or alias names. Raises UnknownVersion, NotServed."""
    version = GoldenLedger(api).subject(model, reference).version
    view = api.get(f"/api/models/{path_part(model, 'model')}")
    found = next(one for one in view["versions"] if int(one["version"]) == version)
    endpoint = found.get("endpoint")
    if not endpoint:
        raise NotServed(
            f"{model} version {version} is served nowhere: `turnout serve models:/{model}/{version}`"
        )
    return Side(
        version=version,
        replicas=tuple(endpoint["replicas"]),
        served_name=endpoint["served_name"],
        engine=endpoint["engine"],
        files=artefacts.of_tags(found.get("tags") or {}) | dict(files or {}),
    )


async def preflight(
    model: str,
    control: Side,
    candidate: Side,
    api: ControlApi,
    asker: Asker,
    *,
    probes: Sequence[Probe] = PROBES,
    changed_settings: Mapping[str, list[str]] | None = None,
    prompts: int = _PROMPTS,
    on_step: Callable[[int, int], None] = lambda done, planned: None,
) -> Report:
    """All findings about `candidate`. Raises only what the control API raises."""
    recorded = await asyncio.to_thread(traffic.recorded_prompts, api, model, prompts)
    async with AsyncExitStack() as stack:
        engines = [await _clients(stack, one) for one in (control, candidate)]
        control_all, candidate_all = await asyncio.gather(*(_facts(each, probes) for each in engines))
        control_facts, candidate_facts = _speaks(control, control_all), _speaks(candidate, candidate_all)
        asked_of = (one for replica, one in engines[1].items() if candidate_all[replica] is candidate_facts)
        tokens = await traffic.counted(next(asked_of, None), recorded)
    cold, asked = await _ask_all(asker, probes, control.version, candidate.version, on_step)
    reading = [
        drift.tokenizer(control_facts, candidate_facts),
        drift.template(control_facts, candidate_facts),
    ]
    findings = [
        behaviour.answers(asked),
        drift.replicas(control_all, candidate_all),
        *reading,
        behaviour.prompt_tokens(asked),
        drift.sampling_defaults(control_facts, candidate_facts, changed_settings),
        drift.artefacts(control.files, candidate.files, changed_settings or {}),
        traffic.context(control_facts, candidate_facts, recorded, tokens),
        *_of_answers(asked, cold, same_tokenizer=reading[0].status != "fail"),
    ]
    return Report(
        model=model,
        control_version=control.version,
        candidate_version=candidate.version,
        findings=tuple(findings),
        control_fingerprint=_fingerprint(control_all, control.files),
        candidate_fingerprint=_fingerprint(candidate_all, candidate.files),
        control_endpoint=control.endpoint,
        candidate_endpoint=candidate.endpoint,
    )


def record(api: ControlApi, report: Report) -> str:
    """Keep the report in the ledger. Returns its id."""
    body = {
        "preflight_id": uuid.uuid4().hex,
        "model": report.model,
        "control_version": report.control_version,
        "candidate_version": report.candidate_version,
        "verdict": report.verdict,
        "result": report.to_json(),
    }
    return str(api.post("/api/preflights", body)["preflight_id"])


def _of_answers(
    asked: Sequence[Asked], cold: tuple[float, float] | None, *, same_tokenizer: bool
) -> list[Finding]:
    return [
        behaviour.tool_calls(asked),
        behaviour.json_schema(asked),
        behaviour.streaming(asked),
        behaviour.output_tokens(asked, same_tokenizer=same_tokenizer),
        behaviour.greedy_agreement(asked),
        behaviour.latency(asked, cold),
    ]


async def fingerprint_of(one: Side) -> str | None:
    """The fingerprint of one version alone; None if nothing can be known of it."""
    async with AsyncExitStack() as stack:
        facts = await _facts(await _clients(stack, one), PROBES)
    return _fingerprint(facts, one.files)


async def _clients(stack: AsyncExitStack, one: Side) -> dict[str, EngineClient]:
    """A client for every replica, by its address."""
    return {
        replica: await stack.enter_async_context(
            EngineClient(replica=replica, served_name=one.served_name, engine=one.engine)
        )
        for replica in one.replicas[:_MOST_REPLICAS]
    }


async def _facts(engines: Mapping[str, EngineClient], probes: Sequence[Probe]) -> dict[str, EngineFacts]:
    found = await asyncio.gather(*(engine.facts(probes) for engine in engines.values()))
    return dict(zip(engines, found, strict=True))


def _speaks(one: Side, facts: Mapping[str, EngineFacts]) -> EngineFacts:
    """The first replica of which anything is known speaks for its version. A provider has none."""
    known = (found for found in facts.values() if found.fingerprint({}) is not None)
    return next(known, next(iter(facts.values()), EngineFacts(engine=one.engine)))


def _fingerprint(facts: Mapping[str, EngineFacts], files: Mapping[str, str]) -> str | None:
    """Of replicas that read alike it is that of one of them."""
    found = sorted({print_ for one in facts.values() if (print_ := one.fingerprint(files)) is not None})
    return content_hash(found) if len(found) > 1 else next(iter(found), None)


async def _ask_all(
    asker: Asker,
    probes: Sequence[Probe],
    control: int,
    candidate: int,
    on_step: Callable[[int, int], None],
) -> tuple[tuple[float, float] | None, list[Asked]]:
    """The very first answers' times in milliseconds (None if there was none), and every probe's answers."""
    planned = len(probes) * 4 + 2
    done = 0

    async def ask(probe: Probe, version: int, stream: bool) -> Any:
        nonlocal done
        said = await asker.ask(probe, version, stream=stream)
        done += 1
        on_step(done, planned)
        return said

    if not probes:
        return None, []
    first = [await ask(probes[0], version, False) for version in (control, candidate)]
    cold = (first[0].latency_ms, first[1].latency_ms) if all(said.complete for said in first) else None
    asked = [
        Asked(
            probe=probe,
            control=await ask(probe, control, False),
            candidate=await ask(probe, candidate, False),
            control_stream=await ask(probe, control, True),
            candidate_stream=await ask(probe, candidate, True),
        )
        for probe in probes
    ]
    return cold, asked
