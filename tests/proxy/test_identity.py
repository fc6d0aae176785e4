"""Requests have names that nobody else's have, and that sort by time."""

from __future__ import annotations

import uuid

from proxy.identity import new_id

MILLISECOND = 1_000_000


def test_a_name_is_a_uuid_of_version_7() -> None:
    for instant in (0, 1, 1_764_000_000_123, (1 << 48) - 1):
        name = new_id(instant * MILLISECOND)
        found = uuid.UUID(name)
        assert str(found) == name
        assert (found.version, found.variant) == (7, uuid.RFC_4122)
        assert found.int >> 80 == instant


def test_no_two_are_the_same_within_an_instant_and_beyond_a_batch() -> None:
    names = [new_id(17) for _ in range(5000)]
    assert len(set(names)) == len(names)
    tails = [name[-12:] for name in names]
    assert len(set(tails)) == len(tails), "what tells them apart is random, not only shared"


def test_they_sort_by_time() -> None:
    names = [new_id(at * MILLISECOND) for at in range(1000)]
    assert names == sorted(names)
