"""What other hands do in the registry is taken up and recorded, and what cannot answer is left out."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from experiments import views
from experiments.errors import Refused
from registry import EndpointSpec, RegistryRefused, RegistryUnreachable
from registry.records import STATE

from ..plane import AB, ADA, CHAIN, SHADOW, Plane


def test_an_alias_moved_by_other_hands_is_taken_up_and_recorded(plane: Plane) -> None:
    plane.begin()
    plane.registry.promote("chat", 3)
    plane.settle()
    assert plane.production == 3
    assert plane.state() == "kept"
    assert plane.rows()[-1] == ("registry", "promote", "done")
    plane.settle()
    assert len([row for row in plane.rows() if row[0] == "registry"]) == 1


def test_an_alias_moved_while_the_controller_was_away_is_recorded_too(plane: Plane) -> None:
    plane.begin()
    plane.kill()
    plane.registry.promote("chat", 2)
    plane.start()
    assert plane.production == 2
    assert plane.state() == "promoted"
    assert plane.rows()[-1] == ("registry", "promote", "done")


@pytest.mark.parametrize("gone", [True, False], ids=["the alias is gone", "its version is not served"])
def test_where_other_hands_name_what_cannot_answer_production_goes_on(plane: Plane, gone: bool) -> None:
    plane.begin()
    client = MlflowClient(plane.registry.tracking_uri)
    if gone:
        client.delete_registered_model_alias("chat", "production")
    else:
        unserved = plane.registry.register("chat", None)
        plane.registry.promote("chat", unserved.version)
    for _ in range(3):
        plane.settle()
    assert plane.snapshot.models["chat"].production == 1
    assert plane.candidate_has_traffic
    assert plane.state() == "running"
    assert [row for row in plane.rows() if row[0] == "registry"] == [("registry", "promote", "failed")]
    assert "version 1 goes on answering" in plane.controller.junction.left_out[0]
    plane.conclude("ship")
    with pytest.raises(Refused, match="Let the alias name version 1 again"):
        plane.promote(2)
    plane.restart()
    assert plane.snapshot.models["chat"].production == 1, "over a restart too"
    plane.registry.promote("chat", 3)
    plane.settle()
    assert plane.production == 3
    assert plane.controller.junction.left_out == ()
    assert plane.rows()[-1] == ("registry", "promote", "done")


@pytest.mark.parametrize("spec", [AB, SHADOW, CHAIN], ids=["running", "a shadow", "in preflight"])
def test_an_experiment_whose_candidate_was_deleted_by_other_hands_is_over(plane: Plane, spec: str) -> None:
    plane.begin(spec)
    MlflowClient(plane.registry.tracking_uri).delete_model_version("chat", "2")
    plane.settle()
    plane.settle()
    assert plane.state() == "kept"
    assert plane.production == 1
    assert [row for row in plane.rows() if row[0] == "registry"] == [("registry", "stop", "done")]
    assert "version 2 of 'chat' was deleted" in str(plane.controller.junction.experiment("faster").note)


def test_a_registry_that_knows_no_model_any_more_ends_no_experiment(plane: Plane) -> None:
    """It may be another one, by mistake: what was begun is not ended for that."""
    plane.begin()
    MlflowClient(plane.registry.tracking_uri).delete_registered_model("chat")
    for _ in range(3):
        plane.settle()
    assert plane.controller.junction.experiment("faster").state == "running"
    assert plane.snapshot.models["chat"].production == 1, "users are answered"
    assert plane.candidate_has_traffic
    assert "the registry knows no model any more" in plane.controller.junction.left_out[0]
    plane.restart()
    assert plane.snapshot.models["chat"].production == 1, "over a restart too"
    plane.restock()
    plane.settle()
    assert plane.production == 1
    assert plane.controller.junction.left_out == ()


def test_a_model_that_is_gone_among_others_is_told_by_its_experiment(plane: Plane) -> None:
    plane.begin()
    endpoint = EndpointSpec(replicas=("http://127.0.0.1:9999",), served_name="other")
    plane.registry.register("other", endpoint, aliases=["production"])
    MlflowClient(plane.registry.tracking_uri).delete_registered_model("chat")
    plane.settle()
    assert list(plane.snapshot.models) == ["other"]
    there = plane.controller.junction.experiment("faster")
    gone = "no model 'chat' is registered any more"
    assert views.summary(plane.controller, there)["waiting_for"] == f"traffic, which it does not get: {gone}"
    assert plane.controller.junction.left_out == (f"experiment 'faster' gets no traffic: {gone}",)
    plane.controller.control.stop("faster", ADA)
    plane.settle()
    assert plane.state() == "kept"
    assert plane.controller.junction.left_out == ()


def test_a_version_registered_by_other_hands_gets_an_endpoint(plane: Plane) -> None:
    from registry import EndpointSpec

    endpoint = EndpointSpec(replicas=("http://127.0.0.1:9999",), served_name="chat")
    made = plane.registry.register("chat", endpoint)
    plane.settle()
    assert plane.snapshot.endpoints["chat", made.version].replicas == ("http://127.0.0.1:9999",)


def test_nothing_is_published_when_nothing_has_changed(plane: Plane) -> None:
    version = plane.snapshot.version
    plane.settle()
    plane.settle()
    assert plane.snapshot.version == version


def test_an_endpoint_that_was_taken_away_sends_the_units_back_to_production(plane: Plane) -> None:
    plane.begin()
    plane.registry.set_endpoint("chat", 2, None)
    plane.settle()
    assert not plane.candidate_has_traffic
    lacking = "version 2 of 'chat' has no endpoint"
    assert lacking in plane.controller.junction.left_out[0]
    there = views.summary(plane.controller, plane.controller.junction.experiment("faster"))
    assert there["waiting_for"] == f"traffic, which it does not get: {lacking}"


def test_a_registry_that_falls_silent_while_versions_are_labelled_is_waited_for_once(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def silent(model: str, version: int, labels: object) -> None:
        asked.append(version)
        raise RegistryUnreachable("MLflow does not answer")

    monkeypatch.setattr(plane.registry, "label", silent)
    with plane.registry._mlflow.asking("forget the labels") as client:
        for version in ("1", "2", "3"):
            client.set_model_version_tag("chat", version, STATE, "unknown")
    plane.controller.reconcile()
    assert len(asked) == 1
    assert not plane.controller.registry_condition().ok


def test_labels_that_are_refused_are_told_once(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(model: str, version: int, labels: object) -> None:
        raise RegistryRefused(f"no writing to version {version}")

    monkeypatch.setattr(plane.registry, "label", read_only)
    plane.begin()
    caplog.clear()
    for _ in range(3):
        plane.controller.reconcile()
    assert [text for text in caplog.messages if "is not labelled" in text] == [
        "version 2 of chat is not labelled: no writing to version 2"
    ]
