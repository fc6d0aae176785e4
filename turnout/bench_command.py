"""`turnout bench URL`: the load test that a user runs on an engine or on the proxy.

A round per concurrency, the first of them twice: cold, then warm. Progress goes to stderr, results to stdout.
Exit codes: 0 every request was answered, 1 some were not, 2 wrong usage, 130 ended by Ctrl-C (the rounds that
were whole are reported).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.tls import over_tls

from .load import Bounds, Round, Target, authorization, client_for, run_round
from .load_report import Figures, figures, print_table, write
from .terminal import emit, err, fail, say

bench = typer.Typer(add_completion=False)
_MOST_AT_ONCE = 4096
_ENDED = 130


@bench.command()
def run(
    url: Annotated[str, typer.Argument(metavar="URL", help="An engine, or the proxy: http://HOST:PORT")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Default: the only one under /v1/models.")
    ] = None,
    concurrency: Annotated[str, typer.Option("--concurrency", "-c", help="Requests at once.")] = "1,10,50",
    requests: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many per round.")] = 200,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="At most so long per round.")] = 30.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one answer.")] = 120.0,
    max_tokens: Annotated[int, typer.Option(min=1, max=10_000_000, help="Length of an answer.")] = 64,
    prompt_words: Annotated[int, typer.Option(min=1, max=100_000, help="Length of a prompt.")] = 64,
    stream: Annotated[bool, typer.Option(help="Streamed answers, or JSON.")] = True,
    api_key: Annotated[
        str | None, typer.Option(help="An API key, where one is asked for.", envvar="TURNOUT_API_KEY")
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", "-o", help="A file: .json, .csv, .png or .svg; repeat for more."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Latency against concurrency: cold and warm, time to first token, between tokens, tokens a second."""
    levels = _levels(concurrency)
    for path in out or ():
        if path.suffix.lower() not in (".json", ".csv", ".png", ".svg"):
            fail(f"--out {path}: expected a name that ends in .json, .csv, .png or .svg", 2)
        if not path.parent.is_dir():  # better now than after minutes of load
            fail(f"--out {path}: there is no folder {path.parent}", 2)
    if not _is_address(url):
        fail(f"URL {url!r}: expected http://HOST:PORT, with or without /v1", 2)
    target = Target(
        url=url,
        model=model or _only_model(url, api_key),
        api_key=api_key,
        max_tokens=max_tokens,
        prompt_words=prompt_words,
        stream=stream,
    )
    bounds = Bounds(requests=requests, seconds=seconds, timeout_s=timeout)
    done: list[Round] = []
    ended = False
    try:
        asyncio.run(_rounds(target, levels, bounds, done))
    except KeyboardInterrupt:
        ended = True
        if not done:
            fail("ended before a round was whole: nothing to report", _ENDED)
        err.print(f"ended by Ctrl-C: {len(done)} of {len(levels) + 1} rounds were whole", markup=False)
    _report(target, [figures(each) for each in done], out or [], as_json=as_json)
    if ended:
        raise typer.Exit(_ENDED)


def _is_address(url: str) -> bool:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return address.scheme in ("http", "https") and bool(address.host)


def _levels(text: str) -> list[int]:
    try:
        levels = [int(part) for part in text.split(",")]
    except ValueError:
        levels = []
    if not levels or not all(1 <= level <= _MOST_AT_ONCE for level in levels):
        fail(f"--concurrency {text!r}: expected numbers from 1 to {_MOST_AT_ONCE}, as in 1,10,50", 2)
    return levels


def _only_model(url: str, api_key: str | None) -> str:
    """The model that is served there, if there is one."""
    address = url.rstrip("/").removesuffix("/v1") + "/v1/models"
    try:
        headers, secure = authorization(api_key), over_tls(address)
        answer = httpx.get(address, headers=headers, timeout=10.0, trust_env=False, verify=secure)
        found = [str(each["id"]) for each in answer.raise_for_status().json()["data"]]
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        hint = "give a key with --api-key" if status in (401, 403) else "name the model with --model"
        fail(f"{address} answers with status {status}, not with the models there are: {hint}")
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        fail(
            f"{address} does not say which models there are ({error}); is it up? Or name one with --model", 1
        )
    if len(found) != 1:
        fail(f"{address} lists {', '.join(found) or 'no model'}: choose one with --model", 2)
    return found[0]


async def _rounds(target: Target, levels: list[int], bounds: Bounds, done: list[Round]) -> None:
    """A cold round of the first level, then a warm one of each; `done` gets those that are whole.

    Prompts are not repeated between rounds.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with client_for(target, max(levels)) as client:
        with Progress(*columns, console=err, transient=True) as progress:
            for place, level in enumerate([levels[0], *levels]):
                cold = place == 0
                count = min(level, bounds.requests) if cold else bounds.requests
                bar = progress.add_task(f"{level} at once{', cold' if cold else ''}", total=count)
                done.append(
                    await run_round(
                        client,
                        target,
                        level,
                        replace(bounds, requests=count),
                        first=place * bounds.requests,
                        cold=cold,
                        told=partial(progress.advance, bar),
                    )
                )


def _report(target: Target, rounds: list[Figures], files: list[Path], *, as_json: bool) -> None:
    title = f"{target.model} at {target.endpoint}"
    if as_json:
        emit({"target": title, "rounds": rounds})
    else:
        say(
            f"{title}, answers of up to {target.max_tokens} tokens, {'streamed' if target.stream else 'JSON'}"
        )
        print_table(rounds)
    for path in files:
        try:
            write(path, rounds, title)
        except OSError as error:
            fail(f"{path} cannot be written: {error.strerror or error}")
        err.print(f"wrote {path}", markup=False, soft_wrap=True)
    reasons = {reason for each in rounds for reason in each.errors}
    said = {reason: words for each in reversed(rounds) for reason, words in each.said.items()}
    if reasons:
        told = [f"{reason} ({said[reason]})" if reason in said else reason for reason in sorted(reasons)]
        fail(f"{sum(each.failed for each in rounds)} requests failed: {', '.join(told)}")
