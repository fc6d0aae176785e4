"""How is the dashboard started as a process of its own?

Pure: it says which command and which environment, and starts nothing. It must not know what the pages show.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

ENTRY = Path(__file__).with_name("app.py")

CONTROL_URL = "TURNOUT_CONTROL_URL"
TOKEN = "TURNOUT_TOKEN"
TOKEN_FILE = "TURNOUT_TOKEN_FILE"


def command(port: int, control_url: str, token_file: str | Path | None = None) -> list[str]:
    """The command line that serves the dashboard on 127.0.0.1:`port`, to be run with `environment(...)`.

    The control API's URL and the token travel in the environment, not here: a command line is visible to
    every user of the machine. Raises ValueError for a port outside 1..65535 or a URL that is not http(s).
    """
    environment(control_url, token_file)  # refuses a bad URL before a process is started
    if not 1 <= port <= 65535:
        raise ValueError(f"dashboard port {port} is outside 1..65535")
    return [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(ENTRY),
        "--server.address",
        "127.0.0.1",
        "--server.port",
        str(port),
        "--server.headless",
        "true",
        "--browser.gatherUsageStats",
        "false",
        # A page of another site that resolves its own name to 127.0.0.1 must not reach the promote button.
        "--server.allowedHosts",
        "localhost",
        "--server.allowedHosts",
        "127.0.0.1",
    ]


def environment(control_url: str, token_file: str | Path | None = None) -> Mapping[str, str]:
    """The variables to add to the process's environment. Raises ValueError for a URL that is not http(s)."""
    if not control_url.startswith(("http://", "https://")):
        raise ValueError(f"control URL {control_url!r} must start with http:// or https://")
    variables = {CONTROL_URL: control_url.rstrip("/")}
    if token_file is not None:
        variables[TOKEN_FILE] = str(token_file)
    return variables
