"""`python -m turnout.simulation`: one simulated engine as a process, until SIGTERM or SIGINT.

It prints one line of JSON with its URL when it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from .answers import AnswerKey, AnswerKeyError
from .engine import SimulatedEngine
from .faults import FaultError
from .profile import Profile, ProfileError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m turnout.simulation", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--profile", help="JSON, or a file with it; the options below win over it")
    parser.add_argument("--answers", action="append", default=[], type=Path, help="golden items with answers")
    parser.add_argument("--faults", default="", help="faults on every exchange, joined by '+'")
    for each in fields(Profile):
        option = "--" + each.name.replace("_", "-")
        parser.add_argument(option, dest=f"profile_{each.name}", type=type(each.default), metavar="VALUE")
    return parser


async def _serve(engine: SimulatedEngine) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with engine:
        sys.stdout.write(
            json.dumps({"url": engine.url, "name": engine.profile.name, "simulated": True}) + "\n"
        )
        sys.stdout.flush()
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop. 2: an argument that cannot be."""
    given = _parser().parse_args(arguments)
    named = {k.removeprefix("profile_"): v for k, v in vars(given).items() if k.startswith("profile_")}
    named = {name: value for name, value in named.items() if value is not None}
    try:
        base = Profile.from_json(given.profile) if given.profile else Profile()
        profile = Profile.from_fields({**asdict(base), **named})
        engine = SimulatedEngine(
            profile,
            key=AnswerKey.read(given.answers),
            faults=given.faults,
            host=given.host,
            port=given.port,
        )
        asyncio.run(_serve(engine))
    except (ProfileError, AnswerKeyError, FaultError, OSError) as problem:
        sys.stderr.write(f"simulated engine: {problem}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
