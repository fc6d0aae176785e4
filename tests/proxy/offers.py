"""A controller that offers routing tables, most of them such that nobody may act on them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace

import orjson

from experiments.snapshot import Snapshot

from .harness import json_answer, snapshot

BROKEN = ("torn", "empty", "unknown arm", "hole", "older")


class Offers:
    """Plays the controller: each poll gets the next offer. `valid` are the tables that may be acted on."""

    def __init__(self, engine: str, reloads: int) -> None:
        self._urls = {1: engine, 2: engine}
        self._left = reloads
        self._chance = random.Random(1)
        self.version = 1
        self.valid: dict[int, Snapshot] = {1: self._table(1)}
        self.offered: Counter[str] = Counter()
        self.done = asyncio.Event()

    def _table(self, version: int) -> Snapshot:
        made = snapshot(self._urls, candidate_ppm=self._chance.randrange(0, 1_000_001), version=version)
        route = made.models["chat"]
        split = replace(route.splits[0], phase=version, salt=f"salt {version % 3}")
        return replace(made, models={"chat": replace(route, splits=(split,))})

    def offer(self) -> bytes:
        kind = "valid" if self._chance.random() < 0.5 else self._chance.choice(BROKEN)
        self.offered[kind] += 1
        made = self._table(self.version + 1)
        raw = made.to_json()
        if kind == "torn":
            return raw[: self._chance.randrange(1, len(raw))]
        if kind == "empty":
            return b""
        if kind == "older":
            return replace(made, version=self._chance.randrange(self.version)).to_json()
        document = orjson.loads(raw)
        arms = document["models"][0]["split"]["arms"]
        if kind == "unknown arm":
            arms[1]["version"] = 7
            return orjson.dumps(document)
        if kind == "hole":
            arms[0]["ranges"] = [[5, 1_000_000]]
            return orjson.dumps(document)
        self.version += 1
        self.valid[self.version] = made
        return raw

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if self._left <= 0:
                    self.done.set()
                    return
                self._left -= 1
                writer.write(json_answer(self.offer()))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
