"""The journey on a real vLLM: what holds for the simulated engine holds for the engine that it imitates."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from registry import Registry
from tests.journey import Fleet, Turnout, journey

pytestmark = [pytest.mark.engines, pytest.mark.timeout(420)]


def test_turnout_serve_starts_both_versions_and_notes_where(fleet: Fleet, engines_registry: Registry) -> None:
    production = engines_registry.version("chat", "production")
    assert production.endpoint is not None
    assert (production.endpoint.served_name, production.endpoint.engine) == ("chat", "vllm-cpu")
    for url in (fleet.first, fleet.second):
        served = httpx.get(f"{url}/v1/models").json()["data"]
        assert [one["id"] for one in served] == ["chat"]


def test_the_two_models_answer_differently(fleet: Fleet) -> None:
    body = {
        "model": "chat",
        "messages": [{"role": "user", "content": "Hello"}],
        "temperature": 0,
        "max_tokens": 16,
    }
    said = {
        httpx.post(f"{url}/v1/chat/completions", json=body | {"ignore_eos": True}, timeout=60).json()[
            "choices"
        ][0]["message"]["content"]
        for url in (fleet.first, fleet.second)
    }
    assert len(said) == 2


def test_the_journey(fleet: Fleet, tmp_path: Path) -> None:
    turnout = Turnout(tmp_path)
    with turnout.up():
        journey(turnout, fleet)
