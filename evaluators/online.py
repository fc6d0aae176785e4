"""How good are the answers that users get? A share of the recorded exchanges, scored as they come.

Asks the control API which sampled exchanges an evaluator's version has no score of, scores them, and hands
the scores in. At least once: what a crash interrupts is scored again, and the ledger keeps the first row of a
key. A changed evaluator is another version, for which everything that is still kept waits anew.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Final, cast

from evaluators.automation import OnlineRule
from evaluators.canonical import content_hash
from evaluators.errors import RunRefused
from evaluators.golden import Check, GoldenItem, Policy
from evaluators.judges.services import refuse_self
from evaluators.ledger import ControlApi, GoldenLedger, UnknownVersion
from evaluators.models import NO_SERVICES, Services
from evaluators.score import Output, Score, ToolCall
from evaluators.scoring import score_check, score_pair
from experiments.ledger.exchange import Outcome

_BATCH: Final = 50
_DAY: Final = 24.0
_LONGEST: Final = 4000
_NAMED: Final = 100
_POLICY: Final = Policy(target_errors="unscored", length="score")
#: Of the paths whose requests have messages: those at which a model answers them (/tokenize counts them).
_ANSWERED: Final = frozenset(("/v1/chat/completions", "/v1/messages"))
_INPUT: Final = frozenset(("model", "messages", "tools", "response_format", "stream", "stream_options", "n"))


@dataclass(slots=True, kw_only=True)
class OnlineScorer:
    """One rule at work."""

    rule: OnlineRule
    api: ControlApi
    services: Services = NO_SERVICES
    _known: dict[object, str | None] = field(default_factory=dict)

    async def step(self) -> int:
        """Score a batch for every check of the rule; how many scores were handed in. Raises ControlError."""
        handed = 0
        for check, version in zip(self.rule.checks, self.rule.versions, strict=True):
            handed += await self._batch(check, f"{self.rule.name}.{check.key}", self._by(check, version))
        return handed

    def _by(self, check: Check, version: str) -> str:
        """The evaluator's version with who judges now: an alias that moved since is another judge."""
        judge = self.services.judge
        return version if check.kind == "code" or judge is None else f"{version}:{judge.identity[-_NAMED:]}"

    async def _batch(self, check: Check, evaluator: str, version: str) -> int:
        room, usd = await asyncio.to_thread(self._room, evaluator)
        if room < 1 or usd <= 0:
            return 0
        asked: dict[str, str | int] = {
            "model": self.rule.model,
            "evaluator": evaluator,
            "version": version,
            "rate": f"{self.rule.rate:.12f}",
            "role": self.rule.role,
            "hours": f"{self.rule.hours:g}",
            "limit": min(room, _BATCH),
        }
        pending = await asyncio.to_thread(self.api.get, "/api/scores/pending", asked)
        gate = asyncio.Semaphore(self.rule.concurrency)

        async def one(found: Mapping[str, Any]) -> tuple[str, Score | None]:
            nonlocal usd
            async with gate:
                score = await self._score(check, found) if usd > 0 else None
                usd -= (score and score.cost_usd) or 0.0
                return str(found["exchange_id"]), score

        scored = await asyncio.gather(*(one(found) for found in pending))
        # What there is no money for, and a judge that is away, is no answer about the exchange: it waits on.
        rows = [as_row(id_, evaluator, version, score) for id_, score in scored if score and not _away(score)]
        if rows:
            await asyncio.to_thread(self.api.post, "/api/scores", {"scores": rows})
        return len(rows)

    def _room(self, evaluator: str) -> tuple[int, float]:
        """How many more scores today's limits allow, and for how many dollars."""
        spent = self.api.get("/api/scores/spent", {"evaluator": evaluator, "hours": f"{_DAY:g}"})
        usd = inf if self.rule.usd_per_day is None else self.rule.usd_per_day - float(spent["cost_usd"])
        return self.rule.per_day - int(spent["scores"]), usd

    async def _score(self, check: Check, found: Mapping[str, Any]) -> Score:
        try:
            exchange = await self._exchange(found["exchange_id"])
            # A copy is recorded without the question, which its primary has.
            primary = await self._exchange(found["pair_id"]) if self.rule.role == "shadow" else exchange
            item, output = item_of(primary, check), output_of(exchange)
        except (NotScorable, LookupError) as error:
            return Score.skipped(check.key, str(error))
        if check.kind != "code":
            for answer in (primary, exchange):
                why = await asyncio.to_thread(self._judges_itself, answer.get("served_version"))
                if why is not None:
                    return Score.skipped(check.key, why)
        if check.kind != "pairwise":
            return await score_check(check, item, output, _POLICY, services=self.services)
        pair = await score_pair(check, item, output_of(primary), output, services=self.services)
        return pair.score

    def _judges_itself(self, version: object) -> str | None:
        """Why the judge may not judge this version's answers; None: it may. Candidates come to be known by
        their answers, which may wait here longer than their experiment runs."""
        if version not in self._known:
            self._known[version] = None
            choice, ledger = self.rule.golden.judge, GoldenLedger(self.api)
            try:
                if choice is not None and version is not None:
                    judge = None if choice.model is None else ledger.subject(choice.model, choice.version)
                    refuse_self(choice, judge, [ledger.subject(self.rule.model, str(version))])
            except RunRefused as refused:
                self._known[version] = str(refused)
            except UnknownVersion:  # which the registry has no more
                pass
        return self._known[version]

    async def _exchange(self, exchange_id: object) -> Mapping[str, Any]:
        found: Mapping[str, Any] = await asyncio.to_thread(self.api.get, f"/api/exchanges/{exchange_id}")
        return found


def _away(score: Score) -> bool:
    return score.error is not None and score.error.kind == "model_unavailable"


class NotScorable(ValueError):
    """The exchange has nothing that an evaluator could look at."""


def item_of(exchange: Mapping[str, Any], check: Check) -> GoldenItem:
    """The recorded question as an item, with the one check. Raises NotScorable."""
    if exchange.get("path") not in _ANSWERED:
        raise NotScorable(f"{exchange.get('path')} is no question to a model in messages")
    try:
        body = json.loads(exchange.get("request") or "")
        return GoldenItem(
            id=str(exchange["exchange_id"]),
            hash=content_hash(body),
            messages=tuple(dict(message) for message in body["messages"]),
            checks=(check,),
            tools=tuple(dict(tool) for tool in body.get("tools") or ()),
            response_format=body.get("response_format"),
            params={name: value for name, value in body.items() if name not in _INPUT},
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise NotScorable("the request is no chat completion, or its body is not kept") from None


def output_of(exchange: Mapping[str, Any]) -> Output:
    """The recorded answer."""
    usage = {name: exchange.get(name) for name in ("prompt_tokens", "completion_tokens")}
    return Output(
        text=exchange.get("text") or "",
        tool_calls=tuple(
            ToolCall(name=str(call.get("name")), arguments=str(call.get("arguments") or ""))
            for call in exchange.get("tool_calls") or ()
        ),
        finish_reason=exchange.get("finish_reason"),
        usage={name: value for name, value in usage.items() if value is not None},
        latency_ms=float(exchange.get("duration_ms") or 0.0),
        outcome=cast(Outcome, exchange.get("outcome") or "complete"),
        http_status=int(exchange.get("status") or 0),
        request_id=exchange.get("request_id"),
    )


def as_row(exchange_id: str, evaluator: str, version: str, score: Score) -> dict[str, Any]:
    """The score as the control API takes it."""
    kept = replace(score, explanation=(score.explanation or "")[:_LONGEST] or None)
    return {
        "exchange_id": exchange_id,
        "evaluator": evaluator,
        "evaluator_version": version,
        "status": kept.status,
        "value": kept.value,
        "label": None if kept.label is None else kept.label[:200],
        "explanation": kept.explanation,
        "cost_usd": kept.cost_usd,
        "tokens": kept.tokens,
        "latency_ms": kept.latency_ms,
    }
