"""Does it matter where a stream is cut? Random partitions and spellings against the unsplit parse.

    python -m bench.partitions [--count 40000] [--seed 1]

Each case takes a stream of one API, spells it anew (line ends, comments, spaces, a byte order mark), cuts
it at random places down to single bytes, and compares twice: the events of the decoder fed piece by piece
with those of the whole body, and the transcript of the cut record with that of the stream in one piece.
Exit code 1 at the first difference.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from itertools import pairwise
from random import Random

from experiments.ledger.sse import Event, EventStream, events_in
from experiments.ledger.transcript import decode
from tests.experiments.ledger import wires
from tests.experiments.ledger.samples import CHAT, chat_stream

KIND = "text/event-stream"
WORDS = (
    "Zug ",
    "fährt 🚂",
    "漢字",
    "👨\u200d👩\u200d👧",
    "\\ud83d",
    "é́",
    "\x00",
    "data: [DONE]",
    "\n\n",
    '"',
    "a" * 900,
)


def _stream(random: Random) -> tuple[str, bytes]:
    words = random.choices(WORDS, k=random.randint(1, 12))
    return random.choice(
        (
            (CHAT, chat_stream(words)),
            ("/v1/completions", wires.completions_stream()),
            (wires.MESSAGES, wires.messages_stream(*words)),
            (wires.MESSAGES, wires.messages_tool_stream()),
            (wires.RESPONSES, wires.responses_stream(*words)),
            (wires.RESPONSES, wires.responses_tool_stream()),
        )
    )


def _edges(random: Random, length: int) -> list[int]:
    if random.random() < 0.05:
        return list(range(length + 1))  # byte by byte
    return sorted({0, length, *(random.randint(0, length) for _ in range(random.randint(1, 60)))})


def _split(body: bytes, edges: list[int]) -> tuple[list[Event], bytes]:
    decoder = EventStream()
    found = [event for low, high in pairwise(edges) for event in decoder.feed(body[low:high])]
    last, tail = decoder.finish()
    return found + last, tail


def check(random: Random) -> str:
    """One case: the API's path. Raises AssertionError on a difference."""
    path, plain = _stream(random)
    body = wires.respelt(plain, random)
    edges = _edges(random, len(body))
    events, tail, _ = events_in(body)
    assert _split(body, edges) == (events, tail), "other events"
    assert b"\xef\xbf\xbd" not in b"".join(event.data for event in events), "a character was cut"
    ends = edges[1:]
    cut = decode(path, KIND, 200, body, tuple(range(len(ends))), ends, b"{}")
    whole = decode(path, KIND, 200, plain, (0,), (len(plain),), b"{}")
    assert wires.content(cut) == wires.content(whole), "another transcript"
    assert cut.outcome in ("complete", "length"), cut.outcome
    return path


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    seen: Counter[str] = Counter()
    begun = time.perf_counter()
    for number in range(given.count):
        try:
            seen[check(Random(f"{given.seed}:{number}"))] += 1
        except AssertionError as error:
            print(f"case {number} of seed {given.seed}: {error}")
            return 1
    took = time.perf_counter() - begun
    print(f"{given.count} partitions, 0 differences, {took:.0f} s: {dict(seen)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
