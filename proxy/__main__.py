"""`python -m proxy`: one worker on a socket it inherits, or the supervisor of several."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

import uvloop

from .limits import VARIABLE, LimitError, Limits, fitted, read_limits
from .supervisor import PortTaken, ProxyOptions, run
from .worker import Worker


async def _serve(listener: socket.socket, arguments: argparse.Namespace, limits: Limits) -> None:
    worker = Worker(arguments.data, arguments.control_url, fitted(limits))
    if arguments.busy_polling:
        worker.poll_busily()
    alone = arguments.workers == 1
    await worker.run(listener, arguments.parent, arguments.ready_fd, alone=alone, at_once=arguments.at_once)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m proxy", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder for the spool and the last snapshot")
    parser.add_argument("--control-url", default="http://127.0.0.1:8081")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--busy-polling", action="store_true", help="workers never sleep, for a core each")
    parser.add_argument("--listener-fd", type=int, help="inherited and listening; in place of --host, --port")
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--at-once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:  # the supervisor looks as well, so that a slip is told once and not by each worker
        limits = read_limits(os.environ.get(VARIABLE, ""))
    except LimitError as error:
        logging.getLogger("turnout.proxy").error("%s: %s", VARIABLE, error)
        return 2
    if arguments.fd is not None:
        uvloop.run(_serve(socket.socket(fileno=arguments.fd), arguments, limits))
        return 0
    options = ProxyOptions(
        data=arguments.data,
        control_url=arguments.control_url,
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        leaving_s=limits.leaving_seconds,
        busy_polling=arguments.busy_polling,
        listener_fd=arguments.listener_fd,
    )
    try:
        return run(options)
    except PortTaken as error:
        logging.getLogger("turnout.proxy").error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
