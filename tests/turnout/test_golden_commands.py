from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from typer.testing import CliRunner, Result

from evaluators.ledger import GoldenLedger
from tests.evaluators.fakes import TOKEN, FakeTurnout, Reply, serving
from tests.evaluators.sets import row, write_set
from turnout import preflight_command
from turnout.golden import golden

ITEMS = 60


def right(question: str, version: int) -> Reply:
    return Reply(text="right")


def candidate_fails_a_third(question: str, version: int) -> Reply:
    return Reply(text="wrong" if version == 2 and int(question[1:]) % 3 == 0 else "right")


def invoke(
    fake: FakeTurnout, *arguments: str, token: str = TOKEN, environment: Mapping[str, str] | None = None
) -> Result:
    places = ["--proxy-url", fake.url, "--control-url", fake.url, "--token", token]
    given = {"COLUMNS": "200", **(environment or {})}
    return CliRunner().invoke(golden, [*arguments, *places], env=given)


@pytest.fixture
def items(tmp_path: Path) -> str:
    return str(
        write_set(tmp_path / "set", [row(f"q{n}") for n in range(ITEMS)], "name: mine\nmargin: 0.06\n")
    )


def test_a_candidate_as_good_as_production_passes(items: str) -> None:
    with serving(right) as fake:
        result = invoke(fake, "compare", items, "--model", "chat", "--candidate", "candidate")
    assert result.exit_code == 0, result.output
    assert "Pass: 100.0 % of 60 items pass" in result.stdout
    [saved] = fake.comparisons
    assert (saved["verdict"], saved["control_version"], saved["candidate_version"]) == ("pass", 1, 2)
    assert {run["status"] for run in fake.runs.values()} == {"complete"}
    assert all(len(rows) == ITEMS for rows in fake.rows.values())


def test_a_worse_candidate_fails_and_is_shown_item_by_item(items: str) -> None:
    with serving(candidate_fails_a_third) as fake:
        result = invoke(fake, "compare", items, "-m", "chat", "-c", "2", "--control", "1")
    assert result.exit_code == 1
    assert "Fail: 66.7 % of 60 items pass with the candidate, 100.0 % with the control" in result.stdout
    assert "q3" in result.stdout
    assert "... and 10 more (--all lists them)" in result.stdout


def test_ci_gets_the_verdict_and_what_newly_fails(tmp_path: Path) -> None:
    """What production fails as well is no news to CI, and no failure of the candidate's."""

    def answers(question: str, version: int) -> Reply:
        number = int(question[1:])
        return Reply(text="wrong" if number < 5 or (version == 2 and number % 3 == 0) else "right")

    items = str(
        write_set(tmp_path / "set", [row(f"q{n}") for n in range(ITEMS)], "name: mine\nmargin: 0.06\n")
    )
    file = tmp_path / "reports" / "junit.xml"
    with serving(answers) as fake:
        result = invoke(fake, "compare", items, "-m", "chat", "-c", "2", "--junit", str(file))
        alone = invoke(fake, "run", items, "-m", "chat", "-v", "1", "--junit", str(tmp_path / "run.xml"))
    assert (result.exit_code, alone.exit_code) == (1, 0)
    suite = Xml.parse(file).find("testsuite")
    assert suite is not None
    verdict, *cases = suite.findall("testcase")
    assert verdict.get("name") == "verdict"
    failure = verdict.find("failure")
    assert failure is not None
    assert (failure.get("message") or "").startswith("Fail:")
    failing = [case.get("name") for case in cases if case.find("failure") is not None]
    assert failing == [f"q{n} exact" for n in range(5, ITEMS) if n % 3 == 0]
    assert suite.get("failures") == str(len(failing) + 1)
    assert suite.get("skipped") == "5"
    run_suite = Xml.parse(tmp_path / "run.xml").find("testsuite")
    assert run_suite is not None
    assert run_suite.get("failures") == "5"


def test_too_few_items_are_inconclusive(tmp_path: Path) -> None:
    small = str(write_set(tmp_path, [row("a"), row("b")]))
    with serving(right) as fake:
        result = invoke(fake, "compare", small, "-m", "chat", "-c", "candidate")
    assert result.exit_code == 2
    assert "more items" in result.stdout


def judging(question: str, version: int) -> Reply:
    """The versions under test, and the model `examiner`, which likes the longer answer."""
    call = re.search(r'with "call": "([0-9a-f]{16})"', question)
    if call is None:
        return Reply(text="right" + "!" * version)
    first, second = re.findall(r'"right(!+)"', question)
    grade = "first" if len(first) > len(second) else "second"
    return Reply(text=json.dumps({"call": call[1], "reason": "It is longer.", "grade": grade}))


def test_a_judge_of_pairs_is_asked_in_both_orders_and_once(tmp_path: Path) -> None:
    checks = [{"type": "contains", "values": ["right"]}, {"type": "pairwise"}]
    rows = [row(f"q{n}", checks=checks) for n in range(ITEMS)]
    folder = write_set(tmp_path, rows, "judge: {model: examiner}\nmargin: 0.06\n")
    with serving(judging) as fake:
        compare = ["compare", str(folder), "-m", "chat", "-c", "candidate"]
        environment = {"TURNOUT_DATA": str(tmp_path / "data")}
        first = invoke(fake, *compare, environment=environment)
        assert first.exit_code == 0, first.output
        assert len(fake.asked) == 2 * ITEMS + 2 * ITEMS
        assert f"pairwise: {ITEMS} preferred, 0 ties, 0 not; examiner@1 changed its mind" in first.stdout
        again = invoke(fake, *compare, environment=environment)
        assert len(fake.asked) == 4 * ITEMS, "what was judged is not judged again"
        assert f"pairwise: {ITEMS} preferred" in again.stdout
        lost = invoke(fake, *compare[:-1], "production", "--control", "candidate", environment=environment)
        assert f"0 preferred, 0 ties, {ITEMS} not" in lost.stdout
        assert "both orders: control. It is longer." in lost.stdout
    found = fake.comparisons[0]["result"]
    [told] = found["preferences"]["checks"]
    assert (told["wins"], told["flips"], len(found["preferences"]["pairs"])) == (ITEMS, 0, ITEMS)


def test_stored_runs_are_reused_unless_asked_otherwise(items: str) -> None:
    with serving(right) as fake:
        compare = ["compare", items, "-m", "chat", "-c", "candidate"]
        invoke(fake, *compare)
        again = invoke(fake, *compare)
        assert len(fake.asked) == 2 * ITEMS
        when = "reused, of 2026-11-28 08:12 UTC"
        assert f"version 1: {when}, version 2: {when}" in " ".join(again.stdout.split())
        invoke(fake, *compare, "--fresh")
        assert len(fake.asked) == 4 * ITEMS
        invoke(fake, *compare, "--repeats", "2")
        assert len(fake.asked) == 8 * ITEMS


def test_one_that_was_begun_anew_and_stopped_is_gone_on_with(items: str) -> None:
    """Who said --fresh wanted other answers than those that are there."""
    with serving(right) as fake:
        compare = ["compare", items, "-m", "chat", "-c", "candidate"]
        invoke(fake, *compare)
        invoke(fake, *compare, "--fresh")
        stopped = list(fake.runs)[-1]
        fake.runs[stopped]["status"] = "partial"
        fake.rows[stopped].popitem()
        before = len(fake.asked)
        again = invoke(fake, *compare)
        assert len(fake.asked) == before + 1
        assert fake.runs[stopped]["status"] == "complete"
        assert "version 2: resumed, of" in " ".join(again.stdout.split())
        fake.runs[stopped]["status"] = "running"  # perhaps somebody else's, at this moment
        invoke(fake, *compare)
        assert len(fake.asked) == before + 1


def test_a_run_says_how_it_went_and_gates_on_the_sets_floor(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [row(f"q{n}") for n in range(ITEMS)], "name: mine\nmin_pass_rate: 0.9\n")
    with serving(candidate_fails_a_third) as fake:
        good = invoke(fake, "run", str(folder), "-m", "chat", "-v", "production")
        bad = invoke(fake, "run", str(folder), "-m", "chat", "-v", "candidate", "--json")
    assert good.exit_code == 0
    assert "Pass: 60 of 60 answers passed (100.0 %), at or above the floor of 90.0 %." in good.stdout
    assert bad.exit_code == 1
    told = json.loads(bad.stdout)
    assert (told["version"], told["passed"], told["gate"]) == (2, 40, "fail")
    assert fake.runs[told["run_id"]]["summary"]["metrics"]["pass_rate"] == pytest.approx(2 / 3)


def test_a_run_cut_short_goes_on_where_it_stopped(items: str) -> None:
    broken = True

    def answer(question: str, version: int) -> Reply:
        if broken and question == "q40":
            return Reply(status=404, refused=True)
        return Reply(text="right")

    with serving(answer) as fake:
        first = invoke(fake, "run", items, "-m", "chat", "-v", "1", "--concurrency", "2")
        assert first.exit_code == 3
        assert "refuses the questions to chat version 1 with 404" in first.stderr
        [run] = fake.runs.values()
        assert run["status"] == "partial"
        broken = False
        second = invoke(fake, "run", items, "-m", "chat", "-v", "1", "--concurrency", "2")
    assert second.exit_code == 0
    assert "(resumed, of 20" in second.stdout
    assert len(fake.runs) == 1
    doubled = {question for (question, _), times in fake.times_asked().items() if times > 1}
    assert len(doubled - {"q40"}) <= 1  # of two at a time, the other one was in flight
    assert len(fake.rows[run["run_id"]]) == ITEMS


@pytest.mark.parametrize(("options", "end"), [([], "from there."), (["--fresh"], "but without --fresh.")])
def test_a_stopped_run_says_which_command_goes_on_with_it(
    items: str, options: list[str], end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uvloop.run", lambda asked: (asked.close(), os.kill(os.getpid(), signal.SIGINT)))
    with serving(right) as fake:
        result = invoke(fake, "run", items, "-m", "chat", "-v", "1", *options)
    assert result.exit_code == 3
    assert result.stderr.strip().endswith(end)


def test_a_stopped_preflight_says_that_it_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncio.run", lambda asked: (asked.close(), os.kill(os.getpid(), signal.SIGINT)))
    monkeypatch.setattr(preflight_command, "_sides", lambda *_: (None, None))
    arguments = ["chat", "-c", "2", "--token", TOKEN]
    result = CliRunner().invoke(preflight_command.preflight_app, arguments)
    assert result.exit_code == 3
    assert result.stderr == "Stopped. Nothing of it is stored: the same command begins anew.\n"


def test_overload_is_missing_and_so_inconclusive(items: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluators.pacing.Retry.wait_s", lambda *args: 0.001)
    with serving(lambda q, v: Reply(status=503) if q in ("q1", "q2") else Reply(text="right")) as fake:
        result = invoke(fake, "run", items, "-m", "chat", "-v", "1")
    assert result.exit_code == 2
    assert "2 of 60 answers have no score" in result.stdout


def test_a_ledger_away_for_a_moment_loses_nothing(items: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluators.ledger._PATIENCE_S", (0.01, 0.01))
    monkeypatch.setattr("evaluators.ledger.time.sleep", lambda seconds: None)
    with serving(right, fail_results=2) as fake:
        result = invoke(fake, "run", items, "-m", "chat", "-v", "1")
    assert result.exit_code == 0, result.output
    assert [len(rows) for rows in fake.rows.values()] == [ITEMS]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["compare", "{set}", "-m", "chat"], "--candidate"),
        (["compare", "{set}", "-m", "chat", "-c", "candidate", "--repeats", "0"], "repeats"),
        (
            ["compare", "{set}", "-m", "chat", "-c", "9"],
            "chat has no version '9'; there are 1/production, 2/candidate",
        ),
        (["compare", "{set}", "-m", "chat", "-c", "production"], "are the same version 1"),
        (["run", "/nowhere", "-m", "chat", "-v", "1"], "No such file"),
        (["compare", "{set}", "-m", "../x", "-c", "2"], "'../x' is no model's name"),
        (["compare", "{set}", "-m", "a\nb", "-c", "2"], "is no model's name"),
        (["run", "{set}", "-m", "chat", "-v", "1", "--api-key", "a\nb"], "the API key has characters"),
    ],
)
def test_nothing_concluded_exits_with_3(items: str, arguments: list[str], told: str) -> None:
    with serving(right) as fake:
        result = invoke(fake, *[argument.replace("{set}", items) for argument in arguments])
    assert result.exit_code == 3
    assert told in result.stderr
    assert fake.asked == []


@pytest.mark.parametrize("origin", ["--token", "TURNOUT_TOKEN", "token"])
@pytest.mark.parametrize("refuses", ["controller", "proxy"])
def test_a_refused_token_is_told_with_where_it_came_from(
    items: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str, refuses: str
) -> None:
    monkeypatch.delenv("TURNOUT_TOKEN", raising=False)
    (tmp_path / "token").write_text("wrong" if origin == "token" else TOKEN)
    given = ["--token", "wrong"] if origin == "--token" else []
    environment: dict[str, Any] = {"TURNOUT_DATA": str(tmp_path)}
    environment |= {"TURNOUT_TOKEN": "wrong"} if origin == "TURNOUT_TOKEN" else {}
    with serving(right) as fake:
        if refuses == "proxy":  # of another installation than the controller
            monkeypatch.setattr("tests.evaluators.fakes._Handler.do_POST", _unguarded)
        places = ["--proxy-url", fake.url, "--control-url", fake.url, *given]
        arguments = ["run", items, "-m", "chat", "-v", "1", *places]
        done = CliRunner().invoke(golden, arguments, env=environment)
    assert done.exit_code == 3
    where = str(tmp_path / "token") if origin == "token" else origin
    assert f"here the token comes from {where}" in done.stderr


def _unguarded(self: Any) -> None:
    """The controller takes any token, and the proxy does not."""
    body = json.loads(self.rfile.read(int(self.headers["content-length"])))
    if self.path == "/v1/chat/completions":
        self._chat(body)
    else:
        self._json(200, self.server.fake.post(self.path, body))


def test_a_service_that_is_away_is_named(items: str, tmp_path: Path) -> None:
    with serving(right) as gone:
        pass
    with serving(right) as fake:
        away = ["--proxy-url", gone.url, "--control-url", fake.url, "--token", TOKEN]
        no_proxy = CliRunner().invoke(golden, ["run", items, "-m", "chat", "-v", "1", *away])
    no_control = invoke(gone, "run", items, "-m", "chat", "-v", "1")
    environment: dict[str, Any] = {"TURNOUT_DATA": str(tmp_path / "none"), "TURNOUT_TOKEN": None}
    no_token = CliRunner().invoke(golden, ["run", items, "-m", "chat", "-v", "1"], env=environment)
    assert [no_proxy.exit_code, no_control.exit_code, no_token.exit_code] == [3, 3, 3]
    assert "reached nobody" in no_proxy.stderr
    assert "no controller answers at" in no_control.stderr
    assert "give --token" in no_token.stderr


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("{} | true; exit ${{PIPESTATUS[0]}}", 0, ""),
        ("{} > /dev/full", 3, "stdout cannot be written: No space left on device"),
        ("{} >&-", 0, ""),
    ],
)
def test_who_reads_the_result_changes_no_verdict(items: str, shell: str, code: int, said: str) -> None:
    with serving(right) as fake:
        places = ["--proxy-url", fake.url, "--control-url", fake.url, "--token", TOKEN]
        compare = ["compare", items, "-m", "chat", "-c", "2", *places]
        command = shlex.join([sys.executable, "-m", "turnout.cli", "golden", *compare])
        ended = subprocess.run(["bash", "-c", shell.format(command)], capture_output=True, text=True)
    assert (ended.returncode, "Traceback" in ended.stderr) == (code, False), ended.stderr
    assert said in ended.stderr


def test_a_fault_is_no_verdict(items: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GoldenLedger, "subject", lambda *_: {}["versions"])
    with serving(right) as fake:
        result = invoke(fake, "compare", items, "-m", "chat", "-c", "2")
    assert (result.exit_code, "KeyError" in result.stderr) == (3, True)


def test_a_full_disk_is_told_with_the_file(items: str, tmp_path: Path) -> None:
    with serving(right) as fake:
        places = ["--proxy-url", fake.url, "--control-url", fake.url, "--token", TOKEN]
        compare = ["compare", items, "-m", "chat", "-c", "2", *places]
        command = shlex.join([sys.executable, "-m", "turnout.cli", "golden", *compare])
        ended = subprocess.run(
            ["bash", "-c", f"ulimit -f 1; {command}"],
            capture_output=True,
            text=True,
            env={**os.environ, "TURNOUT_DATA": str(tmp_path / "data")},
        )
    assert ended.returncode == 3, ended.stderr
    assert str(tmp_path / "data" / "golden") in ended.stderr
