"""What is the least that a Python proxy on these libraries costs? A reference for `bench.proxy`.

    python -m bench.proxy --reference "bare=8301=python -m bench.bare 8301"

It reads one request and one answer at a time as they come, trusts their framing, parses the body, hashes the
user to one of two engines, writes a checked record before the last byte, and does nothing else that a proxy
must: no keys, caps, deadlines, disconnects, retries or metrics. Not for use.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from hashlib import sha256
from typing import Any, Final

import orjson
import uvloop
from zlib_ng.zlib_ng import crc32

_ENGINES: Final = (9001, 9002)
_SHARE: Final = 0.2
_LAST: Final = b"0\r\n\r\n"


class Spool:
    """Records of a turn of the loop are written together; then their answers go out."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # for life
        self._waiting: list[tuple[bytes, Any, bytes]] = []

    def conclude(self, record: bytes, client: Any, data: bytes) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._deliver)
        self._waiting.append((b"%d%b" % (crc32(record), record), client, data))

    def _deliver(self) -> None:
        waiting, self._waiting = self._waiting, []
        os.write(self._file.fileno(), b"".join([record for record, _, _ in waiting]))
        for _, client, data in waiting:
            client.transport.write(data)


class Engine(asyncio.Protocol):
    """A connection to one of the engines."""

    client: Client

    def __init__(self, idle: list[Engine], spool: Spool) -> None:
        self._idle, self._spool = idle, spool
        self._streaming = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if not self._streaming:
            self._streaming = b"chunked" in data[: data.find(b"\r\n\r\n")]
        if self._streaming and not data.endswith(_LAST):
            self.client.transport.write(data)
            return
        self._streaming = False
        self._idle.append(self)
        client = self.client
        head = orjson.dumps((client.started, client.document["model"], time.monotonic_ns()))
        self._spool.conclude(b"".join((head, client.body, data)), client, data)


class Client(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, idle: tuple[list[Engine], ...], spool: Spool) -> None:
        self._idle, self._spool = idle, spool

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if not data.startswith(b"POST "):  # whoever asks whether it is there
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return
        self.started = time.time_ns()
        self.body = data[data.find(b"\r\n\r\n") + 4 :]
        self.document: dict[str, Any] = orjson.loads(self.body)
        digest = sha256(b"salt:%b" % str(self.document.get("user")).encode()).digest()
        which = int.from_bytes(digest[:8], "big") < _SHARE * (1 << 64)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"
        request = b"%bcontent-length: %d\r\n\r\n%b" % (head, len(self.body), self.body)
        idle = self._idle[which]
        if idle:
            self._ask(idle.pop(), request)
        else:
            asyncio.ensure_future(self._connect(which, request))  # noqa: RUF006  # it lives as long as all here

    async def _connect(self, which: bool, request: bytes) -> None:
        loop, idle = asyncio.get_running_loop(), self._idle[which]
        _, engine = await loop.create_connection(
            lambda: Engine(idle, self._spool), "127.0.0.1", _ENGINES[which]
        )
        self._ask(engine, request)

    def _ask(self, engine: Engine, request: bytes) -> None:
        engine.client = self
        engine.transport.write(request)


async def main(port: int) -> None:
    idle: tuple[list[Engine], list[Engine]] = ([], [])
    spool = Spool()
    server = await asyncio.get_running_loop().create_server(lambda: Client(idle, spool), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
