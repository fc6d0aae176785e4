"""An application's trace, from its client through Turnout to a backend, on real processes."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from tests.experiments.otlp import Backend, attributes
from tests.journey import eventually
from tests.stack import MODEL, Stack
from turnout.simulation import Profile, running_engine

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SHADOW = """\
experiment: mirrored
model: chat
mode: shadow
candidate: 2
unit: request
traffic: {{share: 100}}
metrics: {{guardrails: [{{metric: error_rate, tolerated_ratio: 1.25}}]}}
analysis: {{horizon: 1000, looks: 2, max_duration: 2h}}
"""


@pytest.mark.slow
def test_a_clients_trace_has_its_request_and_the_copy_of_it(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url)
    stack = Stack(tmp_path / "data", workers=1, mlflow=empty_database)
    profile = Profile(name=MODEL)
    with running_engine(profile) as one, running_engine(profile) as two, stack.up([one.url, two.url]):
        stack.begin(SHADOW)
        eventually(stack.workers, within=30)
        with openai.OpenAI(base_url=f"{stack.settings.proxy_address}/v1", api_key="unused") as client:
            answer = client.chat.completions.with_raw_response.create(
                model=MODEL,
                messages=[{"role": "user", "content": "Where is my parcel?"}],
                stream=True,
                extra_headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
            )
            assert "".join(each.choices[0].delta.content or "" for each in answer.parse() if each.choices)
        request, copy = sorted(
            eventually(lambda: backend.spans, within=30, until=lambda spans: len(spans) == 2),
            key=lambda span: attributes(span)["turnout.role"],
        )
        assert {span.trace_id.hex() for span in (request, copy)} == {TRACE}
        assert request.parent_span_id.hex() == PARENT
        assert copy.parent_span_id == request.span_id
        said = attributes(request)
        assert said["turnout.request_id"] == answer.headers["x-turnout-request-id"]
        assert (said["turnout.version"], attributes(copy)["turnout.version"]) == (1, 2)
        assert said["gen_ai.usage.output_tokens"] > 0
        assert said["gen_ai.response.time_to_first_chunk"] > 0
        assert f"traceparent: 00-{TRACE}-{PARENT}-01".encode() in one.counters.last_request.lower()

        found = stack.api.get("/api/exchanges", {"trace_id": TRACE})
        assert sorted(row["role"] for row in found) == ["primary", "shadow"]
        assert {row["trace_id"] for row in found} == {TRACE}
        eventually(
            lambda: stack.health()["traces"],
            within=10,
            until=lambda state: (state["told"], state["behind"], state["error"]) == (2, 0, None),
        )
    backend.close()
