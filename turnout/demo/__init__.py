"""`turnout demo`: the main job from start to end, on simulated engines, in one folder, in a few minutes."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from experiments.client import ControlError
from turnout.processes import ProcessFailed, endings
from turnout.terminal import fail, out, plain, say, table

from .shop import Shop, read_questions
from .stage import MODEL, VERSIONS, DemoImpossible, Stage, prepare, raise_curtain
from .stories import Line, Teller

demo_app = typer.Typer(pretty_exceptions_enable=False)
_ENDED = 130


@demo_app.command()
def demo(
    data: Annotated[Path, typer.Option(help="Folder of the demo; made afresh.")] = Path("turnout-data/demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
) -> None:
    """Three stories on simulated engines: a worse, a failing and a better candidate."""
    stop = threading.Event()
    for number in endings():
        signal.signal(number, _interrupt)
    began = time.monotonic()
    stage: Stage | None = None
    lines: list[Line] = []
    try:
        stage = prepare(data)
        say("The engines of this demo are simulated. HTTP, MLflow, DuckDB and the statistics are real.")
        with out.status("starting four simulated engines, controller, proxy and dashboard"):
            stage = raise_curtain(stage)
            stage.register()
        say(f"Registered {MODEL} with {len(VERSIONS)} versions in MLflow; version 1 is production.")
        lines = asyncio.run(_tell(stage))
        _conclude(stage, lines, time.monotonic() - began)
        if keep:
            say("Everything keeps running; Ctrl-C stops it.")
            stop.wait()
    except (DemoImpossible, ProcessFailed, ControlError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        say("Stopped.")
        if not lines:
            raise typer.Exit(_ENDED) from None
    finally:
        for number in (signal.SIGINT, *endings()):
            signal.signal(number, signal.SIG_IGN)  # pressed twice, Ctrl-C would leave processes behind
        if stage is not None:
            with out.status("stopping"):
                stage.processes.stop()
    if not lines or not all(line.as_expected for line in lines):
        fail("A story did not end as it should; the logs are beside the data.")


def _interrupt(*_: object) -> None:
    """SIGTERM and the terminal's end stop the demo as Ctrl-C does."""
    raise KeyboardInterrupt


async def _tell(stage: Stage) -> list[Line]:
    questions = read_questions(stage.golden / "items.jsonl")
    shop = Shop(stage.settings.proxy_address, MODEL, questions)
    teller = Teller(stage=stage, shop=shop, say=lambda text: say(f"  {text}"), bar=_bar)
    lines: list[Line] = []
    try:
        for number, title, story in (
            (1, "a candidate whose quality drops", teller.quality_drop),
            (2, "a candidate that fails more often", teller.failing),
            (3, "a better candidate", teller.better),
        ):
            out.rule(Text(f"{number}. {title}", style="bold"), align="left")
            lines += await story()
    finally:
        await shop.close()
    seen = shop.traffic
    served = ", ".join(f"v{version} {count}" for version, count in sorted(seen.served.items()))
    say(f"The application saw: answers by {served}; {seen.failed} failed requests.")
    return lines


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar; the function that it gives says how far things are."""
    columns = (TextColumn("  {task.description}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=min(done, total))


def _conclude(stage: Stage, lines: list[Line], seconds: float) -> None:
    out.rule(align="left")
    rows = [
        (
            f"v{line.version}", line.stage, line.n, "\n".join(line.metrics), line.verdict.replace("_", " "),
            Text(plain(line.decision), style="green" if line.as_expected else "red"),
        )
        for line in lines
    ]  # fmt: skip
    table(("version", "stage", "n", "metrics, with intervals", "verdict", "decision"), rows)
    result = {"seconds": round(seconds, 1), "lines": [asdict(line) for line in lines]}
    data = stage.settings.data.resolve()
    (data / "demo.json").write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    say(f"{seconds:.0f} s. Ledger, registry, spool and logs: {data}")
    say(f"Dashboard: http://127.0.0.1:{stage.settings.dashboard_port}   (make demo KEEP=1 leaves it running)")
