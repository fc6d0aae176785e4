"""Experiments as a controller describes them, one of each kind that a person meets. Plain JSON values."""

# ruff: noqa: E501 (sentences as a controller writes them)

import time
from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]
NOW = datetime.fromtimestamp(time.time_ns() / 1e9, tz=UTC)


def ago(seconds: float) -> str:
    """ISO time `seconds` before the tests began."""
    return (NOW - timedelta(seconds=seconds)).isoformat()


def effect(scale: str, estimate: float, lower: float | None, upper: float | None, method: str) -> Json:
    null = 1 if scale == "ratio" else 0
    return {
        "scale": scale,
        "estimate": estimate,
        "lower": lower,
        "upper": upper,
        "level": 0.95,
        "method": method,
        "method_version": "1",
        "null": null,
        "log_p": None,
    }


def band_of(found: Json | None) -> Json | None:
    """As the controller gives it: the scale is the effect's and is not said again."""
    names = ("estimate", "lower", "upper", "level", "method")
    return None if found is None else {name: found[name] for name in names}


def metric(
    name: str,
    role: str,
    kind: str,
    arms: list[Json],
    fixed: Json | None,
    band: Json | None,
    margin: float | None,
    state: str,
    *,
    direction: str = "decrease",
    unit: str = "",
    text: str = "",
) -> Json:
    return {
        "metric": name,
        "title": name,
        "role": role,
        "kind": kind,
        "direction": direction,
        "display_unit": unit,
        "unit": "user",
        "arms": arms,
        "effect": fixed,
        "band": band_of(band),
        "margin": margin,
        "tolerated_ratio": None,
        "e_value": 3.1,
        "log_e": 1.13,
        "e_method": "truncated-beta",
        "threshold": 20.0,
        "state": state,
        "text": text,
        "instrument": None,
        "adjusted_p": None,
        "information": None,
        "z": None,
        "z_bound": None,
    }


def arms(
    control: tuple[int, int, int, float | None],
    candidate: tuple[int, int, int, float | None],
    versions: tuple[int, int],
) -> list[Json]:
    return [
        {"arm": name, "version": version, "units": units, "n": n, "missing": missing, "value": value}
        for name, version, (units, n, missing, value) in (
            ("control", versions[0], control),
            ("candidate", versions[1], candidate),
        )
    ]


def latency(role: str, versions: tuple[int, int]) -> Json:
    return metric(
        "latency",
        role,
        "log_mean",
        arms((1188, 3564, 11, 1240.4), (1204, 3620, 9, 1108.9), versions),
        effect("ratio", 0.894, 0.871, 0.918, "delta-method log-ratio, cluster"),
        effect("ratio", 0.894, 0.859, 0.931, "asymptotic confidence sequence"),
        1.10 if role == "guardrail" else None,
        "better",
        unit="ms",
    ) | {"z": 8.41, "z_bound": 2.03}


def errors(versions: tuple[int, int]) -> Json:
    return metric(
        "error_rate",
        "guardrail",
        "binary",
        arms((1188, 3575, 0, 0.0112), (1204, 3629, 0, 0.0124), versions),
        effect("difference", 0.0012, -0.0036, 0.0060, "cluster-robust difference"),
        effect("difference", 0.0012, -0.0058, 0.0082, "asymptotic confidence sequence"),
        0.0100,
        "ok",
        unit="%",
    )


def verdict(
    kind: str,
    label: str,
    sentence: str,
    reasons: list[Json],
    metrics: list[Json],
    units: int,
    horizon: int,
    srm: Json | None = None,
    turns: list[Json] | None = None,
) -> Json:
    return {
        "experiment": "",
        "kind": kind,
        "label": label,
        "sentence": sentence,
        "reasons": reasons,
        "metrics": metrics,
        "srm": srm
        or {
            "e_value": 0.8,
            "threshold": 1000,
            "observed": {"control": units // 2, "candidate": units - units // 2},
            "expected": {"control": 0.5, "candidate": 0.5},
            "state": "ok",
        },
        "look": {
            "planned": 5,
            "done": 3,
            "scheduled": False,
            "final": False,
            "units": units,
            "effective": float(units),
            "information": 0.48,
            "z_bound": 2.8,
        },
        "units": units,
        "horizon": horizon,
        "days_left": None,
        "as_of": ago(3),
        "as_of_ns": round((NOW - timedelta(seconds=3)).timestamp() * 1e9),
        "cut": {"exchanges": units * 3, "feedback": 0},
        "recorded": units * 3,
        "lost": 0,
        "golden": None,
        "exhausted": False,
        "digest": "9f2c4e71ab03d5587712",
        "accounting": None,
        "turns": turns or [],
    }


def reason(code: str, severity: str, text: str) -> Json:
    return {"code": code, "severity": severity, "text": text}


def accounting(
    lost: int, by_arm: dict[str, tuple[int, int, int]], *, shed: int = 0, missing: int = 0
) -> Json:
    """`by_arm`: rows, failed and fallen back; `shed` and `missing` are the candidate's."""
    outside = {"no_unit": 37, "excluded": 0, "holdout": 12, "exclusive": 0} if by_arm and not shed else {}
    arms = {
        arm: _account(*row, *((shed, missing) if arm != "control" else (0, 0))) for arm, row in by_arm.items()
    }
    eligible = sum(arm["assigned"] for arm in arms.values()) + sum(outside.values())
    return {
        "eligible": eligible,
        "recorded": eligible - missing,
        "missing": missing,
        "lost": lost,
        "by_arm": arms,
        "outside": outside,
        "not_copied": 720 if shed else None,
    }


def _account(rows: int, failed: int, fell_back: int, shed: int, missing: int) -> Json:
    ends = {"complete": rows - failed, "upstream_error": failed, "shed": shed}
    return {
        "assigned": rows + shed + missing,
        "outcomes": {end: count for end, count in ends.items() if count},
        "failed": failed,
        "fell_back": fell_back,
        "shed": {"engine_pressure": shed} if shed else {},
        "missing": missing,
    }


def step(stage: str, state: str, time_s: float | None, found: Json | None, reason: str | None) -> Json:
    """A stage on the way to production."""
    permission = {"at_ns": 0, "reason": reason, "verdict_hash": "9f2c4e71"} if reason else None
    return {"stage": stage, "state": state, "time_s": time_s, "verdict": found, "permission": permission}


def experiment(
    name: str,
    model: str,
    mode: str,
    state: str,
    weights: tuple[float, float],
    versions: tuple[int, int],
    found: Json | None,
    *,
    units: int | None,
    horizon: int | None,
    guardrails: list[tuple[str, str]],
    books: Json | None,
    age_s: float,
    days_left: float | None,
    data_age_s: float | None,
    way: list[tuple[str, str, float | None, Json | None, str | None]] | None = None,
) -> Json:
    return {
        "name": name,
        "model": model,
        "mode": mode,
        "stages": [{"stage": mode, "state": "running"}],
        "state": state,
        "unit": "user",
        "entering_pct": 100.0,
        "phase": 2,
        "candidate_pct": weights[1],
        "waiting_for": None,
        "note": None,
        "recorded": None,
        "arms": [
            {"arm": "control", "version": versions[0], "weight_pct": weights[0]},
            {"arm": "candidate", "version": versions[1], "weight_pct": weights[1]},
        ],
        "started_at": ago(age_s),
        "ended_at": None,
        "age_s": age_s,
        "verdict": found,
        "units": units,
        "horizon": horizon,
        "days_left": days_left,
        "guardrails": [{"metric": metric, "state": light} for metric, light in guardrails],
        "data_age_s": data_age_s,
        "accounting": books,
        "spec_yaml": f"experiment: {name}\nmodel: {model}\nmode: {mode}\ncontrol: production\ncandidate: {versions[1]}\nunit: user\n"
        "traffic: {weight: 50}\nmetrics:\n  success: [{metric: latency, mde: 5%}]\n"
        "  guardrails: [{metric: error_rate, tolerated_ratio: 1.25}]\n",
        "pipeline": [step(*one) for one in (way or [(mode, "running", age_s, None, "started")])],
        "phases": [
            {"phase": 1, "started_at": ago(age_s), "ended_at": ago(age_s / 2), "candidate_pct": 5},
            {"phase": 2, "started_at": ago(age_s / 2), "ended_at": None, "candidate_pct": weights[1]},
        ],
    }


def experiments() -> list[Json]:
    """One of each kind that a person meets."""
    tokens = metric(
        "completion_tokens",
        "exploratory",
        "mean",
        arms((1188, 3564, 11, 214.2), (1204, 3620, 9, 209.8), (1, 3)),
        effect("difference", -4.4, -12.9, 4.1, "cluster-robust difference"),
        effect("difference", -4.4, -17.0, 8.2, "asymptotic confidence sequence"),
        None,
        "ok",
        direction="",
        unit="tokens",
    ) | {"adjusted_p": 0.412}
    helpful = metric(
        "score:helpful",
        "success",
        "mean",
        arms((1188, 412, 3152, 0.71), (1204, 431, 3189, 0.74), (1, 3)),
        effect("difference", 0.03, -0.03, 0.09, "cluster-robust difference"),
        None,
        None,
        "insufficient_data",
        direction="increase",
        text="not enough data: need about 1,900 more answers with a score",
    ) | {"instrument": "judge-7b@4f2a"}
    truncated = metric(
        "truncation_rate",
        "guardrail",
        "binary",
        arms((0, 0, 0, None), (0, 0, 0, None), (1, 3)),
        None,
        None,
        0.01,
        "no_data",
        unit="%",
        text="no data: no answer has been recorded in either arm",
    )
    bad_errors = metric(
        "error_rate",
        "guardrail",
        "binary",
        arms((402, 1290, 0, 0.0101), (131, 402, 0, 0.0821), (1, 2)),
        effect("difference", 0.0720, 0.0441, 0.0999, "cluster-robust difference"),
        effect("difference", 0.0720, 0.0312, 0.1128, "asymptotic confidence sequence"),
        0.0025,
        "crossed",
        unit="%",
    )
    return [
        experiment(
            "faster-chat",
            "chat",
            "ab",
            "concluded",
            (50, 50),
            (1, 3),
            verdict(
                "ship",
                "Ship",
                "Ship v3: latency is 10.6 % lower (95 % interval 8.2 to 12.9 % lower) and no guardrail is crossed.",
                [
                    reason("success", "note", "latency improved by more than the planned 5 %."),
                    reason(
                        "multiplicity", "note", "One success metric was declared; no correction was needed."
                    ),
                    reason(
                        "feedback",
                        "warn",
                        "score:helpful covers only 12 % of exchanges and was not used for the verdict.",
                    ),
                ],
                [latency("success", (1, 3)), helpful, errors((1, 3)), truncated, tokens],
                2392,
                5000,
                turns=[
                    {
                        "metric": "latency",
                        "first": {
                            "arms": arms((1188, 1188, 0, 412.0), (1204, 1204, 0, 371.0), (1, 3)),
                            "effect": effect("ratio", 0.9, 0.87, 0.93, "welch-log"),
                            "text": "latency on first turns",
                        },
                        "later": {
                            "arms": arms((801, 2387, 11, 498.0), (811, 2425, 9, 440.0), (1, 3)),
                            "effect": effect("ratio", 0.88, 0.85, 0.92, "welch-log"),
                            "text": "latency on later turns",
                        },
                        "log_e": -1.2,
                        "threshold": 20.0,
                        "state": "alike",
                        "text": "First turns: ... Later turns: ...",
                    }
                ],
            ),
            units=2392,
            horizon=5000,
            guardrails=[("error_rate", "ok"), ("truncation_rate", "no_data")],
            books=accounting(0, {"control": (3575, 40, 0), "candidate": (3629, 45, 18)}),
            age_s=93_600,
            days_left=0.9,
            data_age_s=3.2,
        ),
        experiment(
            "support-canary",
            "support",
            "canary",
            "rolled_back",
            (100, 0),
            (1, 2),
            verdict(
                "roll_back",
                "Roll back",
                "Roll back: v2 fails 7.2 points more often than v1, beyond the tolerated 0.25 points.",
                [
                    reason(
                        "guardrail",
                        "block",
                        "error_rate crossed its margin at look 2; the evidence holds at any time (e-value 812).",
                    )
                ],
                [bad_errors],
                533,
                2000,
            ),
            units=533,
            horizon=2000,
            guardrails=[("error_rate", "crossed"), ("latency", "ok")],
            books=accounting(4, {"control": (1290, 13, 0), "candidate": (402, 33, 31)}, missing=4),
            age_s=5_460,
            days_left=None,
            data_age_s=2_880.0,
            way=[
                ("golden", "passed", 380.0, None, None),
                (
                    "shadow",
                    "passed",
                    7_900.0,
                    {"kind": "ship", "label": "Ship", "sentence": "It may go on to real traffic."},
                    "the golden set 'support' passed",
                ),
                (
                    "canary",
                    "rolled_back",
                    5_460.0,
                    {"kind": "roll_back", "label": "Roll back", "sentence": "It fails more often."},
                    "shadow passed, canary begins. Ship",
                ),
                ("ab", "to_come", None, None, None),
                ("promote", "to_come", None, None, None),
            ],
        ),
        experiment(
            "summarise-shadow",
            "summarise",
            "shadow",
            "running",
            (100, 20),
            (4, 5),
            verdict(
                "keep_running",
                "Keep running",
                "Keep running: 180 of about 2,080 pairs seen; nothing speaks against v5 so far.",
                [
                    reason(
                        "horizon",
                        "note",
                        "Need about 1,900 more pairs before latency can be told apart at 5 %.",
                    )
                ],
                [latency("guardrail", (4, 5))],
                180,
                2080,
            ),
            units=180,
            horizon=2080,
            guardrails=[("latency", "insufficient_data"), ("error_rate", "ok")],
            books=accounting(0, {"candidate": (180, 1, 0)}, shed=12),
            age_s=2_640,
            days_left=2.4,
            data_age_s=4.0,
        ),
        experiment(
            "tone-of-voice",
            "chat",
            "ab",
            "running",
            (50, 50),
            (1, 2),
            verdict(
                "invalid",
                "Invalid",
                "Invalid: the arms do not hold the share of units that the split declares.",
                [
                    reason("note", "note", "The effect below is shown for diagnosis only."),
                    reason(
                        "srm",
                        "block",
                        "Sample-ratio mismatch: 1,410 control and 1,122 candidate units, declared 50 : 50.",
                    ),
                ],
                [latency("success", (1, 2)), errors((1, 2))],
                2532,
                4000,
                srm={
                    "e_value": 52_000.0,
                    "threshold": 1000,
                    "observed": {"control": 1410, "candidate": 1122},
                    "expected": {"control": 0.5, "candidate": 0.5},
                    "state": "crossed",
                },
            ),
            units=2532,
            horizon=4000,
            guardrails=[("error_rate", "ok")],
            books=accounting(10, {"control": (4400, 40, 0), "candidate": (3541, 41, 0)}),
            age_s=266_400,
            days_left=1.1,
            data_age_s=5.0,
        ),
        experiment(
            "fresh-start",
            "embed",
            "ab",
            "running",
            (90, 10),
            (7, 8),
            None,
            units=0,
            horizon=3000,
            guardrails=[("error_rate", "no_data")],
            books=accounting(0, {}),
            age_s=40,
            days_left=None,
            data_age_s=None,
        ),
        experiment(
            "long-context",
            "summarise",
            "ab",
            "kept",
            (100, 0),
            (3, 4),
            verdict(
                "inconclusive",
                "Inconclusive",
                "Inconclusive: after 3,000 units the difference in latency is still within ±5 %.",
                [
                    reason(
                        "horizon",
                        "note",
                        "The horizon is reached; no success metric moved, no guardrail was crossed.",
                    )
                ],
                [],
                3000,
                3000,
            ),
            units=3000,
            horizon=3000,
            guardrails=[],
            books=None,
            age_s=1_209_600,
            days_left=None,
            data_age_s=604_800,
        ),
    ]
