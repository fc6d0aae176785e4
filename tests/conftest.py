"""What tests of several packages share: a simulated engine, its answer key, MLflow's empty tables."""

from __future__ import annotations

import fcntl
import functools
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx._transports.default as transports
import pytest
from hypothesis import HealthCheck, settings

from registry import Registry
from tests.experiments.plane import Plane, stock
from turnout.simulation import AnswerKey, Profile, SimulatedEngine, running_engine

# A busy machine draws examples slowly; that says nothing about the code.
settings.register_profile("turnout", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("turnout")

# A client reads every root certificate there is before its first question: 0.15 s of a core, thousands of
# times, also for each look whether something answers yet.
transports.create_ssl_context = functools.cache(transports.create_ssl_context)

ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole journeys first: they take longest, and no core is to wait for the last of them."""
    items.sort(key=lambda item: item.path.parent != ROOT / "tests")


def pytest_collection_finish() -> None:
    """What has been imported stays: nobody is to look through it again. Streamlit does after each page."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    """What a file has left open is found at its end, and not in the midst of somebody else's test. What is
    still in use then is looked through no more: that would take a second each time."""
    yield
    gc.collect()
    gc.freeze()


SUPPORT_ITEMS = ROOT / "examples" / "goldens" / "support" / "items.jsonl"


@pytest.fixture(scope="session")
def support_key() -> AnswerKey:
    """Right and wrong answers to the example golden set."""
    return AnswerKey.read([SUPPORT_ITEMS])


@pytest.fixture
def engine() -> Iterator[SimulatedEngine]:
    """An engine in a thread: no delays, serves the model `chat` and every fault by its name."""
    with running_engine(Profile(name="chat")) as running:
        yield running


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A file that takes long to make, made by one of the test processes for all of them."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).exists():
            unfinished = folder / f"{name}.unfinished"
            make(unfinished)
            unfinished.rename(folder / name)
    return folder / name


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with MLflow's tables. Making them takes seconds."""
    return _made_once(tmp_path_factory, "mlflow.db", lambda file: Registry(f"sqlite:///{file}").ping())


@pytest.fixture(scope="session")
def stocked_mlflow(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """An SQLite file with the model `chat`, as `tests.experiments.plane` has it, that a controller has
    labelled."""

    def make(file: Path) -> None:
        shutil.copy(empty_database, file)
        stock(Registry(f"sqlite:///{file}"))
        first = Plane(tmp_path_factory.mktemp("first") / "data", file)
        first.start()
        first.kill()
        shutil.copy(first.database, file)

    return _made_once(tmp_path_factory, "stocked.db", make)
