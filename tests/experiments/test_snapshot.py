"""A snapshot routes every unit, or it is refused whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import orjson
import pytest

from experiments.assignment import CONTROL, PPM, initial_ranges, point, unit_id
from experiments.snapshot import (
    Exclusion,
    Gate,
    Snapshot,
    SnapshotError,
    UnknownModel,
    UnknownVersion,
    check_replica,
)
from tests.proxy.harness import snapshot

URLS = {1: "http://127.0.0.1:9001", 2: "http://127.0.0.1:9002"}


def test_json_gives_an_equal_snapshot_back() -> None:
    for table in (
        snapshot(URLS),
        snapshot(URLS, candidate_ppm=50_000, keys={"ab": "acme"}),
        snapshot(URLS, share_ppm=200_000, recording="redacted"),
    ):
        assert Snapshot.from_json(table.to_json()) == table
        assert Snapshot.from_json(table.to_json()).to_json() == table.to_json()


def test_routes_follow_the_ranges() -> None:
    table = snapshot(URLS, candidate_ppm=300_000)
    low = initial_ranges({"candidate": 300_000})["candidate"][0][0]
    for number in range(2000):
        unit = unit_id(str(number))
        route = table.route("chat", unit)
        expected = "candidate" if point("salt", unit) >= low else CONTROL
        assert route.arm == expected
        assert route.endpoint.version == (2 if expected == "candidate" else 1)
        assert (route.fallback is None) == (expected == CONTROL)


def test_no_unit_is_production_in_no_arm() -> None:
    route = snapshot(URLS, candidate_ppm=1_000_000).route("chat", None)
    assert (route.arm, route.outside, route.endpoint.version) == (None, "no_unit", 1)


def test_mirrors_sample_units_by_share() -> None:
    table = snapshot(URLS, share_ppm=250_000)
    hits = sum(bool(table.mirrors("chat", unit_id(str(n)), "r")) for n in range(20_000))
    assert abs(hits / 20_000 - 0.25) < 0.01


def test_what_is_not_there_is_named() -> None:
    table = snapshot(URLS, candidate_ppm=0)
    with pytest.raises(UnknownModel):
        table.route("nope", None)
    with pytest.raises(UnknownVersion, match="no arm 'x'"):
        table.forced_arm("chat", "x")
    with pytest.raises(UnknownVersion, match="version 9"):
        table.forced_version("chat", 9)


def damaged(change) -> bytes:
    document = orjson.loads(snapshot(URLS, candidate_ppm=500_000, share_ppm=1).to_json())
    change(document)
    return orjson.dumps(document)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.pop("models"), "'models' is missing"),
        (lambda d: d.update(format=99), "format: expected 1 to 2, got 99; .* Controller and proxies must be"),
        (lambda d: d.update(format="2"), "format"),
        (lambda d: d.update(format=True), "format"),
        (lambda d: d.pop("format"), "format"),
        (lambda d: d.update(version="7"), "version: expected a whole number"),
        (lambda d: d["models"][0].update(production=5), "version 5 of 'chat' has no endpoint"),
        (lambda d: d["models"][0].update(surprise=1), "surprise"),
        (lambda d: d["models"][0]["mirrors"][0].update(version=7), "version 7"),
        (lambda d: d["models"][0]["splits"][0]["arms"].pop(), "ranges"),
        (
            lambda d: d["models"][0]["splits"][0]["arms"].append(d["models"][0]["splits"][0]["arms"][0]),
            "exactly once",
        ),
        (lambda d: d["endpoints"][0].update(replicas=[]), "replicas"),
        (lambda d: d["endpoints"][0].update(engine="litellm"), "no URL for a provider"),
        (lambda d: d["endpoints"][0].update(replicas=["ftp://x"]), "expected http://host:port"),
        (lambda d: d.update(endpoints=None), "wrong type"),
        (lambda d: d["endpoints"][0].update(replicas=["http://[::1"]), "expected http://host:port"),
        (lambda d: d["endpoints"][0].update(served_name=3), "served_name"),
        (lambda d: d["models"][0]["splits"][0]["arms"][0].update(ranges=[[1]]), "ranges"),
        (lambda d: d["models"][0]["splits"][0].update(experiment="a\r\nset-cookie: b"), "experiment"),
        (lambda d: d["models"][0]["splits"][0]["arms"][1].update(name="b\n"), "name"),
        (lambda d: d["models"][0]["splits"][0].update(unit=5), "unit"),
        (lambda d: d["models"][0]["splits"][0].update(salt=5), "salt"),
        (lambda d: d["models"][0]["splits"][0].update(phase="1"), "phase"),
        (lambda d: d["models"][0]["mirrors"][0].update(share_ppm="1"), "share_ppm"),
        (lambda d: d["models"][0]["mirrors"][0].update(tools="maybe"), "tools"),
        (lambda d: d["models"][0].update(recording="some"), "recording"),
    ],
)
def test_what_cannot_be_acted_on_is_refused_with_the_field(change, says: str) -> None:
    with pytest.raises(SnapshotError, match=says):
        Snapshot.from_json(damaged(change))


def test_what_an_earlier_turnout_left_on_disk_is_read() -> None:
    table = snapshot(URLS, candidate_ppm=500_000)
    document = orjson.loads(table.to_json())
    document["format"] = 1
    for model in document["models"]:
        model["split"] = next(iter(model.pop("splits")), None)
    assert Snapshot.from_json(orjson.dumps(document)) == table


def test_every_torn_file_is_refused() -> None:
    raw = snapshot(URLS, candidate_ppm=1).to_json()
    for cut in range(len(raw)):
        with pytest.raises(SnapshotError):
            Snapshot.from_json(raw[:cut])


@pytest.mark.parametrize(
    "url",
    ["", "x", "http://", "http://u:p@h", "http://h/?q", "http://h:99999", "http://h\r\nx", "http://[::1"],
)
def test_replicas_are_plain_urls(url: str) -> None:
    with pytest.raises(SnapshotError):
        check_replica(url)


def test_rules_on_who_enters_travel_with_the_snapshot() -> None:
    rules = Exclusion(tenants=("acme",), headers=(("x-internal", "1"),), tags=(("tier", "gold"),))
    plain = snapshot(URLS, candidate_ppm=500_000)
    gates = (Gate(salt="holdout", low=200_000, high=PPM),)
    route = plain.models["chat"]
    split = replace(route.splits[0], gates=gates, exclude=rules)
    before = replace(plain, models={"chat": replace(route, splits=(split,))})
    after = Snapshot.from_json(before.to_json())
    assert after == before
    units = [unit_id(str(number)) for number in range(2000)]
    routes = [after.route("chat", unit) for unit in units]
    inside = [route for route in routes if route.arm]
    assert abs(len(inside) - 1600) < 80
    assert {route.outside for route in inside} == {None}
    nobody = after.route("chat", None)
    assert nobody.exclude is not None
    assert nobody.exclude[0] == rules
    assert {route.exclude for route in routes} == {nobody.exclude}
    outside = {route for route in routes if not route.arm} | {nobody, nobody.exclude[1]}
    assert {route.outside for route in outside} == {"holdout", "excluded", "no_unit"}
    assert {(route.experiment, route.endpoint.version) for route in outside} == {("exp", 1)}


def beside(*parts: tuple[int, int], holdout: int = 0) -> Snapshot:
    """Experiments exp0, exp1, ... on one model, each with its part (ppm) of one group's units."""
    plain = snapshot(URLS, candidate_ppm=500_000)
    route = plain.models["chat"]
    splits = tuple(
        replace(
            route.splits[0],
            experiment=f"exp{number}",
            phase=number + 1,
            salt=f"salt{number}",
            gates=(
                Gate(salt="exclusive:g", low=low, high=high),
                *([Gate(salt="holdout", low=holdout, high=PPM)] if number == 0 and holdout else []),
            ),
        )
        for number, (low, high) in enumerate(parts)
    )
    return replace(plain, models={"chat": replace(route, splits=splits)})


def test_experiments_beside_each_other_have_their_own_units() -> None:
    table = Snapshot.from_json(beside((0, 400_000), (400_000, 700_000), holdout=500_000).to_json())
    found: Counter[tuple[str | None, str | None, str | None]] = Counter()
    for number in range(8000):
        unit = unit_id(f"unit {number}")
        route, at = table.route("chat", unit), point("exclusive:g", unit)
        whose = "exp0" if at < 400_000 or at >= 700_000 else "exp1"  # nobody's counts with the first one
        assert (route.experiment, route.phase) == (whose, int(whose[-1]) + 1)
        found[route.experiment, route.arm, route.outside] += 1
        assert whose == "exp0" or route.arm  # the one experiment's holdout is not the other's
    assert found["exp0", None, "exclusive"] == pytest.approx(2400, abs=6 * 41)
    assert found["exp0", None, "holdout"] == pytest.approx(1600, abs=6 * 36)
    for arm in ("control", "candidate"):
        assert found["exp0", arm, None] == pytest.approx(800, abs=6 * 27)
        assert found["exp1", arm, None] == pytest.approx(1200, abs=6 * 32)
    assert table.route("chat", None).outside == "no_unit"


def test_an_arm_that_several_experiments_have_is_named_with_its_experiment() -> None:
    table = beside((0, 500_000), (500_000, PPM))
    assert table.forced_arm("chat", "exp1/candidate").phase == 2
    with pytest.raises(UnknownVersion, match="exp0/candidate or exp1/candidate"):
        table.forced_arm("chat", "candidate")
    with pytest.raises(UnknownVersion, match="no arm 'exp2/candidate'"):
        table.forced_arm("chat", "exp2/candidate")
    assert beside((0, PPM)).forced_arm("chat", "candidate").arm == "candidate"


def test_experiments_beside_each_other_go_by_one_unit() -> None:
    table = beside((0, 500_000), (500_000, PPM))
    document = orjson.loads(table.to_json())
    document["models"][0]["splits"][1]["unit"] = "session"
    with pytest.raises(SnapshotError, match="one kind of unit, got session, user"):
        Snapshot.from_json(orjson.dumps(document))


@pytest.mark.parametrize("ppm", [None, 300_000])
def test_a_table_of_before_several_experiments_is_read(ppm: int | None) -> None:
    now = snapshot(URLS, candidate_ppm=ppm)
    document = orjson.loads(now.to_json())
    splits = document["models"][0].pop("splits")
    document["models"][0]["split"] = splits[0] if splits else None
    assert Snapshot.from_json(orjson.dumps(document)) == now


@pytest.mark.parametrize(
    ("tenant", "headers", "metadata", "covered"),
    [
        ("acme", {}, None, True),
        ("other", {}, None, False),
        (None, {b"x-internal": b"1"}, None, True),
        (None, {b"x-internal": b"2"}, None, False),
        (None, {}, {"tier": "gold"}, True),
        (None, {}, {"tier": ["gold"]}, False),
        (None, {}, "gold", False),
    ],
)
def test_a_request_that_a_rule_fits_stays_outside(
    tenant: str | None, headers: dict[bytes, bytes], metadata: object, covered: bool
) -> None:
    rules = Exclusion(tenants=("acme",), headers=(("x-internal", "1"),), tags=(("tier", "gold"),))
    assert rules.covers(tenant, headers, metadata) is covered


@pytest.mark.parametrize("sent", ["Zoé".encode(), "Zoé".encode("latin-1")])
def test_a_header_is_excluded_in_either_coding(sent: bytes) -> None:
    """As a unit's name is one in both."""
    rules = Exclusion(headers=(("x-user", "Zoé"), ("x-team", "東京")))
    assert rules.covers(None, {b"x-user": sent}, None)
    assert not rules.covers(None, {b"x-user": b"Zo?"}, None)
    assert rules.covers(None, {b"x-team": "東京".encode()}, None)
