"""`turnout golden import`, `export`, `add` as commands."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.evaluators.fakes import TOKEN, FakeTurnout, Reply, serving
from tests.evaluators.sets import row, write_set
from tests.evaluators.test_exchanges import exchange
from turnout.golden import golden
from turnout.golden_files import _append

FOREIGN = Path(__file__).parents[1] / "evaluators" / "foreign"


def invoke(*arguments: str, fake: FakeTurnout | None = None) -> Result:
    places = ["--control-url", fake.url, "--token", TOKEN] if fake else []
    return CliRunner().invoke(golden, [*arguments, *places], env={"COLUMNS": "200"})


def test_an_import_lists_what_it_does_not_take(tmp_path: Path) -> None:
    done = invoke(
        "import", str(FOREIGN / "capitals.jsonl"), "-f", "openai-evals", "-o", str(tmp_path / "set")
    )
    assert done.exit_code == 1
    assert "4 of 5 items, 4 checks written to" in done.stdout
    assert "capitals-5: item: not imported: no ideal" in done.stderr
    assert len((tmp_path / "set" / "items.jsonl").read_text().splitlines()) == 4


def test_a_dry_run_writes_nothing_and_json_lists_all(tmp_path: Path) -> None:
    table = [
        str(FOREIGN / "questions.csv"),
        "-f",
        "table",
        "-o",
        str(tmp_path / "set"),
        "--dry-run",
        "--json",
    ]
    done = invoke(
        "import", *table, "--map", "input=question", "--map", "reference=answer", "--check", "contains"
    )
    told = json.loads(done.stdout)
    assert (told["read"], told["items"]) == (3, 2)
    assert {one["field"] for one in told["refused"]} >= {"rating", "checks[0]"}
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["-f", "nonsense"],
        ["-f", "table", "--map", "question"],
        ["-f", "table", "--map", "input=question", "--check", "{"],
        ["-f", "table"],
    ],
)
def test_a_wrong_call_concludes_nothing(arguments: list[str], tmp_path: Path) -> None:
    done = invoke("import", str(FOREIGN / "questions.csv"), "-o", str(tmp_path / "set"), *arguments)
    assert done.exit_code == 3
    assert "Traceback" not in done.output


def test_a_stored_run_is_exported(tmp_path: Path) -> None:
    items = str(write_set(tmp_path / "set", [row("a"), row("b")]))
    with serving(lambda question, version: Reply(text="right")) as fake:
        places = ["--proxy-url", fake.url, "--control-url", fake.url, "--token", TOKEN]
        CliRunner().invoke(golden, ["run", items, "-m", "chat", "-v", "1", *places])
        [run] = fake.runs
        out = tmp_path / "junit.xml"
        done = invoke("export", items, "--run", run, "-f", "junit", "-o", str(out), fake=fake)
        assert done.exit_code == 0, done.output
        assert out.read_text().count("<testcase") == 2
        assert invoke("export", items, "--run", run, "-f", "word", fake=fake).exit_code == 3
        full = invoke("export", items, "--run", run, "-f", "junit", "-o", "/dev/full", fake=fake)
        assert (full.exit_code, full.stderr) == (3, "[Errno 28] No space left on device: '/dev/full'\n")
        elsewhere = invoke("export", items, "--run", "../../x", "-f", "junit", fake=fake)
        assert "'../../x' is no run's name" in elsewhere.stderr
        assert "'../x' is no exchange's name" in invoke("add", "../x", "--set", items, fake=fake).stderr


def test_an_exchange_becomes_an_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "set"
    with serving(lambda question, version: Reply(text="right")) as fake:
        answered = fake.get
        fake.redact = [r"order \d{4}"]
        monkeypatch.setattr(
            fake, "get", lambda path, query: exchange() if "exchanges" in path else answered(path, query)
        )
        add = ["add", "01JX", "--set", str(target), "--check", '{"type": "contains", "values": ["today"]}']
        done = invoke(*add, fake=fake)
        assert done.exit_code == 0, done.output
        assert "4 places blotted out" in done.stdout
        again = invoke(*add, fake=fake)
        assert again.exit_code == 3  # the id is taken: the file stays as it was
        assert invoke(*add, "--id", "second", "--tag", "orders", fake=fake).exit_code == 0
    rows = [json.loads(line) for line in (target / "items.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["exchange-01JX", "second"]
    assert "where is [redacted]?" in rows[0]["input"]["messages"][0]["content"], (
        "as the model's recording says"
    )


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTurnout]:
    with serving(lambda question, version: Reply(text="right")) as fake:
        answered = fake.get
        monkeypatch.setattr(
            fake, "get", lambda path, query: exchange() if "exchanges" in path else answered(path, query)
        )
        yield fake


def test_a_disk_that_fills_up_costs_the_new_item_and_none_of_the_old(
    recorded: FakeTurnout, tmp_path: Path
) -> None:
    items = write_set(tmp_path / "set", [row(f"q{n}") for n in range(20)]) / "items.jsonl"
    before = items.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, hard))
    try:
        done = invoke("add", "01JX", "--set", str(items.parent), fake=recorded)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.exit_code == 3, done.output
    assert items.read_bytes() == before


def test_items_that_are_added_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    items = tmp_path / "set" / "items.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: _append(items, row(f"q{n}")), range(40)))
    assert sorted(json.loads(line)["id"] for line in items.read_text().splitlines()) == sorted(
        f"q{n}" for n in range(40)
    )


def test_an_item_may_use_what_its_set_declares(recorded: FakeTurnout, tmp_path: Path) -> None:
    folder = write_set(
        tmp_path / "set", [row("a")], "evaluators: [own.py]\njudge: {provider: openai/gpt-4.1-mini}\n"
    )
    (folder / "own.py").write_text(
        "from evaluators.scorers import scorer\n\n@scorer('own', version='1')\n"
        "def own(item, output, options):\n    return True, 'fine'\n"
    )
    judge = '{"type": "judge", "rubric": "The answer is polite.", "gate": true}'
    add = ["add", "01JX", "--set", str(folder), "--check", "own", "--check", judge]
    assert invoke(*add, fake=recorded).exit_code == 0
    refused = invoke("add", "01JX", "--set", str(folder), "--id", "b", "--check", "nonsense", fake=recorded)
    assert refused.exit_code == 3
    assert "no scorer is called 'nonsense'" in refused.stderr
    assert len((folder / "items.jsonl").read_text().splitlines()) == 2


def test_half_an_emoji_in_a_question_is_shown_as_what_it_is(recorded: FakeTurnout, tmp_path: Path) -> None:
    cut = json.dumps({"messages": [{"role": "user", "content": "an emoji cut in two \ud83d"}]})
    recorded.get = lambda path, query: (  # type: ignore[method-assign]
        exchange(request=cut) if "exchanges" in path else {"redact": []}
    )
    done = invoke("add", "01JX", "--set", str(tmp_path / "set"), fake=recorded)
    assert done.exit_code == 0, done.output
    assert "an emoji cut in two \ufffd" in (tmp_path / "set" / "items.jsonl").read_text("utf-8")
