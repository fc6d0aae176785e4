"""Do lm-evaluation-harness and Inspect run against the proxy unchanged, as they would against vLLM?

    .venv/bin/python -m bench.harnesses.run --lm-eval ENV/bin/lm_eval --inspect ENV/bin/inspect

Each harness has an environment of its own (`pip install "lm_eval[api]"`, `pip install inspect_ai openai`):
their pins and ours do not mix. The proxy and the controller are real processes, the engine is simulated and
knows the four answers; passing means that each harness exits with 0, scores all four as right, and that every
one of its requests is in the ledger.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.journey import eventually
from tests.stack import MODEL, Stack
from turnout.simulation import AnswerKey, Profile, running_engine

HERE = Path(__file__).parent
QUESTIONS = [json.loads(line) for line in (HERE / "capitals.jsonl").read_text().splitlines()]


def key(folder: Path) -> AnswerKey:
    """The simulated engine's answer key: the four answers."""
    path = folder / "key.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {
                    "id": f"c{number}",
                    "input": {"messages": [{"role": "user", "content": one["question"]}]},
                    "source": {"answer": one["answer"], "wrong_answer": "no idea"},
                }
            )
            + "\n"
            for number, one in enumerate(QUESTIONS)
        ),
        "utf-8",
    )
    return AnswerKey.read([path])


def ran(command: Sequence[str], cwd: Path, **environment: str) -> None:
    """Run a harness to its end; SystemExit with what it said if it fails."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TURNOUT_")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{command[0]} ends with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def lm_eval(program: str, base: str, folder: Path) -> float:
    """The share of right answers by lm-evaluation-harness."""
    text = (HERE / "capitals.yaml").read_text().replace("DATA", str(HERE / "capitals.jsonl"))
    (folder / "capitals.yaml").write_text(text)
    arguments = f"model={MODEL},base_url={base}/v1/chat/completions,num_concurrent=2,max_retries=1"
    ran(
        [
            *(program, "--model", "local-chat-completions", "--model_args", arguments),
            *("--tasks", "turnout_capitals", "--include_path", str(folder), "--apply_chat_template"),
            *("--output_path", str(folder / "lm"), "--log_samples"),
        ],
        folder,
        HF_HUB_OFFLINE="1",
        HF_HOME=str(folder / "hf"),
        OPENAI_API_KEY="unused",
    )
    [path] = (folder / "lm").rglob("results_*.json")
    found: Mapping[str, Any] = json.loads(path.read_text())["results"]["turnout_capitals"]
    return float(found["exact_match,none"])


def inspect(program: str, base: str, folder: Path) -> float:
    """The share of right answers by Inspect."""
    ran(
        [
            *(program, "eval", "inspect_capitals.py", "--model", f"openai-api/local/{MODEL}"),
            *("--log-dir", str(folder / "logs"), "--log-format", "json", "--display", "plain"),
        ],
        HERE,
        LOCAL_BASE_URL=f"{base}/v1",
        LOCAL_API_KEY="unused",
    )
    [path] = (folder / "logs").glob("*.json")
    log: Mapping[str, Any] = json.loads(path.read_text())
    if log["status"] != "success":
        sys.exit(f"inspect: {log['status']}: {(log.get('error') or {}).get('message')}")
    return float(log["results"]["scores"][0]["metrics"]["accuracy"]["value"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lm-eval", help="the program lm_eval of an environment that has it")
    parser.add_argument("--inspect", help="the program inspect of an environment that has it")
    given = parser.parse_args()
    harnesses = (("lm-eval", given.lm_eval, lm_eval), ("inspect", given.inspect, inspect))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stack = Stack(folder / "data", workers=1)
        with running_engine(Profile(name=MODEL), key=key(folder)) as engine, stack.up([engine.url]):
            for number, (title, program, share_of) in enumerate((h for h in harnesses if h[1]), start=1):
                share = share_of(program, stack.settings.proxy_address, folder)
                recorded(stack, number * len(QUESTIONS))
                print(f"{title}: {share:.0%} right, every request in the ledger")
                if share != 1.0:
                    sys.exit(1)


def recorded(stack: Stack, least: int) -> None:
    """Wait until so many exchanges are in the ledger."""
    eventually(lambda: len(stack.api.get("/api/exchanges")), within=20, until=lambda found: found >= least)


if __name__ == "__main__":
    main()
