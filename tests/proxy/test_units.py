"""Which unit a request names, and that no two become one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from experiments.assignment import unit_id
from proxy.units import raw_unit

from .harness import Engine, ask, json_answer, post, running_proxy, snapshot


async def plain(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(json_answer(b"{}"))


@pytest.mark.parametrize(
    ("document", "headers", "unit"),
    [
        (
            {"user": "a", "safety_identifier": "b", "metadata": {"user_id": "c"}},
            {b"x-turnout-user": b"h"},
            "h",
        ),
        ({"user": "a", "safety_identifier": "b", "metadata": {"user_id": "c"}}, {}, "a"),
        ({"safety_identifier": "b", "metadata": {"user_id": "c"}}, {}, "b"),
        ({"user": "", "metadata": {"user_id": "c"}}, {}, "c"),
        ({"metadata": {"user_id": 7}}, {}, None),
        ({"metadata": {"user_id": ""}}, {}, None),
        ({"metadata": {"user_id": None}}, {}, None),
        ({"metadata": ["user_id"]}, {}, None),
        ({"metadata": None}, {}, None),
        ({}, {}, None),
    ],
)
def test_where_a_users_name_is_taken_from(
    document: dict[str, Any], headers: dict[bytes, bytes], unit: str | None
) -> None:
    assert raw_unit("user", headers, document, None) == unit


@pytest.mark.parametrize(
    ("kind", "header"),
    [("user", b"x-turnout-user"), ("session", b"x-turnout-session"), ("header:X-Team", b"x-team")],
)
def test_a_name_is_the_same_in_utf_8_and_latin_1(kind: str, header: bytes) -> None:
    for raw, name in (
        (b"Zo\xe9", "Zoé"),
        ("Zoé".encode(), "Zoé"),
        (b"Zo\xe8 ", "Zoè"),
        ("王".encode(), "王"),
    ):
        assert raw_unit(kind, {header: raw}, {}, None) == name


async def test_the_user_of_a_message_is_where_anthropics_clients_put_it(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine:
        table = snapshot({1: engine.url, 2: engine.url}, candidate_ppm=500_000)
        async with running_proxy(tmp_path, table) as proxy:
            body = {"model": "chat", "max_tokens": 9, "messages": [], "metadata": {"user_id": "ada"}}
            await proxy.post(body, "/v1/messages")
            (row,) = proxy.exchanges()
            assert (row.unit, row.experiment) == (unit_id("ada"), "exp")


async def test_users_whose_names_are_no_utf_8_are_not_one_user(tmp_path: Path) -> None:
    async with Engine(plain).running() as engine:
        table = snapshot({1: engine.url, 2: engine.url}, candidate_ppm=500_000)
        async with running_proxy(tmp_path, table) as proxy:
            for name in (b"Zo\xe9", b"Zo\xe8", "Zoé".encode()):
                raw = post(ask(user=None)).replace(b"host: x", b"host: x\r\nx-turnout-user: " + name)
                await proxy.send(raw)
            units = [row.unit for row in proxy.exchanges()]
            assert units == [unit_id("Zoé"), unit_id("Zoè"), unit_id("Zoé")]
