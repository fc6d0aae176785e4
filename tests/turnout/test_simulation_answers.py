"""The simulated engine's answers: do they follow the key, the profile and its pace, and do they repeat?"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from turnout.simulation import Answer, AnswerKey, AnswerKeyError, Profile, ProfileError
from turnout.simulation.answers import tokens

from .simulated import ASK, post, serving


def test_tokens_join_to_the_text() -> None:
    for text in ("", " ", "a  b\n\nc", "naïve ☂ text", "x" * 50, " end "):
        assert "".join(tokens(text)) == text


async def test_the_answer_key_is_followed_and_nested_by_quality(support_key: AnswerKey) -> None:
    right: dict[float, set[str]] = {}
    for quality in (0.5, 0.8, 1.0):
        async with serving(profile=Profile(name="chat", quality=quality), key=support_key) as (_, client):
            right[quality] = set()
            for prompt in support_key.entries:
                body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0}
                message = (await post(client, **body)).json()["choices"][0]["message"]
                entry = support_key.entries[prompt]
                calls = [c["function"] for c in message.get("tool_calls") or ()]
                said = (message["content"] or "", [(c["name"], c["arguments"]) for c in calls])
                known = [
                    (a.text, [(c.name, c.arguments) for c in a.tool_calls])
                    for a in (entry.right, entry.wrong)
                ]
                assert said in known
                if said == known[0]:
                    right[quality].add(prompt)
    assert right[0.5] < right[0.8] < right[1.0] == set(support_key.entries)


async def test_repetitions_differ_but_at_temperature_zero_and_for_a_seed(support_key: AnswerKey) -> None:
    prompt = next(p for p, entry in support_key.entries.items() if entry.right.text)
    body = {"messages": [{"role": "user", "content": prompt}]}
    profile = Profile(name="chat", quality=0.5)

    async def said(**fields: object) -> list[str]:
        async with serving(profile=profile, key=support_key) as (_, client):
            answers = [await post(client, **body, **fields) for _ in range(12)]
            return [answer.json()["choices"][0]["message"]["content"] for answer in answers]

    assert len(set(await said(temperature=0))) == 1
    assert len(set(await said(seed=3))) == 1
    assert len(set(await said())) == 2
    assert await said() == await said()


def test_judging(support_key: AnswerKey) -> None:
    prompt, entry = next(iter(support_key.entries.items()))
    assert support_key.judge(f" {prompt}\n", entry.right) is True
    assert support_key.judge(prompt, entry.wrong) is False
    assert support_key.judge("unheard of", Answer(text="x")) is None


def test_a_broken_answer_key_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"source": {}}\n\n{"source": {"answer": "x"}}\n')
    with pytest.raises(AnswerKeyError, match=r"items\.jsonl:3"):
        AnswerKey.read([path])


async def test_verbosity_lengthens_the_answer() -> None:
    lengths = []
    for verbosity in (0.5, 1.0, 4.0):
        async with serving(profile=Profile(name="chat", verbosity=verbosity)) as (_, client):
            lengths.append((await post(client)).json()["usage"]["completion_tokens"])
    assert lengths[0] < lengths[1] < lengths[2]


async def test_rates_are_what_the_profile_says_and_repeat() -> None:
    profile = Profile(name="chat", error_rate=0.2, truncation_rate=0.3)

    async def outcomes() -> list[str]:
        async with serving(profile=profile) as (_, client):
            found = []
            for _ in range(200):
                answer = await post(client, stream=True)
                ended = answer.content.endswith(b"[DONE]\n\n")
                found.append("error" if answer.status_code == 500 else "whole" if ended else "cut")
            return found

    first = await outcomes()
    assert first.count("error") == pytest.approx(40, abs=15)
    assert first.count("cut") == pytest.approx(48, abs=18)
    assert await outcomes() == first


async def test_pace_follows_the_profile() -> None:
    async with serving(profile=Profile(name="chat", ttft_ms=100, tokens_per_s=200)) as (_, client):
        started = time.monotonic()
        body = {**ASK, "stream": True, "max_tokens": 20}
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            head = time.monotonic() - started
            times = [time.monotonic() - started async for line in answer.aiter_lines() if "content" in line]
        assert head < 0.1 <= times[0]
        assert times[-1] - times[0] >= 0.09


def test_jitter_keeps_the_mean() -> None:
    profile = Profile(ttft_ms=100, tokens_per_s=100, jitter=0.5)
    paces = [profile.pace(arrival) for arrival in range(4000)]
    assert sum(first for first, _ in paces) / 4000 == pytest.approx(0.1, rel=0.05)
    assert sum(gap for _, gap in paces) / 4000 == pytest.approx(0.01, rel=0.05)
    assert min(first for first, _ in paces) > 0


@pytest.mark.parametrize(
    "fields", [{"quality": 1.1}, {"ttft_ms": -1.0}, {"name": ""}, {"nam": "x"}, {"slots": "2"}]
)
def test_a_profile_that_cannot_be_is_refused_by_field(fields: dict[str, object]) -> None:
    with pytest.raises(ProfileError, match=next(iter(fields))):
        Profile.from_fields(fields)
