"""The operator's file of what is done by itself, and what follows from it; with a fake control API."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from evaluators.__main__ import Loops, _run, main
from evaluators.automation import Automation, OnlineRule, read_automation
from evaluators.errors import EvaluatorUnusable, GoldenSetError, ModelRefused, ModelUnavailable
from evaluators.ledger import UnknownVersion
from evaluators.models import ModelReply, Services
from evaluators.online import OnlineScorer
from evaluators.versiongate import Access, VersionGate, waiting
from experiments.client import ControlError

from .sets import SUPPORT, write_set
from .sets import row as item

FILE = """
gate:
  chat: {set: goldens/support, accept: [template]}
online:
  - {name: short, model: chat, checks: [{type: length, max: 20}, {type: contains, values: [hi]}], rate: 0.5}
"""


def written(folder: Path, text: str) -> Automation:
    path = folder / "evaluators.yaml"
    path.write_text(text, "utf-8")
    return read_automation(path)


def rule(folder: Path, **fields: Any) -> OnlineRule:
    entry = {"name": "short", "model": "chat", "checks": [{"type": "length", "max": 20}], "rate": 1.0}
    return written(folder, json.dumps({"online": [entry | fields]})).online[0]


def loops(folder: Path) -> Loops:
    return Loops(path=folder / "evaluators.yaml", api=cast(Any, None), access=cast(Any, None))


@pytest.mark.parametrize("text", ["", "online:\n  - {name: short, mod", "[]", "online: [{name: a}]"])
def test_a_torn_file_replaces_no_good_one_not_even_over_a_restart(tmp_path: Path, text: str) -> None:
    written(tmp_path, FILE)
    running = loops(tmp_path)
    running._reload()
    good = running._online
    assert [rule.name for rule in good] == ["short"]
    (tmp_path / "evaluators.yaml").write_text(text, "utf-8")
    os.utime(tmp_path / "evaluators.yaml", (1, 1))
    running._reload()
    assert running._online is good
    restarted = loops(tmp_path)
    restarted._reload()
    assert restarted._online == good
    (tmp_path / "evaluators.yaml").unlink()
    restarted._reload()
    assert restarted._online == (), "a file that is gone asks for nothing"
    afresh = loops(tmp_path)
    (tmp_path / "evaluators.yaml").write_text(text, "utf-8")
    afresh._reload()
    assert afresh._online == (), "and is not remembered"


async def test_more_answers_than_can_be_scored_hold_up_neither_the_file_nor_the_gates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is always another batch: the file that turns the scoring off must be read all the same."""
    written(tmp_path, FILE.partition("online")[2].join(("online", "")))
    batches, stop = [], asyncio.Event()

    async def step(self: OnlineScorer) -> int:
        batches.append(self.rule.name)
        if len(batches) == 3:
            (tmp_path / "evaluators.yaml").write_text("online: []\n")
            os.utime(tmp_path / "evaluators.yaml", (1, 1))
        await asyncio.sleep(0.01)
        return 50

    monkeypatch.setattr(OnlineScorer, "step", step)
    running = Loops(
        path=tmp_path / "evaluators.yaml",
        api=cast(Any, None),
        access=Access(proxy_url="http://127.0.0.1:1", token="t", data=tmp_path),
        every_s=0.03,
    )
    working = asyncio.ensure_future(running.run(stop))
    async with asyncio.timeout(5):
        while running._online or not batches:
            await asyncio.sleep(0.01)
    stop.set()
    await working
    assert len(batches) < 20


async def test_a_part_that_cannot_go_on_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A golden set that is not there, a model that the controller does not know: the others go on."""
    gates = "gate:\n  chat: {set: nowhere}\n  code: {set: nowhere}\n  text: {set: nowhere}\n"
    written(tmp_path, gates + FILE[FILE.index("online:") :])
    stop, tried = asyncio.Event(), []

    async def gate(self: VersionGate) -> str | None:
        tried.append(self.rule.model)
        if self.rule.model == "chat":
            raise GoldenSetError([])
        raise ControlError("no model", status=404, code="unknown_model")

    async def score(self: OnlineScorer) -> int:
        tried.append(self.rule.name)
        stop.set()
        return 0

    monkeypatch.setattr(VersionGate, "step", gate)
    monkeypatch.setattr(OnlineScorer, "step", score)
    access = Access(proxy_url="http://127.0.0.1:1", token="t", data=tmp_path)
    running = Loops(path=tmp_path / "evaluators.yaml", api=cast(Any, None), access=access)
    async with asyncio.timeout(5):
        await running.run(stop)
    assert tried == ["chat", "code", "text", "short"]


async def test_a_part_that_fails_in_a_way_nobody_thought_of_is_told_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path, "gate:\n  chat: {set: nowhere}\n" + FILE[FILE.index("online:") :])
    stop, tried = asyncio.Event(), []

    async def gate(self: VersionGate) -> str | None:
        raise KeyError("a view of another release")

    async def score(self: OnlineScorer) -> int:
        tried.append(self.rule.name)
        stop.set()
        raise RuntimeError("a scorer's own thread")

    monkeypatch.setattr(VersionGate, "step", gate)
    monkeypatch.setattr(OnlineScorer, "step", score)
    access = Access(proxy_url="http://127.0.0.1:1", token="t", data=tmp_path)
    running = Loops(path=tmp_path / "evaluators.yaml", api=cast(Any, None), access=access)
    async with asyncio.timeout(5):
        await running.run(stop)
    assert tried == ["short"]
    told = [(record.message, record.exc_info is not None) for record in caplog.records]
    assert ("chat: KeyError: 'a view of another release'", True) in told
    assert ("short: RuntimeError: a scorer's own thread", True) in told


async def test_what_is_wrong_is_told_once_for_each_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A rule that is refused is tried again every few seconds, for days."""
    written(tmp_path, FILE)
    running = loops(tmp_path)
    running._reload()
    stop, wrong = asyncio.Event(), [None, "a", "a", "a", "b", None, "b"]

    async def step(self: OnlineScorer | VersionGate) -> Any:
        if wrong[0] is not None:
            raise ControlError(wrong[0], status=404, code="unknown_model")

    monkeypatch.setattr(VersionGate, "step", step)
    monkeypatch.setattr(OnlineScorer, "step", step)
    running.access = Access(proxy_url="http://127.0.0.1:1", token="t", data=tmp_path)
    while wrong:
        await running._gate(running._gates[0])
        await running._score(running._online[0], stop)
        wrong.pop(0)
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert told == ["chat: a", "short: a", "chat: b", "short: b", "chat: b", "short: b"]


def test_a_last_good_file_that_is_good_no_more_is_told_and_no_end(tmp_path: Path) -> None:
    """A package that brought an evaluator has been uninstalled since."""
    gone = FILE.replace("{type: length, max: 20}", "{type: telepathy}")
    (tmp_path / "evaluators.last-good.yaml").write_text(gone, "utf-8")
    (tmp_path / "evaluators.yaml").write_text("[]", "utf-8")
    running = loops(tmp_path)
    running._reload()
    assert running._online == ()


def test_a_broken_package_is_told_and_leaves_what_was_good_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, FILE)
    running = loops(tmp_path)
    running._reload()

    def broken() -> None:
        raise EvaluatorUnusable("the evaluators 'x' of a package cannot be loaded")

    monkeypatch.setattr("evaluators.loading.load_installed", broken)
    os.utime(tmp_path / "evaluators.yaml", (1, 1))
    running._reload()
    assert [rule.name for rule in running._online] == ["short"]
    afresh = loops(tmp_path)
    afresh._reload()
    assert afresh._online == ()


async def test_a_process_that_cannot_go_on_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(self: Loops, stop: asyncio.Event) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Loops, "run", run)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        await _run(loops(tmp_path))


def test_where_the_proxy_asks_for_keys_the_process_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[Loops] = []

    async def run(running: Loops) -> None:
        began.append(running)

    monkeypatch.setattr("evaluators.__main__._run", run)
    monkeypatch.setenv("TURNOUT_TOKEN", "t")
    monkeypatch.setenv("TURNOUT_API_KEY", "sk-1")
    urls = ("--control-url", "http://127.0.0.1:1", "--proxy-url", "http://127.0.0.1:2")
    assert main(["--data", str(tmp_path), *urls]) == 0
    assert [running.access.api_key for running in began] == ["sk-1"]


def test_a_file_that_could_not_be_read_once_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, FILE)
    running = loops(tmp_path)

    def refuse(path: Path, *arguments: str) -> str:
        raise OSError("too many open files")

    with monkeypatch.context() as there:
        there.setattr(Path, "read_text", refuse)
        with pytest.raises(OSError, match="too many"):
            running._reload()
    running._reload()
    assert [rule.name for rule in running._online] == ["short"]


def test_a_file_in_another_encoding_is_a_wrong_file_and_no_end(tmp_path: Path) -> None:
    written(tmp_path, FILE)
    running = loops(tmp_path)
    running._reload()
    (tmp_path / "evaluators.yaml").write_bytes(b"gate: \xff")
    os.utime(tmp_path / "evaluators.yaml", (1, 1))
    running._reload()
    assert [rule.name for rule in running._online] == ["short"]


def test_the_file_says_what_is_done(tmp_path: Path) -> None:
    found = written(tmp_path, FILE)
    assert (found.gates[0].set, found.gates[0].alias) == (tmp_path / "goldens" / "support", "candidate")
    assert [check.key for check in found.online[0].checks] == ["length", "contains"]
    assert read_automation(tmp_path / "none.yaml") == Automation()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gate: {chat: {set: x, accept: [nonsense]}}", "accept"),
        ("gate: {chat: {sett: x}}", "set"),
        ("online: [{name: a, model: chat, rate: 2, checks: [{type: exact}]}]", "rate"),
        ("online: [{name: a, model: chat, rate: 1, checks: [{type: exact}]}]", "reference"),
        ("online: [{name: a, model: chat, rate: 1, checks: [{type: telepathy}]}]", "telepathy"),
        ("online: [{name: a, model: b, rate: 1, checks: [{type: contains, values: [2026-01-01]}]}]", "date"),
        ("online: [{name: a, model: b, rate: 1, checks: [{type: numeric, value: .nan}]}]", "JSON"),
        ("online: [{name: a, model: b, rate: 1, hours: .inf, checks: [{type: refusal}]}]", "hours"),
        ("online: [{name: a, model: chat, rate: 1, checks: [{type: judge, rubric: polite}]}]", "judge"),
        (
            "online: [{name: a, model: chat, rate: 1, judge: {model: b}, checks: [{type: pairwise}]}]",
            "of: pairs",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_files_name(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(GoldenSetError) as error:
        written(tmp_path, text)
    assert why in str(error.value)
    assert "evaluators.yaml" in str(error.value)


def test_another_question_is_another_version_of_the_evaluator(tmp_path: Path) -> None:
    first = rule(tmp_path).versions
    assert first == rule(tmp_path, rate=0.1).versions
    assert first != rule(tmp_path, checks=[{"type": "length", "max": 21}]).versions
    assert first != rule(tmp_path, version="again").versions
    assert first[0].startswith("length@1:")


def version(number: int, *aliases: str, served: bool = True) -> dict[str, Any]:
    endpoint = {"replicas": ["http://127.0.0.1:1"]} if served else None
    return {"version": number, "aliases": list(aliases), "endpoint": endpoint}


def test_the_alias_comes_first_then_the_newest_and_nothing_older_than_production() -> None:
    view = {
        "production": 3,
        "versions": [
            version(1, "candidate"),
            version(2),
            version(3, "production"),
            version(4),
            version(5, served=False),
            version(6),
        ],
    }
    assert [one["version"] for one in waiting(view, "candidate")] == [1, 6, 4]


async def test_versions_are_brought_one_after_the_other_and_none_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = written(tmp_path, FILE.replace("goldens/support", str(SUPPORT)))
    served = [version(number) for number in range(1, 8)]
    brought: list[int] = []

    class Registered:
        def get(self, path: str) -> dict[str, Any]:
            return {"production": 1, "versions": served}

    async def bring(self: VersionGate, view: Any, production: int, one: Any, golden: Any) -> str | None:
        if one["version"] in brought:
            return None
        brought.append(one["version"])
        return f"version {one['version']}"

    monkeypatch.setattr(VersionGate, "_bring", bring)
    access = Access(proxy_url="http://127.0.0.1:1", token="t", data=tmp_path)
    gate = VersionGate(rule=found.gates[0], api=cast(Any, Registered()), access=access)
    for _ in range(3):
        await gate.step()
    served.append(version(8))  # while the others wait
    said = [await gate.step() for _ in range(5)]
    assert brought == [7, 6, 5, 8, 4, 3, 2]
    assert said[-1] is None


class Concluded:
    """The control API of one model with a production and a candidate; `noted` is what the gate tags."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.versions = [version(1, "production"), version(2, "candidate")]

    def get(self, path: str, params: Any = None) -> Any:
        if path.startswith("/api/golden/labels"):
            return []
        versions = [one | {"tags": self.tags if one["version"] == 2 else {}} for one in self.versions]
        for one in versions:
            one["endpoint"] |= {"served_name": "chat", "engine": "vllm"}
        return {"name": "chat", "production": 1, "versions": versions}

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        self.tags |= {f"gate.{name}": str(value) for name, value in body.items()}
        return self.tags


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("set.yaml", "margin: 0.01\nevaluators: [own.py]\n"),
        ("set.yaml", "min_pass_rate: 0.9\nevaluators: [own.py]\n"),
        ("set.yaml", "judge: {model: examiner}\nevaluators: [own.py]\n"),
        ("own.py", "strict"),
    ],
)
async def test_another_policy_or_evaluator_of_the_set_judges_a_version_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str
) -> None:
    own = (
        "from evaluators.scorers import scorer\n\n@scorer('own', version='1')\n"
        "def own(item, output, options):\n    return True, '{}'\n"
    )
    folder = write_set(tmp_path / "own", [item("a", checks=[{"type": "own"}])], "evaluators: [own.py]\n")
    (folder / "own.py").write_text(own.format("lax"), "utf-8")
    api, judged = Concluded(), []

    async def prints(side: Any) -> str:
        return "sha256:1"

    async def judge(self: VersionGate, control: Any, candidate: Any, golden: Any) -> str:
        judged.append(golden.hash)
        await self._note(2, "passed", verdict="pass sha256:2")
        return "passed"

    monkeypatch.setattr("evaluators.versiongate.fingerprint_of", prints)
    monkeypatch.setattr(VersionGate, "_judge", judge)
    rules = written(tmp_path, f"gate: {{chat: {{set: {folder}}}}}").gates
    access = Access(proxy_url="http://127.0.0.1:1", token="t", data=tmp_path)
    gate = VersionGate(rule=rules[0], api=cast(Any, api), access=access)
    assert [await gate.step(), await gate.step()] == ["passed", None]
    restarted = VersionGate(rule=rules[0], api=cast(Any, api), access=access)
    assert await restarted.step() is None, "what was concluded stands"
    (folder / file).write_text(own.format(text) if file == "own.py" else text, "utf-8")
    assert await restarted.step() == "passed"
    assert len(judged) == 2
    assert judged[0] == judged[1], "the questions are the same"
    repeated = written(tmp_path, f"gate: {{chat: {{set: {folder}, repeats: 3}}}}").gates[0]
    assert await VersionGate(rule=repeated, api=cast(Any, api), access=access).step() == "passed"


async def test_a_production_version_that_was_deleted_is_told_and_no_end(tmp_path: Path) -> None:
    api = Concluded()
    del api.versions[0]
    rules = written(tmp_path, f"gate: {{chat: {{set: {SUPPORT}}}}}").gates
    access = Access(proxy_url="http://127.0.0.1:1", token="t", data=tmp_path)
    gate = VersionGate(rule=rules[0], api=cast(Any, api), access=access)
    with pytest.raises(UnknownVersion, match="has no version '1'; there are 2/candidate"):
        await gate.step()


class Api:
    """Exchanges that wait until they are scored, as the ledger keeps them."""

    def __init__(self, *answers: str) -> None:
        body = json.dumps({"messages": [{"role": "user", "content": "hello?"}]})
        self.exchanges = {
            f"e{n}": {
                "exchange_id": f"e{n}",
                "path": "/v1/chat/completions",
                "request": body,
                "text": text,
                "outcome": "complete",
                "status": 200,
            }
            for n, text in enumerate(answers)
        }
        self.pairs: dict[str, str] = {}
        self.versions: list[dict[str, Any]] = []
        self.scores: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.asked: list[dict[str, Any]] = []

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any:
        asked = dict(params or {})
        if path == "/api/scores/spent":
            mine = [row for (_, name, _), row in self.scores.items() if name == asked["evaluator"]]
            return {"scores": len(mine), "cost_usd": sum(row["cost_usd"] or 0 for row in mine)}
        if path == "/api/scores/pending":
            self.asked.append(asked)
            by = (asked["evaluator"], asked["version"])
            known = self.pairs if asked["role"] == "shadow" else self.exchanges
            waiting = [id_ for id_ in known if (id_, *by) not in self.scores]
            return [
                {"exchange_id": id_, "pair_id": self.pairs.get(id_)} for id_ in waiting[: int(asked["limit"])]
            ]
        if path.startswith("/api/models/"):
            return {"versions": self.versions}
        return self.exchanges[path.rsplit("/", 1)[1]]

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        for row in body["scores"]:
            self.scores.setdefault(
                (row["exchange_id"], row["evaluator"], row["evaluator_version"]), dict(row)
            )
        return {"stored": len(body["scores"]), "ignored": 0}


async def test_every_sampled_exchange_is_scored_once(tmp_path: Path) -> None:
    api = Api("short", "a text that is longer than twenty characters", "short too")
    scorer = OnlineScorer(rule=rule(tmp_path, rate=0.25), api=api)
    assert [await scorer.step(), await scorer.step()] == [3, 0]
    assert [row["value"] for row in api.scores.values()] == [1.0, 0.0, 1.0]
    assert {row["evaluator"] for row in api.scores.values()} == {"short.length"}
    assert float(api.asked[0]["rate"]) == 0.25


async def test_a_new_question_scores_what_is_kept_again(tmp_path: Path) -> None:
    api = Api("one", "two")
    await OnlineScorer(rule=rule(tmp_path), api=api).step()
    again = rule(tmp_path, checks=[{"type": "length", "max": 2}])
    assert await OnlineScorer(rule=again, api=api).step() == 2
    assert sorted(row["value"] for row in api.scores.values()) == [0.0, 0.0, 1.0, 1.0]


class Polite:
    """A judge in a version that finds everything fine."""

    def __init__(self, version: int) -> None:
        self.identity = f"examiner@{version}"
        self.asked = 0

    async def reply(self, messages: Sequence[Any], *, schema: Mapping[str, Any], seed: int) -> ModelReply:
        self.asked += 1
        [call], grades = (schema["properties"][name]["enum"] for name in ("call", "grade"))
        grade = "tie" if "tie" in grades else grades[-1]
        return ModelReply(text=json.dumps({"call": call, "reason": "fine", "grade": grade}), cost_usd=0.01)


async def test_a_new_judge_judges_what_is_kept_again_beside_the_old_scores(tmp_path: Path) -> None:
    """Whether the rule names another one, or the same name has moved to another version."""
    api = Api("one", "two")
    asking = {"checks": [{"type": "judge", "rubric": "It is polite."}], "judge": {"model": "examiner"}}
    for number, judge in enumerate((Polite(1), Polite(1), Polite(2))):
        scorer = OnlineScorer(rule=rule(tmp_path, **asking), api=api, services=Services(judge=judge))
        assert await scorer.step() == (0 if number == 1 else 2)
        assert judge.asked == (0 if number == 1 else 2)
    other = rule(tmp_path, **asking | {"judge": {"model": "another"}})
    assert await OnlineScorer(rule=other, api=api, services=Services(judge=Polite(2))).step() == 2
    assert len(api.scores) == 6
    assert len({version for _, _, version in api.scores}) == 3
    assert {id_ for id_, _, _ in api.scores} == {"e0", "e1"}


async def test_a_mirrored_pair_is_judged_in_both_orders(tmp_path: Path) -> None:
    api, judge = Api("one", "two"), Polite(1)
    api.pairs = {"e1": "e0"}
    api.exchanges["e1"]["request"] = ""  # a copy is recorded without its question
    asking = {"checks": [{"type": "pairwise"}], "judge": {"model": "examiner"}, "of": "pairs"}
    scorer = OnlineScorer(rule=rule(tmp_path, **asking), api=api, services=Services(judge=judge))
    assert [await scorer.step(), await scorer.step()] == [1, 0]
    [row] = api.scores.values()
    assert (row["exchange_id"], row["status"], row["value"], row["cost_usd"]) == ("e1", "scored", 0.5, 0.02)
    assert (judge.asked, api.asked[0]["role"]) == (2, "shadow")


@pytest.mark.parametrize("pairs", [False, True])
async def test_a_candidate_that_is_the_judges_own_model_is_not_judged_by_it(
    tmp_path: Path, pairs: bool
) -> None:
    api, judge = Api("one", "two"), Polite(1)
    own = {"engine": "litellm", "served_name": "openai/gpt-4.1-mini", "replicas": []}
    engine = {"engine": "vllm", "served_name": "chat", "replicas": ["http://127.0.0.1:1"]}
    api.versions = [{"version": 1, "endpoint": engine}, {"version": 2, "endpoint": own}]
    api.exchanges["e0"]["served_version"], api.exchanges["e1"]["served_version"] = 1, 2
    check = {"type": "pairwise"} if pairs else {"type": "judge", "rubric": "It is polite."}
    asking = {"checks": [check], "judge": {"provider": "openai/gpt-4.1-mini"}}
    asking |= {"of": "pairs" if pairs else "exchanges"}
    if pairs:
        api.pairs = {"e1": "e0"}
    scorer = OnlineScorer(rule=rule(tmp_path, **asking), api=api, services=Services(judge=judge))
    assert [await scorer.step(), await scorer.step()] == [1 if pairs else 2, 0]
    states = {id_: row["status"] for (id_, _, _), row in api.scores.items()}
    assert states == ({"e1": "skipped"} if pairs else {"e0": "scored", "e1": "skipped"})
    assert judge.asked == (0 if pairs else 1)
    why = next(row["explanation"] for row in api.scores.values() if row["status"] == "skipped")
    assert "the judge must be another model: openai/gpt-4.1-mini is version 2 of chat" in why


async def test_a_question_that_the_judge_refuses_is_told_once_and_waits_no_more(tmp_path: Path) -> None:
    class Refusing(Polite):
        async def reply(self, *messages: Any, **fields: Any) -> ModelReply:
            raise ModelRefused("too long")

    api = Api("one")
    asking = {"checks": [{"type": "judge", "rubric": "It is polite."}], "judge": {"model": "examiner"}}
    scorer = OnlineScorer(rule=rule(tmp_path, **asking), api=api, services=Services(judge=Refusing(1)))
    assert [await scorer.step(), await scorer.step()] == [1, 0]
    [row] = api.scores.values()
    assert (row["status"], row["value"]) == ("error", None)


async def test_the_days_limits_hold(tmp_path: Path) -> None:
    api = Api(*(f"answer {n}" for n in range(9)))
    scorer = OnlineScorer(rule=rule(tmp_path, per_day=4), api=api)
    assert [await scorer.step(), await scorer.step()] == [4, 0]
    for row in api.scores.values():
        row["cost_usd"] = 0.5
    rich = OnlineScorer(rule=rule(tmp_path, per_day=100, usd_per_day=2.0), api=api)
    assert await rich.step() == 0


async def test_the_days_dollars_are_not_spent_by_the_batch(tmp_path: Path) -> None:
    api, judge = Api(*(f"answer {n}" for n in range(40))), Polite(1)
    asking = {"checks": [{"type": "judge", "rubric": "It is polite."}], "judge": {"model": "examiner"}}
    asked = rule(tmp_path, **asking, usd_per_day=0.05, concurrency=2)
    scorer = OnlineScorer(rule=asked, api=api, services=Services(judge=judge))
    while await scorer.step():
        pass
    assert 5 <= len(api.scores) <= 6, "one cent each, two at once"
    assert judge.asked == len(api.scores)


@pytest.mark.parametrize(
    "request_",
    [
        None,
        "[]",
        '{"messages": "hello"}',
        '{"messages": [1]}',
        '{"messages": [], "tools": 5}',
        '{"messages": [], "user": "half \\ud83d"}',
        '{"messages": [], "temperature": NaN}',
    ],
)
async def test_what_has_no_question_is_skipped_and_waits_no_more(
    tmp_path: Path, request_: str | None
) -> None:
    """Users write what they like, and some engines answer it: it must not stop the scoring of the others."""
    api = Api("x")
    api.exchanges["e0"]["request"] = request_
    scorer = OnlineScorer(rule=rule(tmp_path), api=api)
    assert [await scorer.step(), await scorer.step()] == [1, 0]
    [row] = api.scores.values()
    assert (row["status"], row["value"]) == ("skipped", None)


@pytest.mark.parametrize("path", ["/tokenize", "/v1/rerank"])
async def test_what_is_no_answer_of_a_model_is_not_graded(tmp_path: Path, path: str) -> None:
    api = Api("")
    api.exchanges["e0"]["path"] = path
    await OnlineScorer(rule=rule(tmp_path, checks=[{"type": "length", "min": 3}]), api=api).step()
    [score] = api.scores.values()
    assert (score["status"], score["value"]) == ("skipped", None)


@pytest.mark.parametrize(
    ("path", "tool"),
    [
        ("/v1/messages", {"name": "find", "input_schema": {"type": "object"}}),
        ("/v1/chat/completions", {"type": "custom", "custom": {"name": "find"}}),
    ],
)
async def test_a_judge_reads_tools_of_any_api(tmp_path: Path, path: str, tool: dict[str, Any]) -> None:
    api, judge = Api("fine"), Polite(1)
    body = {"messages": [{"role": "user", "content": "hello?"}], "tools": [tool]}
    api.exchanges["e0"] |= {"path": path, "request": json.dumps(body)}
    checks = [{"type": "judge", "rubric": "The answer is polite."}]
    asked = rule(tmp_path, checks=checks, judge={"model": "examiner"})
    await OnlineScorer(rule=asked, api=api, services=Services(judge=judge)).step()
    [score] = api.scores.values()
    assert score["status"] == "scored", score["explanation"]


async def test_a_model_that_is_away_is_asked_again_later(tmp_path: Path) -> None:
    class Away:
        identity = "away"

        async def embed(self, texts: Any) -> Any:
            raise ModelUnavailable("no connection")

    api = Api("x")
    embedder = {"embeddings": "small", "embeddings_base": "http://127.0.0.1:1/v1"}
    asking = rule(tmp_path, checks=[{"type": "embedding", "values": ["y"]}], judge=embedder)
    scorer = OnlineScorer(rule=asking, api=api, services=Services(embedder=Away()))
    assert await scorer.step() == 0
    assert api.scores == {}
