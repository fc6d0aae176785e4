"""How the dashboard is started: on loopback only, telling nobody, with the token out of the command line."""

from pathlib import Path

import pytest

import dashboard
from dashboard.start import ENTRY, command, environment


def test_loopback_headless_and_silent() -> None:
    words = " ".join(command(8501, "http://127.0.0.1:8081", "/data/token"))
    assert "-m streamlit run" in words
    for option in (
        "--server.address 127.0.0.1", "--server.port 8501", "--server.headless true",
        "--browser.gatherUsageStats false", "--server.allowedHosts localhost",
    ):  # fmt: skip
        assert option in words
    assert "token" not in words
    assert ENTRY.is_file()


def test_the_environment_names_controller_and_token_file() -> None:
    assert environment("http://127.0.0.1:8081/", Path("/data/token")) == {
        "TURNOUT_CONTROL_URL": "http://127.0.0.1:8081",
        "TURNOUT_TOKEN_FILE": "/data/token",
    }


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none(port: int) -> None:
    with pytest.raises(ValueError, match=r"outside 1\.\.65535"):
        command(port, "http://127.0.0.1:8081")


def test_a_url_that_is_none() -> None:
    with pytest.raises(ValueError, match="http:// or https://"):
        command(8501, "file:///etc/passwd")


def test_html_is_written_in_one_place_and_nothing_else_of_ours_is_imported() -> None:
    sources = list(Path(dashboard.__file__).parent.rglob("*.py"))
    assert len(sources) > 10
    for source in sources:
        text = source.read_text()
        for banned in (
            "unsafe_allow_html",
            "components.",
            "import experiments",
            "from experiments",
        ):
            assert banned not in text, f"{source.name}: {banned}"
        # One place may write HTML, and every character that is not ours is escaped there.
        assert ("st.html" in text) == (source.name == "panes.py"), source.name
        assert len(text.splitlines()) <= 500, source.name
