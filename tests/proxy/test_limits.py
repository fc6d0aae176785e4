"""Limits that an operator sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.limits import VARIABLE, LimitError, Limits, read_limits


def test_nothing_set_is_the_defaults() -> None:
    assert read_limits("") == Limits()
    assert read_limits(" , ") == Limits()


def test_what_is_set_is_changed_and_nothing_else() -> None:
    found = read_limits("body_bytes=67108864, first_byte_seconds = 1800.5")
    assert found == Limits(body_bytes=67108864, first_byte_seconds=1800.5)
    assert isinstance(found.body_bytes, int)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("body_byte=1", "'body_byte' is no limit: did you mean body_bytes?"),
        ("zebra=1", "'zebra' is no limit"),
        ("body_bytes", "expected NAME=VALUE"),
        ("body_bytes=1,body_bytes=2", "body_bytes is set twice"),
        (
            "body_bytes=64MB",
            "body_bytes: expected a whole number above 0 and at most 1,000,000,000,000,000, not '64MB'",
        ),
        ("body_bytes=0", "body_bytes: expected a whole number above 0"),
        ("body_bytes=-1", "body_bytes: expected a whole number above 0"),
        ("idle_seconds=inf", "idle_seconds: expected a number of seconds above 0"),
        ("body_bytes=" + "9" * 309, "body_bytes: expected a whole number above 0 and at most 1,000"),
        ("body_bytes=" + "9" * 5000, "and at most 1,000"),
        ("idle_seconds=" + "9" * 309, "idle_seconds: expected a number of seconds above 0 and at most 1,000"),
        ("idle_seconds=nan", "idle_seconds: expected a number of seconds above 0"),
        ("idle_seconds=soon", "idle_seconds: expected a number of seconds above 0"),
    ],
)
def test_a_slip_is_named(text: str, told: str) -> None:
    with pytest.raises(LimitError) as caught:
        read_limits(text)
    assert told in str(caught.value)


def test_a_proxy_with_a_slip_in_its_limits_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "proxy", "--data", str(tmp_path), "--port", "0"]
    ended = subprocess.run(
        command, env=os.environ | {VARIABLE: "bodybytes=1"}, capture_output=True, text=True, timeout=30
    )
    assert ended.returncode == 2
    assert f"{VARIABLE}: 'bodybytes' is no limit: did you mean body_bytes?" in ended.stderr
    assert not list(tmp_path.iterdir())
