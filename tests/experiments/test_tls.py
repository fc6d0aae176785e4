"""Certificates are read, and asked for, wherever an address is not plain http."""

from __future__ import annotations

import pytest

from experiments.tls import over_tls


@pytest.mark.parametrize(
    ("urls", "needed"),
    [
        (("http://a:1", "HTTP://b:2/x"), False),
        (("http://a:1", "https://b:2"), True),
        (("https://a",), True),
        (("a:1",), True),  # whatever it is, it is not trusted blindly
    ],
)
def test_only_http_needs_none(urls: tuple[str, ...], needed: bool) -> None:
    assert over_tls(*urls) is needed
