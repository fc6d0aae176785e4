"""Of who is forgotten no table, segment or file holds a word, and the sums are what they were."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.assignment import unit_id
from experiments.ledger.collector import Collector
from experiments.ledger.evaluations import add_scores
from experiments.ledger.exchange import FeedbackRecord, Record, encode
from experiments.ledger.forgetting import REMEMBERED_NS, Alias, Forgotten, Found, forget, named_in, naming
from experiments.ledger.spool import SpoolWriter, read_segment
from experiments.ledger.store import Store, instant

from .samples import START_NS, chat_answer, record

MARK = "Zq7markerXw"
ADA, BOB = unit_id("ada"), unit_id("bob")
ALIAS = "0123456789abcdef"


def asked(
    number: int, unit: str | None, *, says: str = "", user: str | None = None, **fields: object
) -> Record:
    body: dict[str, object] = {"model": "chat", "messages": [{"role": "user", "content": f"hello {says}"}]}
    if user is not None:
        body["user"] = user
    return record(
        number, unit=unit, request=json.dumps(body).encode(), response=chat_answer(f"yes {says}"), **fields
    )


def rows(store: Store) -> Iterator[str]:
    """All that stands in any table, as text; bodies unpacked."""
    from experiments.ledger.rows import unpack

    for table in store.read("SELECT table_name AS name FROM duckdb_tables()"):
        for row in store.read(f'SELECT * FROM "{table["name"]}"'):
            for value in row.values():
                yield str((unpack(value) or b"") if isinstance(value, bytes) else value)


def through(store: Store, spool: Path, records: list[Record], forgotten: Forgotten | None = None) -> None:
    writer = SpoolWriter(spool, "w")
    for each in records:
        assert writer.append(each)
    writer.close()
    collector = Collector(store, spool, None, forgotten)
    collector.collect_once()
    collector.collect_once()


def forgets(store: Store, *units: str, name: str = ALIAS) -> Found:
    wanted = frozenset(units)
    found = store.write(
        forget(dict.fromkeys(units, name), naming(store, wanted), then=lambda connection, found: None)
    )
    store.outdate()
    store.rewrite()
    return found


def sums(store: Store) -> list[Mapping[str, object]]:
    """What evidence is made of: rows by unit, without their names."""
    return store.read("""
        SELECT count(*) AS n, sum(duration_ms) AS ms, min(rowid) AS first FROM exchanges
        GROUP BY unit, experiment, assigned_arm ORDER BY first
    """)


@given(
    spoken=st.lists(
        st.tuples(st.sampled_from(["ada", "bob", None]), st.sampled_from([0, 3, 400, 9000]), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=12, deadline=None)
def test_no_table_and_no_byte_of_the_file_holds_a_word(spoken: list[tuple[str | None, int, bool]]) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder, "ledger.duckdb")
        with Store(file, threads=1) as store:
            records = [
                asked(
                    n,
                    unit_id(name) if name else None,
                    says=f"{MARK}-{name}-" + "w" * length,
                    user=name if told else None,
                    traceparent=f"00-{n:032x}-0000000000000001-01",
                )
                for n, (name, length, told) in enumerate(spoken)
            ]
            through(store, Path(folder, "spool"), records)
            for n, (name, _, _) in enumerate(spoken):
                score = {"exchange_id": record(n).exchange_id, "explanation": f"it says {MARK}-{name}-"}
                score |= {"evaluator": "e", "evaluator_version": "1", "status": "scored", "value": 1.0}
                store.write(lambda c, score=score: add_scores(c, [score], at=instant(START_NS)))
            store.checkpoint()
            gone, stays = f"{MARK}-ada-", f"{MARK}-bob-"
            of_bob = sum(stays in text for text in rows(store))
            before = sums(store)
            if any(name == "ada" for name, _, _ in spoken):
                assert any(gone in text for text in rows(store))
                assert ADA in "".join(rows(store))
            forgets(store, ADA)
            assert not any(gone in text or text == ADA for text in rows(store))
            assert sum(stays in text for text in rows(store)) == of_bob
            assert sums(store) == before
        content = b"".join(path.read_bytes() for path in Path(folder).iterdir() if path.is_file())
        assert gone.encode() not in content
        assert ADA.encode() not in content


def test_what_a_judge_says_of_it_later_is_a_number(store: Store, tmp_path: Path) -> None:
    """It read the answer before, and its score comes after."""
    through(store, tmp_path / "spool", [asked(1, ADA, says=MARK), asked(2, BOB, says=MARK)])
    forgets(store, ADA)
    for n in (1, 2):
        score = {"exchange_id": record(n).exchange_id, "explanation": f"it says {MARK}"}
        score |= {"evaluator": "e", "evaluator_version": "1", "status": "scored", "value": 1.0}
        store.write(lambda c, score=score: add_scores(c, [score], at=instant(START_NS)))
    kept = store.read("SELECT value, explanation FROM scores ORDER BY exchange_id")
    assert kept == [{"value": 1.0, "explanation": None}, {"value": 1.0, "explanation": f"it says {MARK}"}]


def test_the_bytes_are_in_the_file_until_it_is_written_anew(store: Store, tmp_path: Path) -> None:
    """Why deleting is not enough."""
    through(store, tmp_path / "spool", [asked(n, ADA, says=f"{MARK}{n}") for n in range(300)])
    store.checkpoint()
    store.write(forget({ADA: ALIAS}, [], then=lambda connection, found: None))
    store.checkpoint()
    assert MARK.encode() in store.path.read_bytes()
    store.rewrite()
    assert MARK.encode() not in store.path.read_bytes()


def test_it_is_found_where_it_was_counted_as_something_else(store: Store, tmp_path: Path) -> None:
    """An experiment by session counts sessions; the request names its user all the same. Copies go too."""
    session = unit_id("session-9")
    through(
        store,
        tmp_path / "spool",
        [
            asked(1, session, says=MARK, user="ada"),
            replace(asked(2, session, says=MARK, user="ada"), role="shadow", pair_id=record(1).exchange_id),
            asked(3, session, user="bob"),
        ],
    )
    found = forgets(store, ADA)
    assert (found.exchanges, found.bodies) == (2, 2)
    assert [row["unit"] for row in store.read("SELECT unit FROM exchanges")] == [session] * 3
    assert not any(MARK in text for text in rows(store))
    assert not forgets(store, ADA).anything


@pytest.mark.parametrize(
    ("body", "units"),
    [
        (b'{"user": "ada"}', {"ada"}),
        (
            b'{"user":"\\u00e4da \\"x\\"", "metadata": {"session_id": "s", "user_id": "u"}}',
            {'äda "x"', "s", "u"},
        ),
        (b'{"messages": [{"content": "my \\"user\\": \\"ada\\""}], "prompt_cache_key": "k"', {"k"}),
        (b'{"user": 3, "safety_identifier": "x"}', {"x"}),
        (b'{"user": "\\ud800', set()),
    ],
)
def test_whom_a_body_names(body: bytes, units: set[str]) -> None:
    assert named_in(body) == {unit_id(unit) for unit in units}


def test_feedback_keeps_its_numbers_and_loses_its_names(store: Store, tmp_path: Path) -> None:
    said = FeedbackRecord(name="thumb", value=1.0, at_ns=START_NS + 10**9, worker="w", unit=ADA, key="k" * 32)
    unheard = replace(said, unit=BOB, key="b" * 32, value=2.0)
    through(store, tmp_path / "spool", [asked(1, ADA), said, unheard])
    numbered = store.read("SELECT rowid, value FROM feedback ORDER BY value")
    assert forgets(store, ADA, BOB).feedback == 2
    assert store.read("SELECT rowid, value FROM feedback ORDER BY value") == numbered
    [one, other] = store.read("SELECT request_id, value, unit, key FROM feedback ORDER BY value")
    assert one == {"request_id": record(1).exchange_id, "value": 1.0, "unit": ALIAS, "key": None}
    assert other == {"request_id": f"unit:{ALIAS}", "value": 2.0, "unit": ALIAS, "key": None}


def test_what_lies_in_the_spool_comes_in_without_its_words(store: Store, tmp_path: Path) -> None:
    """Requests of before, however late they come; what is asked afterwards is recorded as anybody's."""
    now = START_NS + 5_000_000
    forgotten = Forgotten(tmp_path / "forgotten.json")
    forgotten.add({ADA: Alias(name=ALIAS, at_ns=now)})
    through(
        store,
        tmp_path / "spool",
        [
            asked(1, ADA, says=MARK),
            asked(2, BOB, says=MARK, user="ada"),
            asked(9, ADA, says="afterwards"),
            FeedbackRecord(name="thumb", value=1.0, at_ns=now, worker="w", unit=ADA, key="k" * 32),
        ],
        Forgotten(tmp_path / "forgotten.json"),
    )
    assert not any(MARK in text for text in rows(store))
    assert any("afterwards" in text for text in rows(store))
    assert [row["unit"] for row in store.read("SELECT unit FROM exchanges ORDER BY rowid")] == [
        ALIAS,
        BOB,
        ADA,
    ]
    assert store.read("SELECT unit, key FROM feedback") == [{"unit": ALIAS, "key": None}]


def test_what_was_set_aside_is_cleaned(tmp_path: Path) -> None:
    aside = tmp_path / "w-1.seg"
    aside.write_bytes(
        b"".join(piece for n in (1, 2) for piece in encode(asked(n, [ADA, BOB][n - 1], says=MARK)))
    )
    forgotten = Forgotten(tmp_path / "forgotten.json")
    forgotten.add({ADA: Alias(name=ALIAS, at_ns=START_NS + 10**9)})
    forgotten.clean(tmp_path)
    kept = read_segment(aside).records
    assert [MARK.encode() in one.request for one in kept if hasattr(one, "request")] == [False, True]
    assert aside.read_bytes().count(MARK.encode()) == 2


def test_after_a_week_nobody_knows_whom(tmp_path: Path) -> None:
    file = tmp_path / "forgotten.json"
    Forgotten(file).add({ADA: Alias(name=ALIAS, at_ns=START_NS)})
    known = Forgotten(file)
    known.expire(START_NS + REMEMBERED_NS - 1)
    assert known.get(ADA) is not None
    known.expire(START_NS + REMEMBERED_NS)
    assert known.get(ADA) is None
    assert ADA not in file.read_text()
