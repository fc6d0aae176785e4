"""What a whole controller could answer: busy, or just started. Plain JSON values, seeded."""

# ruff: noqa: E501 (sentences as a controller writes them)

import math
import random
import time
from datetime import UTC, datetime
from typing import Any

from .trials import Json, ago, experiments


def models() -> list[Json]:
    def one(version: int, aliases: list[str], replicas: int = 1, engine: str = "vllm") -> Json:
        urls = [f"http://127.0.0.1:{9000 + version * 10 + index}" for index in range(replicas)]
        return {
            "version": version,
            "aliases": aliases,
            "problem": None,
            "source": None,
            "tags": {},
            "created_at": ago(86_400 * (9 - version)),
            "endpoint": {"replicas": urls, "served_name": f"m{version}", "engine": engine, "credential": None}
            if replicas
            else None,
        }

    return [
        {
            "name": "chat",
            "production": 1,
            "former": None,
            "versions": [one(1, ["production"], 2), one(2, ["candidate-tone"]), one(3, ["candidate"], 2)],
        },
        {"name": "support", "production": 1, "former": 2, "versions": [one(1, ["production"]), one(2, [])]},
        {
            "name": "summarise",
            "production": 4,
            "former": 3,
            "versions": [one(3, []), one(4, ["production"]), one(5, ["candidate"], engine="sglang")],
        },
        {"name": "embed", "production": None, "former": None, "versions": [one(8, [], 0)]},
    ]


def health() -> Json:
    return {
        "as_of": datetime.fromtimestamp(time.time_ns() / 1e9, tz=UTC).isoformat(),
        "collector": {
            "last_segment_at": ago(1),
            "lag_s": 0.8,
            "segments_waiting": 1,
            "rows": 18_204,
            "torn_bytes": 0,
            "quarantined": 0,
        },
        "workers": [
            {"worker": "proxy-1", "snapshot": 17, "last_seen_s": 1.2},
            {"worker": "proxy-2", "snapshot": 17, "last_seen_s": 0.4},
        ],
        "snapshot": 17,
        "snapshot_saved": True,
        "losses": 0,
        "pending": [],
        "not_routed": [],
        "config_error": None,
        "troubles": [],
        "registry": {"ok": True, "error": None, "last_ok_s": 2.0},
        "ledger": {"path": "turnout-data/ledger.duckdb", "bytes": 48_300_032, "exchanges": 18_204},
        "traces": None,
    }


def event(
    seconds: float, action: str, actor: str, reason: str | None, text: str, state: str = "done"
) -> Json:
    at = ago(seconds)
    return {"at": at, "action": action, "actor": actor, "reason": reason, "text": text, "state": state}


def timeline() -> Json:
    random_ = random.Random(7)
    traffic, effects = [], []
    for step in range(90):
        at = ago((90 - step) * 60)
        share = 0.05 if step < 25 else 0.25 if step < 50 else 0.5
        total = 60 + 18 * math.sin(step / 9) + random_.gauss(0, 4)
        for arm, part, ttft in (("control", 1 - share, 212.0), ("candidate", share, 168.0)):
            requests = max(0, round(total * part))
            traffic.append(
                {
                    "at": at,
                    "arm": arm,
                    "phase": 1 + (step >= 25) + (step >= 50),
                    "mirrored": False,
                    "requests": requests,
                    "failures": min(requests, int(random_.random() < 0.4)),
                    "p50_ttft_ms": ttft + random_.gauss(0, 9),
                    "p50_duration_ms": 1200 + random_.gauss(0, 40),
                }
            )
        if step % 5 == 4:
            width = 0.5 / math.sqrt(step + 1)
            centre = 0.894 + random_.gauss(0, 0.004)
            effects.append(
                {
                    "at": at,
                    "stage": "canary",
                    "metric": "latency",
                    "scale": "ratio",
                    "estimate": centre,
                    "lower": centre - width,
                    "upper": centre + width,
                    "margin": 1.1,
                }
            )
            effects.append(
                {
                    "at": at,
                    "stage": "canary",
                    "metric": "error_rate",
                    "scale": "difference",
                    "estimate": 0.001,
                    "lower": 0.001 - width / 6,
                    "upper": 0.001 + width / 6,
                    "margin": 0.01,
                }
            )
            effects.append(
                {
                    "at": at,
                    "stage": "canary",
                    "metric": "truncation_rate",
                    "scale": "difference",
                    "estimate": None,
                    "lower": None,
                    "upper": None,
                    "margin": None,
                }
            )
    events = [
        event(90 * 60, "start", "ada", None, "started with 5 % to v3"),
        event(65 * 60, "ramp", "controller", "1,000 units, guardrails hold", "candidate 5 % → 25 %"),
        event(40 * 60, "ramp", "controller", "4,000 units, guardrails hold", "candidate 25 % → 50 %"),
        event(60, "conclude", "controller", None, "verdict: ship"),
    ]
    return {"traffic": traffic, "effects": effects, "events": events}


def output(
    version: int, text: str | None, tokens: int, ttft: float, outcome: str = "complete", tools: Any = None
) -> Json:
    return {
        "version": version,
        "text": text,
        "tool_calls": tools,
        "outcome": outcome,
        "ttft_ms": ttft,
        "duration_ms": ttft * 6,
        "finish_reason": {"complete": "stop", "length": "length"}.get(outcome),
        "completion_tokens": tokens,
    }


def pairs() -> list[Json]:
    def pair(number: int, prompt: str, control: Json, candidate: Json | None) -> Json:
        return {
            "pair_id": f"0193-{number:04d}",
            "at": ago(number * 40),
            "prompt": prompt,
            "control": control,
            "candidate": candidate,
        }

    weather = [
        {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich", "days": 3}'}}
    ]
    weather_2 = [{"type": "function", "function": {"name": "weather", "arguments": '{"city": "Zurich"}'}}]
    written = [
        pair(
            1,
            "user: How do I reset my password?",
            output(
                1,
                "Open Settings, choose Security and press “Reset password”. You will get a link by mail that is valid for one hour.",
                27,
                214,
            ),
            output(
                3,
                "Open Settings and choose Security. Press “Reset password”; the link in the mail is valid for 60 minutes.",
                24,
                171,
            ),
        ),
        pair(
            2,
            "user: What will the weather be in Zürich for the next three days?",
            output(1, None, 18, 240, tools=weather),
            output(3, None, 15, 180, tools=weather_2),
        ),
        pair(
            3,
            "user: Summarise our refund policy in one sentence.",
            output(1, "Refunds are possible within 30 days with the receipt.", 11, 190),
            output(3, "Refunds are possible within 30 days with the receipt.", 11, 160),
        ),
        pair(
            4,
            "user: List the three laws of thermodynamics.",
            output(
                1,
                "1. Energy is conserved.\n2. Entropy of an isolated system never decreases.\n3. Entropy tends to a constant at absolute zero.",
                31,
                260,
            ),
            output(3, "1. Energy is conserved.\n2. Entropy of an isol", 14, 175, "truncated"),
        ),
        pair(
            5, "user: Translate 'good morning' into Japanese.", output(1, "おはようございます", 7, 150), None
        ),
    ]
    return written + [
        pair(
            number,
            f"user: Question number {number}?",
            output(1, f"Answer number {number}, at length.", 8, 200 + number),
            output(3, f"Answer {number}.", 4, 160 + number),
        )
        for number in range(6, 28)
    ]


def decisions() -> list[Json]:
    def one(
        seconds: float,
        actor: str,
        action: str,
        name: str | None,
        model: str,
        before: int | None,
        after: int | None,
        kind: str | None,
        reason_: str,
        changed: list[str],
        forced: bool = False,
    ) -> Json:
        return {
            "decision_id": f"d-{round(seconds)}",
            "at": ago(seconds),
            "actor": actor,
            "action": action,
            "model": model,
            "experiment": name,
            "from_version": before,
            "to_version": after,
            "verdict_kind": kind,
            "verdict_hash": "9f2c4e71ab03d558" if kind else None,
            "forced": forced,
            "reason": reason_,
            "state": "done",
            "changed": changed,
        }

    return [
        one(
            2_880,
            "controller",
            "rollback",
            "support-canary",
            "support",
            2,
            1,
            "roll_back",
            "error_rate crossed its margin",
            ["support-canary: candidate 25 % → 0 %", "snapshot 16 → 17"],
        ),
        one(
            4_100,
            "controller",
            "ramp",
            "support-canary",
            "support",
            None,
            None,
            "keep_running",
            "phase 2 reached",
            ["candidate 5 % → 25 %"],
        ),
        one(
            93_600,
            "anna",
            "start",
            "faster-chat",
            "chat",
            None,
            None,
            None,
            "started by spec",
            ["chat: 50 % to v3"],
        ),
        one(
            400_000,
            "ben",
            "promote",
            None,
            "summarise",
            3,
            4,
            "inconclusive",
            "urgent fix of the tokenizer, agreed with anna",
            ["alias production v3 → v4"],
            True,
        ),
    ]


def golden_results(run_version: int) -> list[Json]:
    rows = []
    for number in range(24):
        bad = number in {3, 11} or (run_version == 2 and number % 4 == 1)
        status = "error" if number == 20 else "scored"
        rows.append(
            {
                "item_id": f"support/{number:03d}",
                "item_hash": "h",
                "repeat": 0,
                "evaluator": "contains",
                "evaluator_version": "1",
                "status": status,
                "value": None if status == "error" else float(not bad),
                "label": None,
                "explanation": "the phrase “within 30 days” is missing" if bad else "all phrases found",
                "output": {
                    "text": "Refunds are possible." if bad else "Refunds are possible within 30 days."
                },
                "outcome": "complete",
                "request_id": None,
                "detail": None,
            }
        )
    return rows


def golden_runs() -> list[Json]:
    def one(version: int) -> Json:
        passed = 16 if version == 2 else 21
        return {
            "run_id": f"run-{version}",
            "set_name": "support",
            "set_hash": "a71c",
            "model": "chat",
            "version": version,
            "status": "finished",
            "started_at": ago(9_000 - version * 1000),
            "ended_at": ago(8_970 - version * 1000),
            "mlflow_run_id": "x",
            "parameters": {},
            "results": 24,
            "summary": {
                "items": 24,
                "planned": 24,
                "scored": 23,
                "missing": 1,
                "passed": passed,
                "gate": "pass",
            },
        }

    return [one(version) for version in (1, 2, 3)]


def judged(candidate: int) -> Json:
    """A judge that prefers the candidate, and what people's labels make of it."""
    if candidate != 3:
        return {}
    judge = {
        "evaluator": "helpful", "evaluator_version": "judge@1", "judge": "examiner@4", "asked": 48,
        "unparseable": 2, "errors": 1, "cached": 24, "cost_usd": 0.0312, "tokens": 18_400,
        "latency_p50_ms": 412.0, "latency_p95_ms": 1890.0, "flips": None, "position_bias_p": None,
    }  # fmt: skip
    kappa = {
        "raters": ["examiner@4", "people"],
        "n": 44,
        "raw": 0.82,
        "kappa": 0.58,
        "lower": 0.34,
        "upper": 0.82,
    }
    among = {"raters": ["ann", "bob"], "n": 20, "raw": 0.9, "kappa": 0.77, "lower": 0.5, "upper": 1.0}
    labels = {
        "evaluator": "helpful", "drawn": 22, "labelled": 22, "open": 22, "needed": 22, "undecided": 1,
        "labellers": ["ann", "bob"], "agreement": kappa, "among": [among],
        "effect": {"estimate": 0.01, "lower": -0.04, "upper": 0.06, "level": 0.95},
    }  # fmt: skip
    metric = {
        "evaluator": "helpful",
        "effect": {"estimate": 0.11, "lower": 0.03, "upper": 0.19, "level": 0.95},
    }
    waiting = {
        "evaluator": "better",
        "drawn": 30,
        "labelled": 12,
        "open": 41,
        "needed": 30,
        "agreement": None,
    }
    preferred = {
        "evaluator": "better", "n": 24,
        "effect": {"estimate": 0.25, "lower": -0.10, "upper": 0.60, "level": 0.95},
    }  # fmt: skip
    return {
        "judges": [judge],
        "labels": [labels, waiting],
        "metrics": [metric, preferred],
        "preferences": preferences(),
    }


def preferences() -> Json:
    """A judge of pairs that leans towards the first place."""
    check = {
        "evaluator": "better", "judge": "examiner@4", "asked": 20, "flips": 9, "missing": 1, "cost_usd": 0.02,
        "wins": 10, "ties": 10, "losses": 4, "position_bias_p": 0.004,
    }  # fmt: skip
    pair = {
        "item_id": "support/007", "repeat": 0, "evaluator": "better", "status": "scored",
        "preferred": "control", "flipped": False, "explanation": "both orders: control. It names the term.",
    }  # fmt: skip
    return {"checks": [check], "pairs": [pair, pair | {"item_id": "support/008", "preferred": "candidate"}]}


def worksheet() -> Json:
    """Three pairs of answers to be graded."""
    tasks = [
        {
            "place": place,
            "label": {
                "task": f"sha256:{place}", "set_name": "support", "item_id": f"support/{place:03d}",
                "item_hash": "h", "evaluator": "better", "evaluator_version": "pairwise@1",
                "judge": "examiner@4", "criterion": "sha256:c",
            },
            "question": "user: How do I get a refund?",
            "reference": "within 30 days",
            "answers": [f"Within 30 days, case {place}.", f"I do not know, case {place}."],
            "criterion": "Which answer gets the customer further?",
            "grades": ["second", "tie", "first"],
        }
        for place in range(3)
    ]  # fmt: skip
    return {
        "control_run": "run-1", "candidate_run": "run-3", "evaluator": "better", "set_name": "support",
        "model": "chat", "control_version": 1, "candidate_version": 3, "seed": "s", "needed": 3, "open": 3,
        "items": 3, "tasks": tasks, "at": ago(100),
    }  # fmt: skip


def golden_comparisons() -> list[Json]:
    def one(candidate: int, found: str, sentence: str, broken: list[int]) -> Json:
        changes = [
            {
                "item_id": f"support/{number:03d}",
                "tags": [],
                "evaluator": "contains",
                "expected": "within 30 days",
                "got": "Refunds are possible.",
                "other": "Refunds are possible within 30 days.",
                "explanation": "the phrase is missing",
            }
            for number in broken
        ]
        counts = {"planned": 24, "compared": 23, "missing": 1}
        return {
            "comparison_id": f"c-{candidate}",
            "set_hash": "a71c",
            "model": "chat",
            "control_run": "run-1",
            "candidate_run": f"run-{candidate}",
            "control_version": 1,
            "candidate_version": candidate,
            "verdict": found,
            "at": ago(5000 - candidate * 1000),
            "set_name": "support",
            "result": {"sentence": sentence, "newly_failing": changes, "items": counts, **judged(candidate)},
        }

    return [
        one(
            2,
            "fail",
            "Fail: v2 fails 6 items that v1 passes and mends none: 26.1 points lower (95 % interval −45.1 to −7.0).",
            [1, 5, 9, 13, 17, 21],
        ),
        one(
            3,
            "pass",
            "Pass: v3 passes as many items as v1: difference 0.0 points (95 % interval −7.9 to 7.9).",
            [],
        ),
    ]


def preflights() -> list[Json]:
    """A candidate with another template, and one that is as production is."""

    def finding(check: str, status: str, sentence: str, *items: str) -> Json:
        return {"check": check, "status": status, "sentence": sentence, "items": list(items), "numbers": {}}

    template = "Another chat template: 9 of 11 questions become another prompt (at character 0: '<|turn|>user' became '<|turn|>system')."
    drifted = [
        finding("answers", "ok", "All 11 probes are answered as before."),
        finding("tokenizer", "ok", "The same tokens for 6 texts."),
        finding("template", "fail", template, "plain", "turns", "languages"),
        finding("sampling_defaults", "unchecked", "Not checked: the candidate's engine (tgi): POST /v1/chat/completions/render answers 404."),
        finding("context", "warn", "The context has 4096 tokens, it had 8192; 0 of 100 recorded prompts would not fit (the longest needs 2210)."),
        finding("tool_calls", "ok", "6 answers, whole and streamed, have valid tool calls."),
        finding("greedy_agreement", "note", "7 of 11 probes are answered to the letter as before."),
    ]  # fmt: skip
    same = [finding("answers", "ok", "All 11 probes are answered as before.")]
    return [
        {
            "preflight_id": str(version) * 32,
            "model": "chat",
            "control_version": 1,
            "candidate_version": version,
            "verdict": verdict,
            "at": ago(3600 * hours),
            "outdated": outdated,
            "result": {
                "verdict": verdict,
                "sentence": sentence,
                "control_fingerprint": "sha256:" + "a" * 64,
                "candidate_fingerprint": "sha256:" + print_ * 64,
                "findings": findings,
            },
        }
        for version, verdict, hours, sentence, print_, findings, outdated in (
            (3, "fail", 1, "Fail: template. Not checked: sampling defaults.", "b", drifted, []),
            (2, "pass", 30, "Pass.", "a", same, ["a later preflight found another engine behind version 2"]),
        )
    ]


def rich() -> Json:
    """Everything, as a busy controller answers it."""
    return {
        "experiments": experiments(),
        "models": models(),
        "health": health(),
        "timeline": timeline(),
        "pairs": pairs(),
        "decisions": decisions(),
        "runs": golden_runs(),
        "results": {f"run-{v}": golden_results(v) for v in (1, 2, 3)},
        "comparisons": golden_comparisons(),
        "draws": [{"draw_id": "d-1", "evaluator": "better", "size": 30, "seed": "s"}],
        "worksheet": worksheet(),
        "labels": [
            {"draw_id": draw, "item_id": item, "grade": "first"}
            for draw, item in (
                ("d-1", "support/001"),
                ("d-1", "support/001"),
                ("d-1", "support/002"),
                ("another", "support/003"),
            )
        ],
        "preflights": preflights(),
    }


def empty() -> Json:
    """A controller that was started a second ago."""
    bare = health() | {
        "collector": None,
        "workers": [],
        "snapshot": 0,
        "ledger": None,
        "registry": None,
        "losses": None,
    }
    return {
        "experiments": [],
        "models": [],
        "health": bare,
        "timeline": {"traffic": [], "effects": [], "events": []},
        "pairs": [],
        "decisions": [],
        "runs": [],
        "results": {},
        "comparisons": [],
        "draws": [],
        "worksheet": None,
        "labels": [],
        "preflights": [],
    }
