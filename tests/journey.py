"""One request's whole journey, and a version's: the same for the simulated engine and for a real vLLM.

`journey(turnout, fleet)` drives Turnout as its users do (the command, the OpenAI client, the control API) and
looks at what came of it where they would look. The engines differ between callers, nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from openai import APITimeoutError, OpenAI

from turnout.processes import free_port

T = TypeVar("T")
USERS = 40
TOKENS = 12
#: An answer that takes seconds: long enough to leave in its middle, and to see that it would not have ended.
LONG = 7000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Two engines that are up: base URLs of the first and the second version, and the name both serve."""

    first: str
    second: str
    served_name: str
    engine: str


def eventually(question: Callable[[], T], *, within: float, until: Callable[[T], object] = bool) -> T:
    """The first answer that `until` accepts; an AssertionError with the last one after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = question()
        if until(answer):
            return answer
        assert time.monotonic() < deadline, f"after {within} s still: {answer!r}"
        time.sleep(0.02)


class Turnout:
    """`turnout up` in a folder of its own, on ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.log = folder / "turnout.log"
        self.proxy = f"http://127.0.0.1:{free_port()}"
        self.control = f"http://127.0.0.1:{free_port()}"
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("TURNOUT_")},
            "TURNOUT_DATA": str(self.data),
            "TURNOUT_PROXY_PORT": self.proxy.rpartition(":")[2],
            "TURNOUT_PROXY_URL": self.proxy,
            "TURNOUT_CONTROL_PORT": self.control.rpartition(":")[2],
            "TURNOUT_CONTROL_URL": self.control,
            "TURNOUT_DASHBOARD_PORT": str(free_port()),
            "TURNOUT_WORKERS": "2",
            "COLUMNS": "200",
        }
        self.openai = OpenAI(base_url=f"{self.proxy}/v1", api_key="unused", max_retries=0, timeout=60)

    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("turnout")), *arguments]

    @contextmanager
    def up(self) -> Iterator[None]:
        """All processes, until they serve; stopped as Ctrl-C would stop them."""
        self.data.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                self.command("up"),
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            eventually(lambda: self._up(process), within=60)
            yield
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 0, self.log.read_text()[-3000:]
        finally:
            if process.poll() is None:  # a failed journey must leave no process behind
                process.terminate()
                try:
                    process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            self.openai.close()

    def _up(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.log.read_text()[-3000:]
        try:
            return (
                httpx.get(f"{self.control}/healthz").is_success
                and httpx.get(f"{self.proxy}/healthz").is_success
            )
        except httpx.HTTPError:
            return False

    def run(self, *arguments: str, code: int = 0) -> str:
        """One command to its end, which must be `code`; returns what it printed."""
        done = subprocess.run(
            self.command(*arguments),
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, f"turnout {' '.join(arguments)} exited with {done.returncode}\n{said}"
        return said

    def get(self, path: str) -> Any:
        answer = httpx.get(f"{self.control}{path}", timeout=10)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def ask(
        self, user: str, text: str = "Hello there", *, stream: bool = False, tokens: int = TOKENS
    ) -> Answer:
        """One chat request, as an application sends it."""
        answer = self.openai.chat.completions.with_raw_response.create(
            model="chat",
            user=user,
            messages=[{"role": "user", "content": text}],
            max_tokens=tokens,
            temperature=0,
            stream=stream,  # type: ignore[arg-type]
            extra_body={"ignore_eos": True},
        )
        if stream:
            pieces = [piece for piece in answer.parse() if piece.choices]
            said = "".join(piece.choices[0].delta.content or "" for piece in pieces)
            # how many is the engine's choice: one that is behind puts several tokens into one event
            assert pieces, "a stream has events"
        else:
            said = answer.parse().choices[0].message.content or ""
        return Answer(
            request_id=answer.headers["x-turnout-request-id"],
            version=int(answer.headers["x-turnout-model-version"]),
            arm=answer.headers.get("x-turnout-arm"),
            text=said,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    request_id: str
    version: int
    arm: str | None
    text: str


def journey(turnout: Turnout, fleet: Fleet) -> None:
    """Every step of the release of a second version. Each leaves the stage as the next expects it."""
    began = time.monotonic()
    for step in (
        registration,
        plain_traffic,
        an_ab_test,
        a_shadow,
        leaving_frees_the_engine,
        a_golden_run,
        promotion_and_rollback,
    ):
        step(turnout, fleet)
        # shown by pytest when a step fails, and by -s: which one, and how long each took
        sys.stdout.write(f"{step.__name__}: {time.monotonic() - began:.1f} s\n")
        began = time.monotonic()


def registration(turnout: Turnout, fleet: Fleet) -> None:
    for url, alias in ((fleet.first, "production"), (fleet.second, "candidate")):
        turnout.run(
            *("models", "register", "chat", "--replica", url, "--alias", alias),
            *("--served-name", fleet.served_name, "--engine", fleet.engine),
        )
    assert "chat" in turnout.run("models", "list")
    shown = turnout.run("models", "show", "chat")
    assert all(part in shown for part in ("production", "candidate", fleet.first, fleet.second))
    model = turnout.get("/api/models/chat")
    assert model["production"] == 1
    assert [one["endpoint"]["replicas"] for one in model["versions"]] == [[fleet.first], [fleet.second]]


def plain_traffic(turnout: Turnout, fleet: Fleet) -> None:
    """Production answers everyone, streaming or not, within a second of its registration."""
    eventually(lambda: _models(turnout), within=5, until=lambda known: "chat" in known)
    whole = turnout.ask("ada")
    streamed = turnout.ask("ada", stream=True)
    assert whole.text
    assert whole.text == streamed.text  # temperature 0
    assert (whole.version, streamed.version) == (1, 1)


def _models(turnout: Turnout) -> list[str]:
    try:
        return [model.id for model in turnout.openai.models.list()]
    except Exception:  # not ready yet: no snapshot
        return []


AB = """
experiment: journey-ab
model: chat
mode: ab
candidate: candidate
unit: user
traffic: {weight: 50}
metrics:
  success: [{metric: latency, mde: 5%}]
  guardrails: [{metric: error_rate, tolerated_ratio: 1.25}]
analysis: {horizon: 100000, looks: 5, min_duration: 1h, max_duration: 7d}
"""


def an_ab_test(turnout: Turnout, fleet: Fleet) -> None:
    """Half the users each; a user stays; what was used and when it began stands in the ledger."""
    _start(turnout, AB)
    answers: dict[str, Answer] = {}
    for number in range(USERS):
        user = f"user-{number}"
        whole, streamed = turnout.ask(user), turnout.ask(user, stream=True)
        assert (whole.version, whole.arm) == (streamed.version, streamed.arm), "a user stays where they are"
        answers[whole.request_id], answers[streamed.request_id] = whole, streamed
    arms = Counter((answer.arm, answer.version) for answer in answers.values())
    assert set(arms) == {("control", 1), ("candidate", 2)}
    # 40 fair coins fall below 8 or above 32 heads once in 10,000 times; these ones always fall the same way
    assert all(2 * 8 <= count <= 2 * 32 for count in arms.values()), arms

    rows = _exchanges(turnout, "journey-ab", len(answers))
    assert {row["exchange_id"] for row in rows} == set(answers), "every answered request once"
    for row in rows:
        answer = answers[row["exchange_id"]]
        assert (row["assigned_arm"], row["served_arm"]) == (answer.arm, answer.arm)
        assert row["outcome"] == "length"
        assert row["completion_tokens"] == TOKENS
        assert row["prompt_tokens"] > 0
        assert (row["ttft_ms"] is not None) == row["stream"]
        assert not row["stream"] or 0 < row["ttft_ms"] <= row["duration_ms"]
    # the controller looks once a second: its count follows the rows
    view = eventually(
        lambda: turnout.get("/api/experiments/journey-ab"),
        within=15,
        until=lambda found: found["units"] == USERS,
    )
    assert view["verdict"]["kind"] == "keep_running"  # far from its horizon: no result is a result
    assert "journey-ab" in turnout.run("experiment", "status", "journey-ab")
    assert "journey-ab" in turnout.run("experiment", "list")
    turnout.run("experiment", "stop", "journey-ab")
    eventually(lambda: turnout.ask("user-0").arm, within=2, until=lambda arm: arm is None)


def _start(turnout: Turnout, spec: str) -> None:
    name = spec.partition("experiment: ")[2].split()[0]
    file = turnout.data.parent / f"{name}.yaml"
    file.write_text(spec)
    turnout.run("experiment", "start", str(file))
    assert turnout.get(f"/api/experiments/{name}")["state"] == "running"


def _exchanges(turnout: Turnout, experiment: str, count: int) -> list[dict[str, Any]]:
    """The primary exchanges of an experiment, once `count` of them have been collected."""
    return eventually(
        lambda: [
            row
            for row in turnout.get(f"/api/exchanges?experiment={experiment}&limit=500")
            if row["role"] == "primary"
        ],
        within=10,
        until=lambda rows: len(rows) >= count,
    )


SHADOW = """
experiment: journey-shadow
model: chat
mode: shadow
candidate: candidate
unit: user
traffic: {share: 100, tools: skip, max_in_flight: 16}
metrics:
  guardrails: [{metric: error_rate, tolerated_ratio: 1.25}]
analysis: {horizon: 100000, looks: 5, max_duration: 7d}
"""


def a_shadow(turnout: Turnout, fleet: Fleet) -> None:
    """Everyone gets production's answer; the candidate's stands beside it, in a pair."""
    _start(turnout, SHADOW)
    asked = {f"Tell me about item {number}": f"user-{number}" for number in range(10)}
    answers = {text: turnout.ask(user, text, stream=len(text) % 2 == 0) for text, user in asked.items()}
    assert {answer.version for answer in answers.values()} == {1}
    pairs = eventually(
        lambda: turnout.get("/api/experiments/journey-shadow/pairs?limit=50"),
        within=10,
        until=lambda page: page["total"] >= len(asked),
    )["pairs"]
    assert {pair["pair_id"] for pair in pairs} == {answer.request_id for answer in answers.values()}
    for pair in pairs:
        answer = next(one for one in answers.values() if one.request_id == pair["pair_id"])
        assert answers[_question(pair["prompt"])] == answer
        assert (pair["control"]["version"], pair["candidate"]["version"]) == (1, 2)
        assert pair["control"]["text"] == answer.text
        assert pair["candidate"]["text"]
        assert pair["candidate"]["completion_tokens"] == TOKENS
    turnout.run("experiment", "stop", "journey-shadow")


def _question(prompt: str) -> str:
    return next(text for number in reversed(range(10)) if (text := f"Tell me about item {number}") in prompt)


def leaving_frees_the_engine(turnout: Turnout, fleet: Fleet) -> None:
    """A client that goes away, in mid-stream or while it waits for a whole answer, stops the work at once."""
    made = _counted(fleet.first, "generation_tokens_total")
    stream = turnout.openai.chat.completions.create(
        model="chat",
        user="ada",
        messages=[{"role": "user", "content": "Go on"}],
        max_tokens=LONG,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    pieces = iter(stream)
    assert next(pieces).choices, "the first event comes while the rest is still being made"
    running = "num_requests_running"
    eventually(lambda: _counted(fleet.first, running), within=5, until=lambda count: count == 1)
    stream.close()
    _stops(fleet, made)

    made, began = _counted(fleet.first, "generation_tokens_total"), time.monotonic()
    try:
        turnout.openai.with_options(timeout=1.5).chat.completions.create(
            model="chat",
            user="ada",
            messages=[{"role": "user", "content": "Go on"}],
            max_tokens=LONG,
            extra_body={"ignore_eos": True},
        )
    except APITimeoutError:
        _stops(fleet, made)
    else:
        raise AssertionError(
            f"{LONG} tokens in {time.monotonic() - began:.1f} s: too fast to leave in the middle"
        )
    eventually(
        lambda: turnout.get("/api/exchanges?outcome=client_gone&limit=10"),
        within=10,
        until=lambda rows: len(rows) == 2,
    )


def _stops(fleet: Fleet, made: float) -> None:
    """The first engine works at nothing, and not all of the answer was made since it had `made` tokens."""
    eventually(lambda: _at_work(fleet), within=5, until=lambda count: count == 0)
    assert _counted(fleet.first, "generation_tokens_total") - made < LONG


def _at_work(fleet: Fleet) -> float:
    """How many requests the first engine works at. vLLM counts when it computes: it is given a token to make,
    so that the count is not that of the last step before a request was taken away."""
    body = {"model": fleet.served_name, "prompt": "Hello", "max_tokens": 1}
    httpx.post(f"{fleet.first}/v1/completions", json=body, timeout=30).raise_for_status()
    return _counted(fleet.first, "num_requests_running")


def _counted(url: str, metric: str) -> float:
    """A metric of vLLM's, as the engine itself counts."""
    lines = httpx.get(f"{url}/metrics", timeout=5).text.splitlines()
    values = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:{metric}{{")]
    assert values, f"the engine has no metric vllm:{metric}"
    return sum(values)


def a_golden_run(turnout: Turnout, fleet: Fleet) -> None:
    """Both versions say something; that is all that can be asked of noise, and it is asked of 60 items.

    Noise may be an end at once: `min_tokens` forbids it."""
    folder = turnout.data.parent / "goldens" / "says-something"
    folder.mkdir(parents=True)
    (folder / "set.yaml").write_text("name: says-something\ndescription: The journey's own.\nmargin: 0.2\n")
    with (folder / "items.jsonl").open("w") as file:
        for number in range(60):
            item = {
                "id": f"item-{number}",
                "input": {
                    "messages": [{"role": "user", "content": f"Say something about {number}"}],
                    "params": {"max_tokens": TOKENS, "min_tokens": TOKENS, "temperature": 0},
                },
                "checks": [{"type": "regex", "pattern": r"\S"}],
                "source": {"kind": "written"},
                "added": "2026-11-01",
            }
            file.write(json.dumps(item) + "\n")
    turnout.run("golden", "run", str(folder), "--model", "chat", "--version", "candidate")
    turnout.run("golden", "compare", str(folder), "--model", "chat", "--candidate", "candidate")
    runs = turnout.get("/api/golden/runs?model=chat")
    assert {(run["version"], run["status"]) for run in runs} == {(1, "complete"), (2, "complete")}
    assert all(run["mlflow_run_id"] for run in runs)
    assert [one["verdict"] for one in turnout.get("/api/golden/comparisons?model=chat")] == ["pass"]


def promotion_and_rollback(turnout: Turnout, fleet: Fleet) -> None:
    """Refused without a verdict, done with a reason, taken back; each at once and on every worker."""
    refused = turnout.run("promote", "chat", "--version", "2", code=1)
    assert "--force" in refused
    assert {turnout.ask(f"user-{number}").version for number in range(8)} == {1}

    turnout.run("promote", "chat", "--version", "2", "--force", "--reason", "the journey says so")
    assert {turnout.ask(f"user-{number}").version for number in range(8)} == {2}
    assert turnout.get("/api/models/chat")["production"] == 2

    turnout.run("rollback", "chat", "--reason", "and back")
    assert {turnout.ask(f"user-{number}").version for number in range(8)} == {1}
    turnout.run("rollback", "chat", "--reason", "and back")  # safe to repeat
    assert turnout.get("/api/models/chat")["production"] == 1

    decisions = [
        (row["action"], row["from_version"], row["to_version"], row["forced"], row["reason"])
        for row in turnout.get("/api/decisions?model=chat&limit=100")
        if row["action"] in ("promote", "rollback")
    ]
    assert ("promote", 1, 2, True, "the journey says so") in decisions
    assert ("rollback", 2, 1, False, "and back") in decisions
