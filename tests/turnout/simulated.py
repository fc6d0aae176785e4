"""A simulated engine for a test, what a client asks of it, and the events that it sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx

from turnout.simulation import Profile, SimulatedEngine

ASK = {"model": "chat", "messages": [{"role": "user", "content": "Where is my parcel?"}]}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_order",
            "parameters": {"type": "object", "properties": {"order_id": {"type": "integer"}}},
        },
    }
]


@asynccontextmanager
async def serving(**options: object) -> AsyncIterator[tuple[SimulatedEngine, httpx.AsyncClient]]:
    profile = options.pop("profile", Profile(name="chat"))
    async with SimulatedEngine(profile, **options) as engine:  # type: ignore[arg-type]
        async with httpx.AsyncClient(base_url=engine.url, timeout=5) as client:
            yield engine, client


@asynccontextmanager
async def connected(
    engine: SimulatedEngine,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection, closed for good afterwards."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(engine.url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def events(body: bytes) -> list[str]:
    assert body.endswith(b"\n\n")
    lines = body.decode().split("\n\n")[:-1]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


async def post(
    client: httpx.AsyncClient, path: str = "/v1/chat/completions", **fields: object
) -> httpx.Response:
    return await client.post(path, json={**ASK, **fields})
