"""Do two versions read a prompt alike? Tokenizer, template, sampling defaults, files: pure comparisons.

Token ids are compared where the tokenizer is the same, the texts of the tokens where it is not: a template
that puts in a system prompt of its own shows in both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from evaluators.preflight.engine import EngineFacts, Tokens
from evaluators.preflight.finding import Finding, unchecked

_FERTILITY_WARN: Final = 1.05
_SHOWN: Final = 60
_GENERATION: Final = "generation_config.json"


def replicas(control: Mapping[str, EngineFacts], candidate: Mapping[str, EngineFacts]) -> Finding:
    """Do all replicas of a version read alike? By address. Where the candidate's do not, users would meet two
    models under one name; of production's own it is a warning, for the candidate is held against one of them.
    """
    sides = (("production", control), ("the candidate", candidate))
    found = [(who, *_apart(facts)) for who, facts in sides]
    # A provider has no replica, and so none that is silent.
    mute = [who for who, facts in sides if facts and not _known(facts)]
    apart = {who: others for who, others, _ in found if others}
    silent = [replica for _, _, unknown in found for replica in unknown]
    told = [f"{who}: {'; '.join(others.values())}" for who, others in apart.items()]
    if not _known(control) and not _known(candidate):
        return unchecked("replicas", "no engine says how it reads")
    if told or silent:
        quiet = [f"nothing is known of {', '.join(silent)}"] if silent else []
        return Finding(
            check="replicas",
            status="fail" if "the candidate" in apart else "warn",
            sentence=f"Not all replicas read alike: {'; '.join([*told, *quiet])}.",
            items=tuple(sorted({*silent, *(replica for others in apart.values() for replica in others)})),
        )
    if mute:
        return unchecked("replicas", f"no engine of {mute[0]} says how it reads")
    count = f"{len(control)} of production, {len(candidate)} of the candidate"
    return Finding(check="replicas", status="ok", sentence=f"All replicas read alike ({count}).")


def _apart(facts: Mapping[str, EngineFacts]) -> tuple[dict[str, str], list[str]]:
    """The replicas that read otherwise than the first that is known, with what; and those unknown."""
    known = _known(facts)
    if not known:
        return {}, []
    first, *others = known
    apart = {
        replica: f"{replica} has another {', '.join(differing)} than {first}"
        for replica in others
        if (differing := _differing(known[first], known[replica]))
    }
    return apart, [replica for replica in facts if replica not in known]


def _known(facts: Mapping[str, EngineFacts]) -> dict[str, EngineFacts]:
    """The replicas that said anything of how they read."""
    return {replica: one for replica, one in facts.items() if one.fingerprint({}) is not None}


def _differing(one: EngineFacts, other: EngineFacts) -> list[str]:
    left, right = _parts(one), _parts(other)
    return [name for name in left if left[name] != right[name]]


def _parts(facts: EngineFacts) -> dict[str, Any]:
    return {
        "engine version": facts.engine_version,
        "context length": facts.max_model_len,
        "tokenizer": {name: tokens.ids for name, tokens in facts.texts.items()},
        "chat template": {name: tokens.ids for name, tokens in facts.chats.items()},
        "sampling default": facts.sampling,
    }


def tokenizer(control: EngineFacts, candidate: EngineFacts) -> Finding:
    """Same texts, same tokens? Where not, the candidate's number of tokens per the control's (fertility)."""
    both = sorted(control.texts.keys() & candidate.texts.keys())
    if not both:
        return unchecked("tokenizer", _why(control, candidate, "/tokenize"))
    differing = [name for name in both if control.texts[name].ids != candidate.texts[name].ids]
    if not differing:
        return Finding(check="tokenizer", status="ok", sentence=f"The same tokens for {len(both)} texts.")
    ratio = _ratio(control.texts, candidate.texts, both)
    more = "" if ratio <= _FERTILITY_WARN else ": price, caps and the KV cache shift with it"
    return Finding(
        check="tokenizer",
        status="fail",
        sentence=f"Another tokenizer: {len(differing)} of {len(both)} texts have other tokens, "
        f"{ratio:.2f} times as many{more}.",
        items=tuple(differing),
        numbers={"fertility": round(ratio, 4)},
    )


def template(control: EngineFacts, candidate: EngineFacts) -> Finding:
    """Same messages, same prompt? Names the first probes that differ and where they part."""
    same_tokenizer = tokenizer(control, candidate).status == "ok"
    both = [name for name in control.chats if name in candidate.chats]
    if both:
        differing = [
            name for name in both if not _same(control.chats[name], candidate.chats[name], same_tokenizer)
        ]
        where = _parting(control.chats[differing[0]], candidate.chats[differing[0]]) if differing else ""
    else:
        both = [name for name in control.rendered if name in candidate.rendered]
        differing = [name for name in both if control.rendered[name] != candidate.rendered[name]]
        where = ""
    one_sided = sorted(control.chats.keys() ^ candidate.chats.keys())
    if not both:
        return unchecked("template", _why(control, candidate, "/tokenize"))
    if not differing and not one_sided:
        return Finding(check="template", status="ok", sentence=f"The same prompt for {len(both)} questions.")
    told = f"{len(differing)} of {len(both)} questions become another prompt{where}" if differing else ""
    lacking = f"only one version can render {', '.join(one_sided)}" if one_sided else ""
    return Finding(
        check="template",
        status="fail",
        sentence=f"Another chat template: {'; '.join(filter(None, (told, lacking)))}.",
        items=(*differing, *one_sided),
        numbers={
            "prompt_ratio": round(_ratio(control.chats, candidate.chats, both), 4) if control.chats else None
        },
    )


def sampling_defaults(
    control: EngineFacts, candidate: EngineFacts, details: Mapping[str, list[str]] | None = None
) -> Finding:
    """Is a request that says nothing of sampling sampled alike? Where an engine does not render, the files'
    generation_config (in `details`, as `artefacts` has them) tells if it differs."""
    if control.sampling is None or candidate.sampling is None:
        if settings := (details or {}).get(_GENERATION):
            return Finding(
                check="sampling_defaults",
                status="fail",
                sentence=f"Other sampling defaults in {_GENERATION}: {_some(settings)}.",
                items=tuple(setting.partition(" ")[0] for setting in settings),
            )
        return unchecked("sampling_defaults", _why(control, candidate, "/v1/chat/completions/render"))
    changes = changed(control.sampling, candidate.sampling)
    if not changes:
        return Finding(
            check="sampling_defaults", status="ok", sentence="Requests without sampling are sampled alike."
        )
    return Finding(
        check="sampling_defaults",
        status="fail",
        sentence=f"Other sampling defaults: {_some(changes)}.",
        items=tuple(change.partition(" ")[0] for change in changes),
    )


def artefacts(
    control: Mapping[str, str], candidate: Mapping[str, str], details: Mapping[str, list[str]]
) -> Finding:
    """Are the files that are known of both the same? `details` says of a file which settings differ."""
    both = sorted(control.keys() & candidate.keys())
    if not both:
        why = "no file's hash is known of both versions (tags artefact.FILE, or --control-files)"
        return unchecked("artefacts", why)
    differing = [name for name in both if control[name] != candidate[name]]
    if not differing:
        return Finding(check="artefacts", status="ok", sentence=f"The same files: {', '.join(both)}.")
    told = [f"{name} ({_some(details[name])})" if details.get(name) else name for name in differing]
    return Finding(
        check="artefacts",
        status="warn",
        sentence=f"Other files: {'; '.join(told)}.",
        items=tuple(differing),
    )


def changed(control: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[str]:
    """`name one -> other` of each setting that differs."""
    names = sorted(control.keys() | candidate.keys())
    return [
        f"{name} {_shown(control.get(name))} -> {_shown(candidate.get(name))}"
        for name in names
        if control.get(name) != candidate.get(name)
    ]


def _shown(value: Any) -> str:
    text = "none" if value is None else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _same(control: Tokens, candidate: Tokens, same_tokenizer: bool) -> bool:
    if same_tokenizer or not (control.texts and candidate.texts):
        return control.ids == candidate.ids
    return "".join(control.texts) == "".join(candidate.texts)


def _parting(control: Tokens, candidate: Tokens) -> str:
    """Where two prompts part, in words; nothing if the engine gives no texts."""
    if not (control.texts and candidate.texts):
        return ""
    left, right = "".join(control.texts), "".join(candidate.texts)
    at = next(
        (n for n, (one, other) in enumerate(zip(left, right, strict=False)) if one != other),
        min(len(left), len(right)),
    )
    start = max(0, at - 10)
    return f" (at character {at}: {left[start : at + 20]!r} became {right[start : at + 20]!r})"


def _ratio(control: Mapping[str, Tokens], candidate: Mapping[str, Tokens], names: list[str]) -> float:
    """The geometric mean of the candidate's number of tokens over the control's."""
    logs = [
        math.log(len(candidate[name].ids) / len(control[name].ids))
        for name in names
        if name in control and name in candidate and control[name].ids and candidate[name].ids
    ]
    return math.exp(math.fsum(logs) / len(logs)) if logs else 1.0


def _why(control: EngineFacts, candidate: EngineFacts, path: str) -> str:
    for who, facts in (("production's engine", control), ("the candidate's engine", candidate)):
        for asked, why in facts.missing.items():
            if asked.startswith(path):
                return f"{who} ({facts.engine}): {why}"
    return "the engines say nothing of it"


def _some(texts: list[str], most: int = 4) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
