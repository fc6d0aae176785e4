"""Do two versions answer the probes alike in what breaks applications? Pure comparisons of what was said.

A candidate fails for what it newly breaks: calls or JSON that no longer hold where the control's do, answers
that are lost, streams that say another thing than whole answers, answers that are surely longer. How good the
answers are is for golden sets.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal

from evaluators.canonical import same_json
from evaluators.preflight.answers import Asked, Said
from evaluators.preflight.finding import Finding, Status, ended, unchecked
from evaluators.score import parse_json
from evaluators.scorers.structured import check_schema, schema_errors
from experiments.document import shown
from experiments.statistics.paired import clustered_difference, paired_sums

_INFLATION: Final = 0.10  # more output tokens than this are somebody's budget
_SLOWER: Final = 1.5
_ALPHA: Final = 0.05
_FEWEST: Final = 3


def answers(asked: Sequence[Asked]) -> Finding:
    """Did both versions answer, whole and streamed? Without answers nothing else can be said."""
    unreached = [one for one in asked if not (_reached(one.control) and _reached(one.candidate))]
    if not asked or len(unreached) == len(asked):
        why = unreached[0].candidate.error or unreached[0].control.error if unreached else "nothing was asked"
        return unchecked("answers", f"no probe was answered by both versions: {why}")
    if not any(_answered(one.control) for one in asked):
        why = asked[0].control.error or asked[0].control.outcome
        return unchecked("answers", f"production answers no probe: {why}")
    lost = [(one.probe.name, *found) for one in asked if (found := _lost(one)) is not None]
    numbers = {"probes": len(asked), "lost": len(lost), "unreached": len(unreached)}
    if lost:
        _, way, said = lost[0]
        why = said.error or said.outcome
        sentence = ended(
            f"{len(lost)} of {len(asked)} probes that production answers get no answer{way}: {why}"
        )
        names = tuple(name for name, _, _ in lost)
        return Finding(check="answers", status="fail", sentence=sentence, items=names, numbers=numbers)
    if unreached:
        names = tuple(one.probe.name for one in unreached)
        sentence = f"{len(unreached)} of {len(asked)} probes did not reach both versions."
        return Finding(check="answers", status="warn", sentence=sentence, items=names, numbers=numbers)
    return Finding(
        check="answers",
        status="ok",
        sentence=f"All {len(asked)} probes are answered as before.",
        numbers=numbers,
    )


def _lost(one: Asked) -> tuple[str, Said] | None:
    """Where production answers and the candidate does not: how it was asked (nothing: whole), and what it
    said. Who has too much to do just now has lost nothing."""
    for way, control, candidate in (
        ("", one.control, one.candidate),
        (", streamed", one.control_stream, one.candidate_stream),
    ):
        if _answered(control) and not _answered(candidate) and candidate.outcome != "overloaded":
            return way, candidate
    return None


def prompt_tokens(asked: Sequence[Asked]) -> Finding:
    """Do the same messages cost as many prompt tokens? Every engine that counts can tell."""
    pairs = [
        (one.probe.name, one.control.prompt_tokens, one.candidate.prompt_tokens)
        for one in asked
        if one.control.prompt_tokens and one.candidate.prompt_tokens
    ]
    if not pairs:
        return unchecked("prompt_tokens", "the answers have no usage")
    differing = [name for name, left, right in pairs if left != right]
    if not differing:
        return Finding(
            check="prompt_tokens", status="ok", sentence=f"As many prompt tokens in {len(pairs)} probes."
        )
    ratio = math.exp(
        math.fsum(math.log(right / left) for _, left, right in pairs if left and right) / len(pairs)
    )
    return Finding(
        check="prompt_tokens",
        status="warn",
        sentence=f"{len(differing)} of {len(pairs)} probes cost another number of prompt tokens, "
        f"{ratio:.2f} times as many on average: template or tokenizer have changed.",
        items=tuple(differing),
        numbers={"ratio": round(ratio, 4)},
    )


def tool_calls(asked: Sequence[Asked]) -> Finding:
    """Do declared tools get calls whose names are declared and whose arguments their schemas allow?"""
    return _validity("tool_calls", [one for one in asked if one.probe.tools], tool_fault, "tool calls")


def json_schema(asked: Sequence[Asked]) -> Finding:
    """Is the answer what `response_format` asks for?"""
    return _validity(
        "json_schema", [one for one in asked if one.probe.schema is not None], schema_fault, "JSON"
    )


def tool_fault(one: Asked, said: Said) -> str | None:
    """What is wrong with an answer's tool calls; None if nothing is, or if it was cut."""
    if said.outcome == "length":
        return None
    declared = {
        tool["function"]["name"]: tool["function"].get("parameters", True) for tool in one.probe.tools
    }
    wanted = one.probe.extra.get("tool_choice")
    if isinstance(wanted, dict) and wanted["function"]["name"] not in [call.name for call in said.tool_calls]:
        return f"{wanted['function']['name']} had to be called and was not"
    for call in said.tool_calls:
        if call.name not in declared:
            return f"{shown(call.name)} is called, which is not declared"
        parsed = parse_json(call.arguments or "{}")
        if parsed is None:
            return f"the arguments of {call.name} are no JSON"
        if fault := _fault(declared[call.name], parsed.value):
            return f"{call.name}: {fault}"
    return None


def schema_fault(one: Asked, said: Said) -> str | None:
    """What is wrong with an answer that had to follow a schema; None if nothing is, or if it was cut."""
    if said.outcome == "length":
        return None
    parsed = parse_json(said.text)
    if parsed is None:
        return "the text is no JSON"
    return _fault(one.probe.schema, parsed.value)


def streaming(asked: Sequence[Asked]) -> Finding:
    """Does a streamed answer say what the whole one says? Asked greedily, so that it should."""
    usable = [one for one in asked if one.candidate.complete and one.candidate_stream.complete]
    if not usable:
        return unchecked("streaming", "no probe was answered both whole and streamed")
    differing = [one.probe.name for one in usable if not agree(one.candidate, one.candidate_stream)]
    before = [one.probe.name for one in usable if not agree(one.control, one.control_stream)]
    numbers = {"probes": len(usable), "candidate": len(differing), "control": len(before)}
    if not differing:
        sentence = f"{len(usable)} probes say the same streamed and whole."
        return Finding(check="streaming", status="ok", sentence=sentence, numbers=numbers)
    broken = [name for name in differing if name not in before and _shape_differs(name, usable)]
    return Finding(
        check="streaming",
        status="fail" if broken else "note",
        sentence=f"{len(differing)} of {len(usable)} probes say another thing streamed than whole "
        f"({len(before)} with production)"
        + (
            f"; tool calls or JSON differ in {', '.join(broken)}."
            if broken
            else "; engines are not always greedy alike."
        ),
        items=tuple(differing),
        numbers=numbers,
    )


def output_tokens(asked: Sequence[Asked], *, same_tokenizer: bool) -> Finding:
    """Are the answers longer? The ratio of geometric means with its interval, in characters when the
    tokenizers differ. Pairs that both ran into max_tokens say nothing."""
    measure: Callable[[Said], int | None] = _tokens if same_tokenizer else _characters
    unit = "tokens" if same_tokenizer else "characters"
    pairs = [
        (left, right)
        for one in asked
        if not one.control.outcome == one.candidate.outcome == "length"
        and (left := measure(one.control)) and (right := measure(one.candidate))
    ]  # fmt: skip
    cut = [
        one.probe.name
        for one in asked
        if one.candidate.outcome == "length" and one.control.outcome != "length"
    ]
    if len(pairs) < _FEWEST:
        return unchecked("output_tokens", f"only {len(pairs)} pairs of answers ended before max_tokens")
    logs = [math.log(right / left) for left, right in pairs]
    found = clustered_difference(paired_sums(logs, list(range(len(logs)))), alpha=_ALPHA)
    ratio = math.exp(math.fsum(logs) / len(logs))
    low, high = (
        (math.exp(found.interval.lower), math.exp(found.interval.upper)) if found.interval else (ratio, ratio)
    )
    status: Status = "fail" if low > 1 + _INFLATION else "warn" if ratio > 1 + _INFLATION or cut else "ok"
    more = f"; {len(cut)} newly run into max_tokens" if cut else ""
    return Finding(
        check="output_tokens",
        status=status,
        sentence=f"Answers have {ratio:.2f} times the {unit} ({1 - _ALPHA:.0%} interval {low:.2f} to "
        f"{high:.2f}, {len(pairs)} pairs){more}.",
        items=tuple(cut),
        numbers={"ratio": round(ratio, 4), "lower": round(low, 4), "upper": round(high, 4), "unit": unit},
    )


def greedy_agreement(asked: Sequence[Asked]) -> Finding:
    """In how many probes do both versions say the same, asked greedily? Information: new weights differ."""
    usable = [one for one in asked if one.control.complete and one.candidate.complete]
    if not usable:
        return unchecked("greedy_agreement", "no probe was answered by both versions")
    same = [one.probe.name for one in usable if agree(one.control, one.candidate)]
    share = len(same) / len(usable)
    return Finding(
        check="greedy_agreement",
        status="ok" if share == 1 else "note",
        sentence=f"{len(same)} of {len(usable)} probes are answered to the letter as before.",
        numbers={"share": round(share, 4)},
    )


def latency(asked: Sequence[Asked], cold_ms: tuple[float, float] | None) -> Finding:
    """How long do warm answers take, and the very first one? A few probes, one at a time: no load test."""
    warm = [
        (one.control_stream, one.candidate_stream)
        for one in asked
        if one.control_stream.complete and one.candidate_stream.complete
    ]
    first = [(left.ttft_ms, right.ttft_ms) for left, right in warm if left.ttft_ms and right.ttft_ms]
    if not first:
        return unchecked("latency", "no probe was streamed by both versions")
    ttft = [statistics.median(side) for side in zip(*first, strict=True)]
    whole = [
        statistics.median(side) for side in zip(*((a.latency_ms, b.latency_ms) for a, b in warm), strict=True)
    ]
    slower = ttft[1] > _SLOWER * ttft[0] and ttft[1] - ttft[0] > 50
    cold = f" The very first answers took {cold_ms[0]:.0f} and {cold_ms[1]:.0f} ms." if cold_ms else ""
    return Finding(
        check="latency",
        status="warn" if slower else "ok",
        sentence=f"Median time to the first token {ttft[0]:.0f} ms before, {ttft[1]:.0f} ms now; whole "
        f"answers {whole[0]:.0f} and {whole[1]:.0f} ms ({len(first)} probes).{cold}",
        numbers={
            "control_ttft_ms": round(ttft[0], 1),
            "candidate_ttft_ms": round(ttft[1], 1),
            "control_ms": round(whole[0], 1),
            "candidate_ms": round(whole[1], 1),
            "control_cold_ms": None if cold_ms is None else round(cold_ms[0], 1),
            "candidate_cold_ms": None if cold_ms is None else round(cold_ms[1], 1),
        },
    )


def agree(one: Said, other: Said) -> bool:
    """The same text and the same calls; arguments are compared as JSON."""
    return one.text == other.text and _calls_agree(one, other)


def _calls_agree(one: Said, other: Said) -> bool:
    if [call.name for call in one.tool_calls] != [call.name for call in other.tool_calls]:
        return False
    return all(
        left.arguments == right.arguments or same_json(_value(left.arguments), _value(right.arguments))
        for left, right in zip(one.tool_calls, other.tool_calls, strict=True)
    )


def _shape_differs(name: str, asked: Iterable[Asked]) -> bool:
    """Whether the difference is in what programs read: the calls, or JSON that a schema asked for."""
    one = next(one for one in asked if one.probe.name == name)
    if one.probe.schema is not None:
        return (schema_fault(one, one.candidate) is None) != (schema_fault(one, one.candidate_stream) is None)
    return not _calls_agree(one.candidate, one.candidate_stream)


def _validity(
    name: Literal["tool_calls", "json_schema"],
    asked: Sequence[Asked],
    fault: Callable[[Asked, Said], str | None],
    noun: str,
) -> Finding:
    faults: list[str] = []
    old: list[str] = []
    looked = 0
    for one in asked:
        for way, control, candidate in (
            ("whole", one.control, one.candidate),
            ("streamed", one.control_stream, one.candidate_stream),
        ):
            if not candidate.complete:
                continue
            looked += 1
            found = fault(one, candidate)
            if found is not None:
                known = not control.complete or fault(one, control) is not None
                (old if known else faults).append(f"{one.probe.name} ({way}): {found}")
    if not looked:
        why = next((said.error for one in asked for said in (one.candidate,) if said.error), None)
        reason = f"the engine answers none of these probes ({why})" if why else f"no probe asks for {noun}"
        return unchecked(name, reason)
    items = tuple(text.partition(" ")[0] for text in [*faults, *old])
    numbers = {"answers": looked, "new_faults": len(faults), "old_faults": len(old)}
    if faults:
        sentence = ended(
            f"{len(faults)} of {looked} answers have broken {noun} where production's hold: {faults[0]}"
        )
        return Finding(check=name, status="fail", sentence=sentence, items=items, numbers=numbers)
    if old:
        told = f"{len(old)} of {looked} answers have broken {noun}, as production's have: {old[0]}"
        sentence = ended(told)
        return Finding(check=name, status="warn", sentence=sentence, items=items, numbers=numbers)
    sentence = f"{looked} answers, whole and streamed, have valid {noun}."
    return Finding(check=name, status="ok", sentence=sentence, numbers=numbers)


def _fault(schema: Any, value: object) -> str | None:
    try:
        check_schema(schema)
    except ValueError:
        return None  # the declaration is no schema: nothing can be broken
    return next(iter(schema_errors(schema, value)), None)


def _reached(said: Said) -> bool:
    return said.outcome not in (None, "overloaded")


def _answered(said: Said) -> bool:
    return said.outcome in ("complete", "length")


def _tokens(said: Said) -> int | None:
    return said.completion_tokens if said.complete else None


def _characters(said: Said) -> int | None:
    length = len(said.text) + sum(len(call.arguments) for call in said.tool_calls)
    return length if said.complete else None


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
