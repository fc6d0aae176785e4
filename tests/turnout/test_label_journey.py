"""A judge that leans, through real processes: it lets nothing through until people have labelled what was
drawn, and then what they said counts and not what it says. The labeller sits at a real terminal (a pty)."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.evaluators.sets import row, write_set
from tests.stack import Stack
from turnout.golden import golden

ITEMS = 60
SET_YAML = "judge: {model: examiner}\nmargin: 0.15\nname: mine\n"
CHECKS = [
    {"type": "length", "max": 1000},
    {"type": "judge", "key": "kind", "rubric": "It helps.", "gate": True},
]

Says = Callable[[str], str]


def control(question: str) -> str:
    return f"{question}: good advice"


def as_good(question: str) -> str:
    """Says it otherwise, and as well."""
    return f"{question}: kindly, good advice"


def worse(question: str) -> str:
    """Polite, and useless two times in three: whichever 30 of the 60 are drawn, enough of them are."""
    return f"{question}: kindly, {'bad' if int(question[1:]) % 3 else 'good'} advice"


def examiner(question: str) -> str:
    """Likes whatever is said kindly, be it good or bad; and nine of ten of the good answers that are not."""
    number = re.search(r'"call": "([0-9a-f]{16})"', question)
    text = re.search(r'"(q\d+): (.*?) advice"', question)
    assert number
    assert text
    grade = "pass" if "kindly" in text[2] or not text[1].endswith("7") else "fail"
    return json.dumps({"call": number[1], "reason": "Because.", "grade": grade})


@contextmanager
def engine(says: Says) -> Iterator[str]:
    """An engine at an address of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Silent."""

        def do_GET(self) -> None:
            self._send({"object": "list", "data": [{"id": "chat", "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            message = {"role": "assistant", "content": says(body["messages"][-1]["content"])}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
            self._send({"object": "chat.completion", "choices": [choice], "usage": usage})

        def _send(self, value: Any) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Stack]:
    """chat: production 1, as good 2, worse 3; and the model examiner."""
    data = tmp_path_factory.mktemp("labels") / "data"
    with engine(control) as one, engine(as_good) as two, engine(worse) as three, engine(examiner) as judge:
        with Stack(data, workers=1, mlflow=empty_database).up([one, two, three]) as running:
            running.register(judge, model="examiner")
            yield running


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [row(f"q{n}", checks=CHECKS) for n in range(ITEMS)]
    return str(write_set(tmp_path_factory.mktemp("set") / "mine", rows, SET_YAML))


class Terminal:
    """`turnout ...` at a pty, and what it has shown so far."""

    def __init__(self, stack: Stack, *arguments: str) -> None:
        self.end, far = pty.openpty()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TURNOUT_")}
        environment |= {
            "TURNOUT_DATA": str(stack.data),
            "TURNOUT_CONTROL_PORT": str(stack.settings.control_port),
            "TERM": "xterm",
        }
        command = [str(Path(sys.executable).with_name("turnout")), *arguments]
        self.process = subprocess.Popen(
            command, stdin=far, stdout=far, stderr=far, env=environment, start_new_session=True
        )
        os.close(far)
        self.shown = ""

    def screen(self, end: str = "[q] end", within: float = 30.0) -> str | None:
        """The next screen, once it has come; None when the program has ended."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            ready, _, _ = select.select([self.end], [], [], 0.2)
            if ready:
                try:
                    part = os.read(self.end, 65536)
                except OSError:  # Linux: the other end is closed
                    return None
                if not part:
                    return None
                self.shown += part.decode("utf-8", "replace")
            if end in self.shown:
                found, _, self.shown = self.shown.partition(end)
                return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", found)
        raise AssertionError(f"no screen came; there is {self.shown!r}")

    def press(self, key: str) -> None:
        os.write(self.end, key.encode())

    def close(self) -> int:
        """Its exit code."""
        code = self.process.wait(30)
        os.close(self.end)
        return code


def label(stack: Stack, items: str, candidate: str, *, most: int = 1000, name: str = "ann") -> list[str]:
    """Grade what is asked, by what the answers say, until `most` are graded; the screens."""
    terminal = Terminal(stack, "golden", "label", items, "-m", "chat", "-c", candidate, "--labeller", name)
    screens: list[str] = []
    while (screen := terminal.screen()) is not None:
        if len(screens) == most:
            terminal.press("q")
            continue
        screens.append(screen)
        terminal.press("2" if "good advice" in screen else "1")
    assert terminal.close() == 0, terminal.shown
    return screens


def command(stack: Stack, *arguments: str, proxied: bool = False) -> Result:
    """`turnout golden ...` in this process: starting one takes seconds."""
    places = ["--control-url", stack.settings.control_address, "--token", stack.settings.read_token() or ""]
    places += ["--proxy-url", stack.settings.proxy_address] if proxied else []
    return CliRunner().invoke(golden, [*arguments, *places])


def compare(stack: Stack, items: str, candidate: str) -> tuple[int, dict[str, Any]]:
    done = command(stack, "compare", items, "-m", "chat", "-c", candidate, "--json", proxied=True)
    assert done.stdout, done.output
    return done.exit_code, json.loads(done.stdout)


def test_a_judge_decides_nothing_before_people_have_labelled_what_was_drawn(stack: Stack, items: str) -> None:
    code, found = compare(stack, items, "2")
    assert code == 2
    assert "gates once people have labelled 30 drawn items, of which 30 are missing" in found["sentence"]
    [made] = stack.api.get("/api/golden/comparisons", {"model": "chat", "candidate_version": 2, "limit": 1})
    of = {"control_run": made["control_run"], "candidate_run": made["candidate_run"], "evaluator": "kind"}
    sheet = stack.api.get("/api/golden/worksheet", of)
    assert (sheet["open"], sheet["items"], len(sheet["tasks"])) == (60, 60, 120), "for the dashboard"

    first = label(stack, items, "2", most=10)
    assert not any("version" in screen or "Because" in screen for screen in first)
    assert compare(stack, items, "2")[0] == 2, "a sample that is not whole says nothing"
    rest = label(stack, items, "2")
    assert len(first) == 10
    assert len(rest) == 50, "30 items, two answers each, and none asked twice"

    code, found = compare(stack, items, "2")
    assert code == 0, found["sentence"]
    [judged] = found["labels"]
    assert (judged["labelled"], judged["drawn"], judged["open"], judged["labellers"]) == (30, 30, 60, ["ann"])
    assert judged["effect"]["estimate"] == pytest.approx(0.0, abs=0.02), "the judge's leaning is taken out"
    own = next(one for one in found["metrics"] if one["evaluator"] == "kind")
    assert own["effect"]["estimate"] == pytest.approx(0.1)


def test_what_people_say_fails_a_candidate_that_the_judge_prefers(stack: Stack, items: str) -> None:
    code, found = compare(stack, items, "3")
    own = next(one for one in found["metrics"] if one["evaluator"] == "kind")
    assert (code, own["effect"]["estimate"]) == (2, pytest.approx(0.1)), "by the judge it is better"
    label(stack, items, "3")
    code, found = compare(stack, items, "3")
    assert code == 1, found["sentence"]
    assert found["labels"][0]["effect"]["upper"] < -0.2
    assert "the judge alone says +10.0 points" in found["sentence"]
    assert found["labels"][0]["agreement"]["kappa"] < 0.4


def test_a_second_labeller_by_worksheet(stack: Stack, items: str, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    asked = ["label", items, "-m", "chat", "-c", "3", "--labeller", "bob"]
    assert command(stack, *asked).exit_code == 3, "no terminal, no worksheet"
    assert command(stack, *asked, "--out", str(sheet)).exit_code == 0
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = [{**found, "grade": "pass"} for found in csv.DictReader(file)]
    with sheet.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows([*rows, {**rows[0], "task": "made up"}])
    done = command(stack, *asked, "--from", str(sheet))
    assert done.exit_code == 1
    assert "row 61: no task of this draw" in done.output
    _, found = compare(stack, items, "3")
    [pair] = found["labels"][0]["among"]
    assert (pair["raters"], pair["n"]) == (["ann", "bob"], 60)
    assert pair["raw"] < 1.0
    assert command(stack, *asked).exit_code == 0, "nothing waits for bob"
