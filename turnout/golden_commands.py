"""`turnout golden`: what does a version answer to a golden set, and is a candidate as good as production?

Exit codes, for scripts and CI: 0 pass, 1 fail, 2 inconclusive, 3 nothing was concluded (wrong usage, wrong
files, a service that is away). Progress and remarks go to stderr, results to stdout.
"""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import uvloop
from typer.core import TyperCommand

from evaluators.comparison import Comparison, compare
from evaluators.errors import EvaluatorError, TokenRefused
from evaluators.formats.export import RunRecord, junit
from evaluators.golden import GoldenSet
from evaluators.journal import JOURNAL_FOLDER
from evaluators.judges.cache import CACHE_FILE
from evaluators.judges.services import open_services
from evaluators.labels.ledger import hand_out, people_of
from evaluators.ledger import GoldenLedger, Subject
from evaluators.loading import load_golden_set
from evaluators.models import Services
from evaluators.pacing import FREE, Prices
from evaluators.preferences import NO_PREFERENCES, Preferences, judged_pairs
from evaluators.runner import RunLimits
from evaluators.runs import Effort, FinishedRun, finished_run
from evaluators.summary import Gate, RunResults
from evaluators.target import ProxyTarget
from experiments.client import ControlClient, ControlError
from turnout.golden_report import Progress, print_comparison, print_summary
from turnout.operations import refusal
from turnout.settings import Settings, SettingsError, read_settings
from turnout.terminal import concluding_with, emit, err, fail, out, put_into, say

EXIT_CODES: Final[dict[Gate, int]] = {"pass": 0, "fail": 1, "inconclusive": 2}
NOTHING_CONCLUDED: Final = 3
_USAGE_ERROR: Final = 2  # typer's own code for it, which here means inconclusive


class GoldenCommand(TyperCommand):
    """A command whose usage errors exit with 3, and whose faults do: 1 and 2 are verdicts here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if getattr(error, "exit_code", None) == _USAGE_ERROR:
                error.exit_code = NOTHING_CONCLUDED  # type: ignore[attr-defined]
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, OSError):
            raise
        except Exception as error:
            if hasattr(error, "exit_code"):
                raise
            traceback.print_exc()
            raise typer.Exit(NOTHING_CONCLUDED) from None


SetArgument = Annotated[
    str,
    typer.Argument(
        metavar="SET", help="A folder with set.yaml and items.jsonl, a .jsonl file, or a name under goldens/."
    ),
]
ModelOption = Annotated[str, typer.Option("--model", "-m", help="The model's name.")]
RepeatsOption = Annotated[int, typer.Option(min=1, max=1000, help="How often each item is asked.")]
ConcurrencyOption = Annotated[int, typer.Option(min=1, max=1024, help="Questions in flight at once.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one answer.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Ask anew: neither resume nor reuse stored runs.")]
CeilingOption = Annotated[
    float | None,
    typer.Option(
        "--max-cost", min=0.0, help="US dollars, judges included: beyond it nothing more is asked (partial)."
    ),
]
PriceOption = Annotated[
    str | None,
    typer.Option(
        "--price", metavar="IN/OUT", help="US dollars for a million tokens in and out, such as 0.2/0.8."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
JunitOption = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML as well, for CI.")
]
ProxyOption = Annotated[str | None, typer.Option("--proxy-url", help="Where the proxy is.")]
ControlOption = Annotated[str | None, typer.Option("--control-url", help="Where the control API is.")]
TokenOption = Annotated[
    str | None, typer.Option("--token", help="The control token.", envvar="TURNOUT_TOKEN")
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option("--api-key", help="An API key, where the proxy asks for one.", envvar="TURNOUT_API_KEY"),
]


def run_command(
    set_: SetArgument,
    model: ModelOption,
    version: Annotated[str, typer.Option("--version", "-v", help="A version's number or alias.")],
    repeats: RepeatsOption = 1,
    concurrency: ConcurrencyOption = 8,
    timeout: TimeoutOption = 120.0,
    fresh: FreshOption = False,
    max_cost: CeilingOption = None,
    price: PriceOption = None,
    as_json: JsonOption = False,
    junit_file: JunitOption = None,
    proxy_url: ProxyOption = None,
    control_url: ControlOption = None,
    token: TokenOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Ask one version every item of a golden set, and store what its answers are worth."""
    places = Places(proxy_url=proxy_url, control_url=control_url, token=token, api_key=api_key)
    with concluding(_stopped(fresh=fresh)), places.desk(concurrency, timeout) as desk:
        golden_set = load_golden_set(set_path(set_))
        subject = desk.ledger.subject(model, version)
        limits = RunLimits(concurrency=concurrency, max_cost_usd=max_cost, prices=read_prices(price))
        effort = Effort(repeats=repeats, resume=not fresh, limits=limits, journal=desk.journal)
        finished = uvloop.run(desk.one(golden_set, subject, effort))
        write_junit(junit_file, golden_set, model, finished)
    with concluding_with(EXIT_CODES[finished.summary.gate], NOTHING_CONCLUDED):
        if as_json:
            told = {"run_id": finished.run.run_id, "version": subject.version}
            emit({**told, **finished.summary.to_json()})
        else:
            print_summary(out, golden_set, subject, finished, fresh=fresh)


def compare_command(
    set_: SetArgument,
    model: ModelOption,
    candidate: Annotated[str, typer.Option("--candidate", "-c", help="The candidate: a number or an alias.")],
    control: Annotated[str, typer.Option("--control", help="What it is compared with.")] = "production",
    repeats: RepeatsOption = 1,
    concurrency: ConcurrencyOption = 8,
    timeout: TimeoutOption = 120.0,
    fresh: FreshOption = False,
    max_cost: CeilingOption = None,
    price: PriceOption = None,
    as_json: JsonOption = False,
    junit_file: JunitOption = None,
    show_all: Annotated[bool, typer.Option("--all", help="List every newly failing item.")] = False,
    proxy_url: ProxyOption = None,
    control_url: ControlOption = None,
    token: TokenOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Compare a candidate with the control on a golden set, item by item.

    A stored run is used where it asked the same questions of the same version at the same endpoint.
    """
    places = Places(proxy_url=proxy_url, control_url=control_url, token=token, api_key=api_key)
    with concluding(_stopped(fresh=fresh)), places.desk(concurrency, timeout) as desk:
        golden_set = load_golden_set(set_path(set_))
        subjects = [desk.ledger.subject(model, reference) for reference in (control, candidate)]
        if subjects[0].version == subjects[1].version:
            raise EvaluatorError(
                f"{control!r} and {candidate!r} are the same version {subjects[0].version} of {model}; "
                "name another candidate"
            )
        limits = RunLimits(concurrency=concurrency, max_cost_usd=max_cost, prices=read_prices(price))
        effort = Effort(
            repeats=repeats, reuse=not fresh, resume=not fresh, limits=limits, journal=desk.journal
        )
        runs, comparison = uvloop.run(desk.both(golden_set, subjects, effort))
        desk.ledger.save(model, comparison, runs[0].run, runs[1].run)
        hand_out(desk.ledger, golden_set, runs[0].results, runs[1].results)
        write_junit(junit_file, golden_set, model, runs[1], comparison)
    with concluding_with(EXIT_CODES[comparison.verdict], NOTHING_CONCLUDED):
        if as_json:
            emit(comparison.to_json())
        else:
            print_comparison(out, comparison, runs, show_all=show_all)
            if any(reason.code == "judge_unlabelled" for reason in comparison.reasons):
                words = ["turnout", "golden", "label", set_, "--model", model, "--candidate", candidate]
                words += [] if control == "production" else ["--control", control]
                say(shlex.join(words))


@contextmanager
def concluding(stopped: str = "Stopped.") -> Iterator[None]:
    """Whatever keeps a command from its verdict is told on stderr, with the exit code that says so; where it
    is Ctrl-C, by `stopped`."""
    try:
        yield
    except (EvaluatorError, ControlError, SettingsError, OSError) as error:
        fail(str(error), NOTHING_CONCLUDED)
    except KeyboardInterrupt:
        err.print(stopped, markup=False, soft_wrap=True)
        raise typer.Exit(NOTHING_CONCLUDED) from None


def _stopped(*, fresh: bool) -> str:
    """What is said where a run was stopped: the next one takes up what is there, unless it is to be fresh."""
    told = "Stopped. What was answered is stored: the same command goes on from there"
    return f"{told}, but without --fresh." if fresh else f"{told}."


@contextmanager
def _naming_the_token(settings: Settings) -> Iterator[None]:
    """Whoever refuses the token cannot say where it came from."""
    try:
        yield
    except TokenRefused as error:
        raise TokenRefused(f"{error}; {settings.token_origin}") from None
    except ControlError as error:
        raise ControlError(refusal(settings, error), status=error.status, code=error.code) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where proxy and controller are, and what opens them. What is not given comes from the
    settings, the token from the data folder."""

    proxy_url: str | None = None
    control_url: str | None = None
    token: str | None = None
    api_key: str | None = None

    @contextmanager
    def desk(self, concurrency: int, timeout_s: float) -> Iterator[Desk]:
        """What a command works with, until the block ends."""
        settings, token = self.opened()
        with self.api() as api:
            yield Desk(
                ledger=GoldenLedger(api),
                proxy_url=settings.proxy_address,
                token=token,
                api_key=self.api_key,
                concurrency=concurrency,
                timeout_s=timeout_s,
                data=settings.data,
            )

    @contextmanager
    def api(self) -> Iterator[ControlClient]:
        """The control API alone, until the block ends."""
        settings, token = self.opened()
        with closing(ControlClient(settings.control_address, token)) as api, _naming_the_token(settings):
            yield api

    def opened(self) -> tuple[Settings, str]:
        """The settings in force and the token. Raises EvaluatorError when there is none."""
        if self.api_key and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise EvaluatorError("the API key has characters that fit no header, such as a line end: copy it")
        settings = read_settings(token=self.token, control_url=self.control_url, proxy_url=self.proxy_url)
        token = settings.read_token()
        if not token:
            missing = f"no token: {settings.token_file} cannot be read; give --token, or set TURNOUT_DATA"
            raise EvaluatorError(missing)
        return settings, token


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What both commands work with: the ledger, and how to reach the proxy."""

    ledger: GoldenLedger
    proxy_url: str
    token: str
    api_key: str | None
    concurrency: int
    timeout_s: float
    data: Path

    @property
    def journal(self) -> Path:
        """Where answers outlive a killed command."""
        return self.data / JOURNAL_FOLDER

    def services(
        self, golden_set: GoldenSet, subjects: Sequence[Subject]
    ) -> AbstractAsyncContextManager[Services]:
        """The models that the set's evaluators may ask about these subjects."""
        return open_services(
            golden_set,
            subjects,
            self.ledger,
            proxy_url=self.proxy_url,
            token=self.token,
            api_key=self.api_key,
            cache=self.data / CACHE_FILE,
        )

    async def one(self, golden_set: GoldenSet, subject: Subject, effort: Effort) -> FinishedRun:
        """The version's run."""
        async with self.services(golden_set, [subject]) as services:
            return await self._finished(golden_set, subject, effort, services)

    async def _finished(
        self, golden_set: GoldenSet, subject: Subject, effort: Effort, services: Services
    ) -> FinishedRun:
        """The version's run, with a progress bar on stderr."""
        target = ProxyTarget(
            base_url=self.proxy_url,
            model=subject.model,
            version=subject.version,
            token=self.token,
            api_key=self.api_key,
            concurrency=self.concurrency,
            timeout_s=self.timeout_s,
        )
        async with target:
            with Progress(f"{golden_set.name}: {subject.model} version {subject.version}") as progress:
                return await finished_run(
                    golden_set,
                    subject,
                    self.ledger,
                    target,
                    effort,
                    services=services,
                    on_start=progress.start,
                    on_answer=progress.answer,
                )

    async def both(
        self, golden_set: GoldenSet, subjects: Sequence[Subject], effort: Effort
    ) -> tuple[list[FinishedRun], Comparison]:
        """Both versions' runs and how they compare. One run after the other: at the same time they would
        compete for the engines."""
        async with self.services(golden_set, subjects) as services:
            runs = [await self._finished(golden_set, subject, effort, services) for subject in subjects]
            control, candidate = (run.results for run in runs)
            preferences = await self._preferences(golden_set, control, candidate, effort.limits, services)
        people = people_of(self.ledger, golden_set, control, candidate)
        return runs, compare(golden_set, control, candidate, preferences, people)

    async def _preferences(
        self,
        golden_set: GoldenSet,
        control: RunResults,
        candidate: RunResults,
        limits: RunLimits,
        services: Services,
    ) -> Preferences:
        if not golden_set.compares:
            return NO_PREFERENCES
        with Progress(f"{golden_set.name}: pairs to the judge") as progress:
            return await judged_pairs(
                golden_set,
                control,
                candidate,
                services=services,
                limits=limits,
                on_start=progress.start,
                on_pair=progress.pair,
            )


def read_prices(text: str | None) -> Prices:
    """The prices that `IN/OUT` says. Raises EvaluatorError for another text."""
    if text is None:
        return FREE
    try:
        sent, made = (float(part) for part in text.split("/"))
        if min(sent, made) < 0:
            raise ValueError
    except ValueError:
        raise EvaluatorError(f"--price {text!r}: expected two numbers, such as 0.2/0.8") from None
    return Prices(usd_per_million_input=sent, usd_per_million_output=made)


def write_junit(
    path: Path | None,
    golden_set: GoldenSet,
    model: str,
    run: FinishedRun,
    comparison: Comparison | None = None,
) -> None:
    """The run as JUnit XML, if a file is named. Raises OSError."""
    if path is None:
        return
    record = RunRecord(
        run_id=run.run.run_id,
        model=model,
        version=run.run.version,
        started_at="",
        ended_at=None,
        rows=[row for rows in run.results.rows.values() for row in rows],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    put_into(path, junit(golden_set, record, comparison))


def set_path(name: str) -> Path:
    """The golden set called so: a path, or a name under ./goldens."""
    path = Path(name)
    named = Path("goldens") / name
    return named if not path.exists() and named.exists() else path
