"""Settings come from the environment, are checked, and slips in names are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.__main__ import control_token
from turnout.settings import SettingsError, read_settings, unknown_variables


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_PROXY_PORT", "9000")
    assert read_settings().proxy_port == 9000
    assert read_settings(proxy_port=9001).proxy_port == 9001
    assert read_settings(proxy_port=None).proxy_port == 9000


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:8080"),
        ("::1", "http://[::1]:8080"),
        ("10.1.2.3", "http://10.1.2.3:8080"),
    ],
)
def test_the_proxy_is_asked_where_it_listens(
    monkeypatch: pytest.MonkeyPatch, host: str, address: str
) -> None:
    monkeypatch.setenv("TURNOUT_HOST", host)
    assert read_settings().proxy_address == address
    assert read_settings(proxy_url="http://front:1").proxy_address == "http://front:1"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TURNOUT_PROXY_PORT", "many"),
        ("TURNOUT_CONTROL_PORT", "65536"),
        ("TURNOUT_WORKERS", "0"),
        ("TURNOUT_CONTROL_URL", "localhost:8081"),
        ("TURNOUT_CONTROL_URL", "http://[::1"),
        ("TURNOUT_PROXY_URL", "ftp://h:1"),
        ("TURNOUT_PROXY_URL", "http://h:99999"),
        ("TURNOUT_LIMITS", "body_byte=1"),
        ("TURNOUT_DATA", ""),
        ("TURNOUT_DATA", "~nobody-of-this-name/data"),
    ],
)
def test_a_wrong_value_is_told_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable) as caught:
        read_settings()
    assert repr(value) in str(caught.value)


def test_a_variable_that_nothing_reads_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_PROXY_POTR", "1")
    monkeypatch.setenv("TURNOUT_PROXY_PORT", "1")
    monkeypatch.setenv("TURNOUT_API_KEY", "k")
    assert unknown_variables() == ["TURNOUT_PROXY_POTR is no setting: did you mean TURNOUT_PROXY_PORT?"]


def test_the_token_is_read_from_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TURNOUT_TOKEN", raising=False)
    settings = read_settings(data=tmp_path)
    assert settings.read_token() is None
    (tmp_path / "token").write_text("abc\n")
    assert settings.read_token() == "abc"
    assert read_settings(data=tmp_path, token="given").read_token() == "given"
    (tmp_path / "token").write_bytes(b"\xff")
    assert read_settings(data=tmp_path).read_token() is None


def test_a_token_with_the_line_end_of_its_file_is_the_controllers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_TOKEN", " abc\n")
    assert read_settings().read_token() == control_token(Path()) == "abc"
    assert "TURNOUT_TOKEN" in read_settings(token="abc").token_origin


def test_a_home_in_the_data_folder_is_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("TURNOUT_DATA", "~/turnout")
    assert read_settings().data == Path("/home/ada/turnout")
