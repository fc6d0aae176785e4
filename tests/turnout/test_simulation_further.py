"""The simulated engine's Messages, Responses, scores and tokens: as the clients and the ledger read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response

from experiments.ledger.transcript import Transcript, decode
from turnout.simulation import Profile, SimulatedEngine, running_engine

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
ASKS: dict[str, dict[str, Any]] = {
    MESSAGES: {"messages": [{"role": "user", "content": "Where is my parcel?"}], "max_tokens": 400},
    RESPONSES: {"input": "Where is my parcel?"},
}
TOOLS: dict[str, dict[str, Any]] = {
    MESSAGES: {
        "tools": [{"name": "find", "input_schema": {"properties": {"city": {"enum": ["Köln"]}}}}],
        "tool_choice": {"type": "any"},
    },
    RESPONSES: {
        "tools": [
            {"type": "function", "name": "find", "parameters": {"properties": {"city": {"enum": ["Köln"]}}}}
        ],
        "tool_choice": "required",
    },
}


@pytest.fixture(scope="module")
def engine() -> Iterator[SimulatedEngine]:
    with running_engine(Profile(name="chat")) as running:
        yield running


def ask(engine: SimulatedEngine, path: str, **more: Any) -> tuple[httpx.Response, Transcript]:
    body = {"model": "chat", **ASKS.get(path, {}), **more}
    answer = httpx.post(engine.url + path, json=body, timeout=10)
    raw = answer.content
    said = decode(
        path,
        answer.headers["content-type"],
        answer.status_code,
        raw,
        (1,),
        (len(raw),),
        json.dumps(body).encode(),
    )
    return answer, said


@pytest.mark.parametrize("path", ASKS)
def test_a_stream_and_a_whole_answer_say_the_same(engine: SimulatedEngine, path: str) -> None:
    _, whole = ask(engine, path)
    _, streamed = ask(engine, path, stream=True)
    assert (whole.outcome, streamed.outcome) == ("complete", "complete")
    assert whole.text == streamed.text
    assert whole.text
    assert (whole.prompt_tokens, whole.completion_tokens) == (
        streamed.prompt_tokens,
        streamed.completion_tokens,
    )
    assert streamed.chunks == streamed.completion_tokens
    assert whole.prompt == "Where is my parcel?"


@pytest.mark.parametrize("path", ASKS)
@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called(engine: SimulatedEngine, path: str, stream: bool) -> None:
    _, said = ask(engine, path, stream=stream, **TOOLS[path])
    [call] = said.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("find", {"city": "Köln"})
    assert said.outcome == "complete"


@pytest.mark.parametrize(("path", "field"), [(MESSAGES, "max_tokens"), (RESPONSES, "max_output_tokens")])
@pytest.mark.parametrize("stream", [False, True])
def test_the_limit_is_kept_and_told(engine: SimulatedEngine, path: str, field: str, stream: bool) -> None:
    _, said = ask(engine, path, stream=stream, **{field: 3})
    assert (said.outcome, said.completion_tokens) == ("length", 3)


@pytest.mark.parametrize("path", ASKS)
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("eof-clean", "truncated"),
        ("no-done", "truncated"),
        ("error-event", "upstream_error"),
        ("crlf+comments+no-space+bom+slice-3", "complete"),
    ],
)
def test_it_misbehaves_as_told(engine: SimulatedEngine, path: str, fault: str, outcome: str) -> None:
    _, said = ask(engine, path, stream=True, model=fault)
    assert said.outcome == outcome


def test_the_openai_client_reads_responses(engine: SimulatedEngine) -> None:
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.responses.create(model="chat", input="Where is my parcel?")
        assert answer.output_text
        assert answer.usage is not None
        last: Response | None = None
        text = ""
        for event in client.responses.create(model="chat", input="Where is my parcel?", stream=True):
            if event.type == "response.output_text.delta":
                text += event.delta
            if event.type == "response.completed":
                last = event.response
        assert text == answer.output_text
        assert last is not None
        assert last.output_text == text


def test_documents_are_ranked_and_scored(engine: SimulatedEngine) -> None:
    documents = [f"document {number}" for number in range(5)]
    answer, said = ask(engine, "/v1/rerank", query="which?", documents=documents, top_n=3)
    results = answer.json()["results"]
    assert len(results) == 3
    scores = [entry["relevance_score"] for entry in results]
    assert scores == sorted(scores, reverse=True)
    assert all(entry["document"]["text"] == documents[entry["index"]] for entry in results)
    assert (said.outcome, said.prompt) == ("complete", "which?")
    scored, said = ask(engine, "/v1/score", text_1="which?", text_2=documents)
    by_index = {entry["index"]: entry["score"] for entry in scored.json()["data"]}
    assert all(by_index[entry["index"]] == entry["relevance_score"] for entry in results)
    assert said.outcome == "complete"
    assert ask(engine, "/v1/rerank", query="which?")[0].status_code == 400
    assert ask(engine, "/v1/score", queries="a")[0].status_code == 400


def test_tokens_there_and_back(engine: SimulatedEngine) -> None:
    there, said = ask(engine, "/tokenize", prompt="Where is my parcel?")
    assert said.outcome == "complete"
    back, said = ask(engine, "/detokenize", tokens=there.json()["tokens"])
    assert (back.status_code, said.outcome) == (200, "complete")
    assert ask(engine, "/detokenize", tokens="x")[0].status_code == 400
