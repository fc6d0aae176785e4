"""Versions, endpoints and the production alias, on a real MLflow with SQLite."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient

from registry import (
    EndpointSpec,
    InvalidEntry,
    ModelVersion,
    Move,
    NoSuchAlias,
    NoSuchModel,
    NoSuchVersion,
    NothingToRollBack,
    Registry,
    RegistryUnreachable,
)
from registry.catalog import GOLDEN_RUN


def endpoint(port: int = 9001, name: str = "chat") -> EndpointSpec:
    return EndpointSpec(replicas=(f"http://127.0.0.1:{port}",), served_name=name, engine="vllm-cpu")


def three_versions(registry: Registry) -> None:
    for port in (9001, 9002, 9003):
        registry.register("chat", endpoint(port))


class CutOff(BaseException):
    """Stands for a kill: nothing catches it."""


class CuttingRegistry(Registry):
    """Dies before the alias moves."""

    def _move_production(self, model: str, version: int) -> None:
        raise CutOff


# -- reading and registering ----------------------------------------------------------------------------


def test_what_is_registered_is_what_is_read(registry: Registry) -> None:
    made = registry.register(
        "chat", endpoint(), source="org/weights", aliases=("candidate",), tags={"team": "search"}
    )
    assert made == registry.version("chat", 1) == registry.version("chat", "candidate")
    assert (made.endpoint, made.source, made.aliases) == (endpoint(), "org/weights", ("candidate",))
    assert dict(made.tags) == {"team": "search"}
    assert made.created_ms > 1_600_000_000_000
    assert registry.model("chat").versions == (made,)
    assert [model.name for model in registry.models()] == ["chat"]


def test_versions_count_up_and_come_in_order(registry: Registry) -> None:
    for port in range(9001, 9013):
        registry.register("chat", endpoint(port))
    assert [one.version for one in registry.model("chat").versions] == list(range(1, 13))


def test_models_of_others_are_not_listed_but_can_be_taken_over(registry: Registry, database: str) -> None:
    others = MlflowClient(database, database)
    others.create_registered_model("Sklearn Forest")
    others.create_registered_model("chat")
    others.create_model_version("chat", source="/models/chat")
    assert registry.models() == []
    taken = registry.set_endpoint("chat", 1, endpoint())
    assert (taken.endpoint, taken.source) == (endpoint(), "/models/chat")
    assert [model.name for model in registry.models()] == ["chat"]


def test_more_models_and_versions_than_fit_a_page_are_all_found(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.catalog._PAGE", 2)
    for name in ("a", "b", "c", "d", "e"):
        registry.register(name, endpoint())
    for _ in range(4):
        registry.register("a", endpoint())
    assert [model.name for model in registry.models()] == ["a", "b", "c", "d", "e"]
    assert len(registry.model("a").versions) == 5


def test_an_endpoint_that_others_broke_leaves_the_version_readable(registry: Registry, database: str) -> None:
    registry.register("chat", endpoint())
    registry.register("chat", endpoint(9002))
    MlflowClient(database, database).set_model_version_tag(
        "chat", "1", "turnout.replicas", '["http://user:pass@internal:80"]'
    )
    first, second = registry.model("chat").versions
    assert first.endpoint is None
    assert first.problem is not None
    assert "register its endpoint anew" in first.problem
    assert second.endpoint == endpoint(9002)


def test_an_endpoint_can_be_changed_and_taken_away(registry: Registry) -> None:
    registry.register("chat", None, source="org/weights")
    assert registry.version("chat", 1).endpoint is None
    assert registry.set_endpoint("chat", 1, endpoint()).endpoint == endpoint()
    assert registry.set_endpoint("chat", 1, endpoint(9002)).endpoint == endpoint(9002)
    gone = registry.set_endpoint("chat", 1, None)
    assert (gone.endpoint, gone.problem, gone.source) == (None, None, "org/weights")


def test_sources_that_mlflow_would_follow_are_kept_and_not_followed(registry: Registry) -> None:
    assert registry.register("chat", None, source="models:/other/1").source == "models:/other/1"


@pytest.mark.parametrize("ref", [2, "2", "candidate"])
def test_what_is_missing_is_named(registry: Registry, ref: int | str) -> None:
    with pytest.raises(NoSuchModel, match=r"'chat'.*turnout models list"):
        registry.version("chat", ref)
    registry.register("chat", endpoint(), aliases=("first",))
    with pytest.raises((NoSuchVersion, NoSuchAlias), match=r"turnout models show|it has: first"):
        registry.version("chat", ref)


def test_nothing_is_stored_when_a_part_is_bad(registry: Registry) -> None:
    with pytest.raises(InvalidEntry):
        registry.register("chat", endpoint(), tags={"turnout.replicas": "[]"})
    with pytest.raises(InvalidEntry):
        registry.register("chat", endpoint(), aliases=("ok", "Not OK"))
    with pytest.raises(InvalidEntry):
        registry.register("../chat", endpoint())
    with pytest.raises(NoSuchModel):
        registry.model("chat")


# -- production -----------------------------------------------------------------------------------------


def test_promote_moves_production_and_remembers_where_from(registry: Registry) -> None:
    three_versions(registry)
    assert registry.model("chat").production is None
    assert registry.promote("chat", 1) == Move(former=None, current=1, changed=True)
    assert registry.promote("chat", 2) == Move(former=1, current=2, changed=True)
    model = registry.model("chat")
    assert (model.production, model.former) == (2, 1)


def test_promote_repeated_changes_nothing_and_forgets_nothing(registry: Registry) -> None:
    three_versions(registry)
    registry.promote("chat", 1)
    registry.promote("chat", 2)
    assert registry.promote("chat", 2) == Move(former=1, current=2, changed=False)
    assert registry.rollback("chat").current == 1


def test_registering_straight_into_production_is_a_promotion(registry: Registry) -> None:
    registry.register("chat", endpoint(), aliases=("production",))
    registry.register("chat", endpoint(), aliases=("production",))
    assert registry.rollback("chat") == Move(former=2, current=1, changed=True)


def test_rollback_repeated_never_walks_further_back(registry: Registry) -> None:
    three_versions(registry)
    for version in (1, 2, 3):
        registry.promote("chat", version)
    assert registry.rollback("chat") == Move(former=3, current=2, changed=True)
    assert registry.rollback("chat") == Move(former=3, current=2, changed=False)
    model = registry.model("chat")
    assert (model.production, model.former) == (2, None)


def test_a_version_promoted_anew_after_a_rollback_can_be_rolled_back_anew(registry: Registry) -> None:
    three_versions(registry)
    registry.promote("chat", 1)
    for _ in range(3):
        assert registry.promote("chat", 2) == Move(former=1, current=2, changed=True)
        assert registry.rollback("chat") == Move(former=2, current=1, changed=True)
    assert registry.promote("chat", 3) == Move(former=1, current=3, changed=True)
    assert registry.promote("chat", 1) == Move(former=3, current=1, changed=True)
    assert registry.rollback("chat") == Move(former=1, current=3, changed=True)


def test_without_a_former_version_there_is_nothing_to_roll_back(registry: Registry, database: str) -> None:
    three_versions(registry)
    with pytest.raises(NothingToRollBack, match="no production version"):
        registry.rollback("chat")
    registry.promote("chat", 1)
    with pytest.raises(NothingToRollBack, match="turnout promote chat --version N"):
        registry.rollback("chat")
    registry.promote("chat", 2)
    MlflowClient(database, database).delete_model_version("chat", "1")
    assert registry.model("chat").former is None
    with pytest.raises(NoSuchVersion):
        registry.rollback("chat")
    assert registry.model("chat").production == 2


def test_an_unknown_version_is_not_promoted(registry: Registry) -> None:
    registry.register("chat", endpoint(), aliases=("production",))
    with pytest.raises(NoSuchVersion):
        registry.promote("chat", 7)
    assert registry.model("chat").production == 1


def test_a_move_cut_off_before_the_alias_has_changed_nothing(registry: Registry, database: str) -> None:
    three_versions(registry)
    registry.promote("chat", 1)
    registry.promote("chat", 2)
    cut = CuttingRegistry(database)
    with pytest.raises(CutOff):
        cut.promote("chat", 3)
    model = registry.model("chat")
    assert (model.production, model.former) == (2, 1)
    with pytest.raises(CutOff):
        cut.rollback("chat")
    assert registry.model("chat").production == 2
    assert registry.rollback("chat") == Move(former=2, current=1, changed=True)
    assert registry.promote("chat", 3) == Move(former=1, current=3, changed=True)
    assert registry.rollback("chat") == Move(former=3, current=1, changed=True)


def test_while_versions_are_promoted_at_once_production_is_always_exactly_one(registry: Registry) -> None:
    three_versions(registry)
    registry.promote("chat", 1)
    seen: set[int | None] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            model = registry.model("chat")
            seen.add(model.production)
            assert sum("production" in one.aliases for one in model.versions) == 1

    def promote(versions: tuple[int, ...]) -> None:
        for version in versions:
            registry.promote("chat", version)

    threads = [threading.Thread(target=promote, args=(order,)) for order in ((2, 3, 2), (3, 1, 3), (1, 2, 1))]
    watcher = threading.Thread(target=watch)
    for thread in [watcher, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    watcher.join()
    assert seen <= {1, 2, 3}
    assert registry.model("chat").production in (1, 2, 3)
    assert registry.rollback("chat").changed  # the way back was kept through it all


# -- golden runs ----------------------------------------------------------------------------------------


def test_a_golden_run_is_a_finished_run_that_names_its_version(registry: Registry, database: str) -> None:
    registry.register("chat", endpoint())
    run_id = registry.log_golden_run(
        "chat",
        1,
        "golden support",
        params={"set_hash": "golden@sha256:0", "repeats": 3},
        metrics={"pass_rate": 0.95, "pass_rate.exact": 1.0, "judge": None, "broken": float("nan")},
        tags={"turnout.golden.set": "support"},
    )
    client = MlflowClient(database, database)
    run = client.get_run(run_id)
    assert run.data.metrics == {"pass_rate": 0.95, "pass_rate.exact": 1.0}  # no data is not zero
    assert run.data.params == {"set_hash": "golden@sha256:0", "repeats": "3"}
    assert (run.data.tags["turnout.model"], run.data.tags["turnout.version"]) == ("chat", "1")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "golden support")
    assert client.get_model_version("chat", "1").tags["turnout.golden_run"] == run_id
    again = registry.log_golden_run("chat", 1, "golden support", params={}, metrics={})
    assert again != run_id
    with pytest.raises(NoSuchVersion):
        registry.log_golden_run("chat", 2, "golden support", params={}, metrics={})


def test_a_golden_run_that_was_cut_off_is_gone_on_with_and_never_there_twice(
    registry: Registry, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register("chat", endpoint())
    run = {"params": {"repeats": 3}, "metrics": {"pass_rate": 0.5}, "tags": {GOLDEN_RUN: "a" * 32}}

    def cut(*_: object, **__: object) -> None:
        raise ConnectionResetError

    for step in ("log_batch", "set_terminated", "set_model_version_tag"):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, step, cut)
            with pytest.raises(RegistryUnreachable):
                registry.log_golden_run("chat", 1, "golden", **run, lasted_ms=(1000, 2000))
    run_id = registry.log_golden_run("chat", 1, "golden", **run, lasted_ms=(1000, 2000))
    client = MlflowClient(database, database)
    [made] = client.search_runs([client.get_experiment_by_name("turnout-golden").experiment_id])
    assert (made.info.run_id, made.info.status) == (run_id, "FINISHED")
    assert (made.info.start_time, made.info.end_time) == (1000, 2000)
    assert len(client.get_metric_history(run_id, "pass_rate")) == 1


def test_names_that_mlflow_does_not_take_are_logged_as_it_takes_them(
    registry: Registry, database: str
) -> None:
    registry.register("chat", endpoint())
    odd = {"mean.Höflichkeit (1-5)": 0.25, "mean.Höflichkeit [1-5]": 0.75, "m" * 300: 1.0, "a/../b": 0.0}
    run_id = registry.log_golden_run("chat", 1, "golden", params={"Ton?": "kühl"}, metrics=odd)
    found = MlflowClient(database, database).get_run(run_id).data
    assert sorted(found.metrics.values()) == [0.0, 0.25, 0.75, 1.0]
    assert any(name.startswith("mean.Höflichkeit _1-5_-") for name in found.metrics)
    assert list(found.params.values()) == ["kühl"]


def test_golden_runs_go_on_where_their_experiment_was_deleted(registry: Registry, database: str) -> None:
    registry.register("chat", endpoint())
    registry.log_golden_run("chat", 1, "golden", params={}, metrics={})
    client = MlflowClient(database, database)
    client.delete_experiment(client.get_experiment_by_name("turnout-golden").experiment_id)
    assert registry.log_golden_run("chat", 1, "golden", params={}, metrics={})


# -- the first question ---------------------------------------------------------------------------------

FIRST_QUESTION = """
import sys
from registry import EndpointSpec, Registry
Registry(sys.argv[1]).register("chat", EndpointSpec(replicas=("http://a:1",), served_name="chat"))
"""


@pytest.mark.slow
def test_processes_that_open_a_new_database_at_once_all_succeed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new' / 'folder' / 'mlflow.db'}"
    racing = [
        subprocess.Popen([sys.executable, "-c", FIRST_QUESTION, uri], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in racing:
        _, errors = process.communicate(timeout=100)
        assert (process.returncode, errors) == (0, "")  # and MLflow writes nothing on the screen
    assert [one.version for one in Registry(uri).model("chat").versions] == [1, 2]


def test_asking_leaves_the_working_folder_and_the_loggers_alone(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "somewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    registry = Registry(database)
    registry.register("chat", endpoint(), source="weights")
    registry.log_golden_run("chat", 1, "golden", params={}, metrics={"pass_rate": 1.0})
    assert list(folder.iterdir()) == []
    assert not logging.getLogger("registry").disabled
    assert logging.getLogger().handlers == logging.root.handlers


@pytest.mark.parametrize("content", [b"this is no database, however long one reads it" * 100, None])
def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "mlflow.db"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(RegistryUnreachable, match="is it an MLflow database"):
        Registry(f"sqlite:///{file}").models()


def test_records_compare_by_value(registry: Registry) -> None:
    registry.register("chat", endpoint())
    assert isinstance(registry.version("chat", 1), ModelVersion)
    assert registry.model("chat") == registry.model("chat")
