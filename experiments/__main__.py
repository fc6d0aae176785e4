"""`python -m experiments`: the controller as a process.

Stopping, in this order: 1. workers that wait for a snapshot are answered, so that no connection is held.
2. requests in flight end, for three seconds at most. 3. the loops end, the spool is collected once more.
4. the ledger is given up.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn

from registry import sqlite_uri

from .api import create_app
from .api.app import LOOPBACK_NAMES
from .controller import Controller, ControllerOptions
from .errors import ExperimentsError

log = logging.getLogger("turnout.controller")

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


def control_token(data: Path) -> str:
    """The token from TURNOUT_TOKEN, or from the file in the data folder; a new one if there is none."""
    given = os.environ.get("TURNOUT_TOKEN", "").strip()
    if given:
        return given
    file = data / "token"
    data.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        # Readable by its owner alone from its first byte on, and never half written.
        making = data / f"token.{os.getpid()}"
        with os.fdopen(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(secrets.token_urlsafe(32) + "\n")
        making.replace(file)
    token = file.read_text("utf-8").strip()
    if not token:
        raise ExperimentsError(f"the token file {file} is empty: delete it, and a new one will be made")
    return token


class _Server(uvicorn.Server):
    """Lets the workers' long polls go before it waits for requests to end."""

    def __init__(self, config: uvicorn.Config, controller: Controller) -> None:
        super().__init__(config)
        self._controller = controller

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._controller.publication.release()
        super().handle_exit(sig, frame)


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the ledger and the spool")
    parser.add_argument("--tracking-uri", help="MLflow's tracking URI; default: SQLite in the data folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8081)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # What is said to nobody's logger is scipy's: a line or two of each look.
    logging.getLogger().addFilter(lambda record: record.levelno >= logging.WARNING)
    data: Path = arguments.data
    try:
        options = ControllerOptions(
            data=data,
            tracking_uri=arguments.tracking_uri or sqlite_uri(data.resolve() / "mlflow.db"),
            token=control_token(data),
        )
        controller = Controller(options)
    except (ExperimentsError, OSError) as error:
        log.error("the controller cannot start: %s", error)
        return 1
    hosts = LOOPBACK_NAMES if arguments.host in _LOOPBACK else ("*",)
    config = uvicorn.Config(
        create_app(controller, allowed_hosts=hosts),
        host=arguments.host,
        port=arguments.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )
    server = _Server(config, controller)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped; being told to stop is no failure.
        signal.signal(number, lambda *_: None)
    server.run()
    return 0 if server.started and not controller.store.lost else 1


if __name__ == "__main__":
    sys.exit(main())
