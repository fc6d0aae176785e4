"""The clients that people have, on a real vLLM: through the proxy they get what they get without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import langchain_openai
import openai
import pytest

from experiments.snapshot import Endpoint, ModelRoute, Snapshot
from tests.journey import Fleet, eventually
from turnout.processes import free_port

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(420),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]
QUESTION = "Where is my parcel, and when does it come?"
MESSAGES = [{"role": "user", "content": QUESTION}]
GREEDY: dict[str, Any] = {"temperature": 0, "seed": 1}
TOKENS = 12


@pytest.fixture(scope="module")
def places(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Base URLs without `/v1`: the engine itself, and a proxy in front of it."""
    data = tmp_path_factory.mktemp("proxy")
    endpoint = Endpoint(
        model="chat", version=1, served_name="chat", engine="vllm-cpu", replicas=(fleet.first,)
    )
    table = Snapshot(
        version=1,
        published_ns=time.time_ns(),
        models={"chat": ModelRoute(model="chat", production=1)},
        endpoints={("chat", 1): endpoint},
    )
    (data / "proxy-snapshot.json").write_bytes(table.to_json())
    port = free_port()
    command = [sys.executable, "-m", "proxy", "--data", str(data), "--port", str(port)]
    with (data / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--control-url", "http://127.0.0.1:1"], stderr=log)
    try:
        eventually(lambda: _ready(f"http://127.0.0.1:{port}/readyz"), within=30)
        yield fleet.first, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


Ask = Callable[[str], tuple[Any, ...]]


def _chat(url: str) -> tuple[Any, ...]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        got = client.chat.completions.create(model="chat", messages=MESSAGES, max_tokens=TOKENS, **GREEDY)
        return got.choices[0].message.content, got.choices[0].finish_reason, got.usage


def _chat_stream(url: str) -> tuple[Any, ...]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        chunks = list(
            client.chat.completions.create(
                model="chat",
                messages=MESSAGES,
                max_tokens=TOKENS,
                stream=True,
                stream_options={"include_usage": True},
                logprobs=True,
                **GREEDY,
            )
        )
    # How many tokens one chunk carries is the engine's timing (it joins what waits for a slow reader), so
    # the tokens are compared one by one by their logprobs, and not the chunks.
    choices = [choice for chunk in chunks for choice in chunk.choices]
    tokens = [each.token for choice in choices if choice.logprobs for each in choice.logprobs.content or ()]
    ends = [choice.finish_reason for choice in choices if choice.finish_reason]
    return "".join(choice.delta.content or "" for choice in choices), tokens, ends, chunks[-1].usage


def _completion(url: str) -> tuple[Any, ...]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        got = client.completions.create(model="chat", prompt=[QUESTION, "Hm"], max_tokens=TOKENS, **GREEDY)
        return [choice.text for choice in got.choices], got.usage


def _responses(url: str) -> tuple[Any, ...]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        got = client.responses.create(model="chat", input=QUESTION, max_output_tokens=TOKENS, temperature=0)
        return got.output_text, got.status, got.usage


def _messages(url: str) -> tuple[Any, ...]:
    body = {"model": "chat", "messages": MESSAGES, "max_tokens": TOKENS, "temperature": 0}
    got = httpx.post(f"{url}/v1/messages", json=body, timeout=60).raise_for_status().json()
    return got["content"], got["stop_reason"], got["usage"]


def _tokenize(url: str) -> tuple[Any, ...]:
    tokens = (
        httpx.post(f"{url}/tokenize", json={"model": "chat", "prompt": QUESTION}).raise_for_status().json()
    )
    body = {"model": "chat", "tokens": tokens["tokens"]}
    return tokens, httpx.post(f"{url}/detokenize", json=body).raise_for_status().json()


def _litellm(url: str) -> tuple[Any, ...]:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    asked = {"model": "hosted_vllm/chat", "api_base": f"{url}/v1", "messages": MESSAGES, "max_tokens": TOKENS}
    whole = litellm.completion(**asked, **GREEDY)
    chunks = list(litellm.completion(**asked, **GREEDY, stream=True, stream_options={"include_usage": True}))
    built = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    return tuple(
        (each.choices[0].message.content, each.usage.prompt_tokens, each.usage.completion_tokens)
        for each in (whole, built)
    )


def _langchain(url: str) -> tuple[Any, ...]:
    chat = langchain_openai.ChatOpenAI(
        model="chat", base_url=f"{url}/v1", api_key="none", max_retries=0, max_tokens=TOKENS, temperature=0
    )
    whole, pieces = chat.invoke(QUESTION), list(chat.stream(QUESTION))
    return whole.content, whole.usage_metadata, "".join(piece.content for piece in pieces)


@pytest.mark.parametrize(
    "ask",
    [_chat, _chat_stream, _completion, _responses, _messages, _tokenize, _litellm, _langchain],
    ids=lambda ask: ask.__name__.strip("_"),
)
def test_text_and_usage_are_those_of_a_direct_run(places: tuple[str, str], ask: Ask) -> None:
    direct, proxied = places
    assert ask(proxied) == ask(direct)


def test_vllms_own_benchmark_counts_the_same_tokens(
    places: tuple[str, str], vllm_python: str, tiny_models: Path, tmp_path: Path
) -> None:
    with ThreadPoolExecutor() as both:  # each imports vLLM first, which takes longer than its questions
        direct, proxied = both.map(
            lambda url: _bench_serve(url, vllm_python, tiny_models / "first", tmp_path), places
        )
    assert (direct["completed"], proxied["completed"]) == (16, 16)
    for count in ("total_input_tokens", "total_output_tokens"):
        assert proxied[count] == direct[count] > 0


#: `vllm bench serve` itself asks for the metadata of a distribution named `vllm`, which `vllm-cpu` is not.
_BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def _bench_serve(url: str, python: str, tokenizer: Path, folder: Path) -> dict[str, Any]:
    """`vllm bench serve` at one place: its own report."""
    name = f"{url.rpartition(':')[2]}.json"
    command = [python, "-c", _BENCH_SERVE, "--backend", "openai-chat"]
    command += ["--base-url", url, "--endpoint", "/v1/chat/completions", "--model", "chat"]
    command += ["--tokenizer", str(tokenizer), "--dataset-name", "random", "--random-input-len", "24"]
    command += ["--random-output-len", "8", "--num-prompts", "16", "--seed", "7", "--ignore-eos"]
    command += [
        "--max-concurrency",
        "4",
        "--save-result",
        "--result-dir",
        str(folder),
        "--result-filename",
        name,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    report: dict[str, Any] = json.loads((folder / name).read_text())
    return report
