"""What does `turnout experiment watch` show? One experiment as it goes, until it has ended or Ctrl-C.

In a terminal one screen that is drawn anew; anywhere else a line whenever something has changed, for logs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

from rich.console import Group
from rich.live import Live
from rich.text import Text

from experiments.client import ControlClient, ControlError

from .operations import Json, entering, path_part
from .scorecard import SCORECARD, VERDICT_STYLES, accounting, scorecard_row
from .settings import Settings
from .terminal import fail, grid, out, plain, say

EVERY_S: Final = 1.0
#: A controller that is restarted comes back; one that is away for longer is told once, and waited for.
_SHOWN: Final = 6


def watch(settings: Settings, name: str, *, every_s: float = EVERY_S) -> None:
    """Show until it has ended. What the controller refuses ends the command; its absence does not."""
    client = ControlClient(settings.control_address)
    with closing(client):
        try:
            first = _look(client, name)
            if out.is_terminal:
                _live(client, name, first, every_s)
            else:
                _lines(client, name, first, every_s)
        except ControlError as error:
            fail(str(error))
        except KeyboardInterrupt:
            pass


def _look(client: ControlClient, name: str) -> tuple[Json, list[Json]]:
    found = client.get(f"/api/experiments/{path_part(name, 'experiment')}")
    return found, client.get("/api/decisions", {"experiment": name, "limit": _SHOWN})


def _looks(
    client: ControlClient, name: str, first: tuple[Json, list[Json]], every_s: float
) -> Iterator[tuple[Json, list[Json], str]]:
    """What is seen each time, and what is wrong with the controller (then it is what was seen last), until
    the experiment has ended or nobody looks any more (`| head`)."""
    seen, trouble = first, ""
    while True:
        yield (*seen, trouble)
        if seen[0]["ended_at"] is not None or out.quiet:
            return
        time.sleep(every_s)
        try:
            seen, trouble = _look(client, name), ""
        except ControlError as error:
            if error.status not in (0, 503):
                raise
            trouble = str(error)


def _live(client: ControlClient, name: str, first: tuple[Json, list[Json]], every_s: float) -> None:
    with Live(console=out, auto_refresh=False, vertical_overflow="crop") as screen:
        for experiment, decisions, trouble in _looks(client, name, first, every_s):
            screen.update(_screen(experiment, decisions, trouble), refresh=True)


def _screen(experiment: Json, decisions: list[Json], trouble: str) -> Group:
    verdict = experiment["verdict"]
    parts: list[Any] = [Text(headline(experiment), style="bold")]
    if verdict is not None:
        parts.append(Text(plain(verdict["sentence"]), style=VERDICT_STYLES.get(verdict["kind"], "")))
        parts.append(grid(SCORECARD, [scorecard_row(metric) for metric in verdict["metrics"]]))
    if experiment.get("waiting_for"):
        parts.append(Text(f"next step: {plain(experiment['waiting_for'])}"))
    parts.append(Text(accounting(experiment), style="dim"))
    parts.append(grid(("when", "who", "what", "why"), [_decision(one) for one in decisions]))
    if trouble:
        parts.append(Text(plain(trouble), style="red"))
    return Group(*parts)


def _lines(client: ControlClient, name: str, first: tuple[Json, list[Json]], every_s: float) -> None:
    told = ""
    known = {one["decision_id"] for one in first[1]}
    for experiment, decisions, trouble in _looks(client, name, first, every_s):
        for one in reversed(decisions):
            if one["decision_id"] not in known:
                known.add(one["decision_id"])
                say(" ".join(map(str, _decision(one))))
        verdict = experiment["verdict"]
        line = trouble or f"{headline(experiment)}: {verdict['sentence'] if verdict else 'no verdict yet'}"
        if line != told:
            told = line
            say(line)


def headline(experiment: Json) -> str:
    """Name, state, arms and how far it has come."""
    arms = " / ".join(f"{arm['arm']} v{arm['version']} {arm['weight_pct']:g} %" for arm in experiment["arms"])
    return plain(
        f"{experiment['name']} ({experiment['mode']} on {experiment['model']}) is "
        f"{experiment['state'].replace('_', ' ')}: {arms}{entering(experiment)}, "
        f"{experiment['units']} of {experiment['horizon']} units"
    )


def _decision(one: Json) -> tuple[object, ...]:
    what = "; ".join(one["changed"]) or one["action"]
    if one["state"] != "done":
        what = f"{one['action']} {'failed' if one['state'] == 'failed' else 'is not done yet'}: {what}"
    return one["at"][11:19], one["actor"], what, one["reason"] or one["verdict_kind"] or ""
