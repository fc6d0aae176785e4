"""How is MLflow spoken to, so that it can neither hang us, nor run code, nor write on the screen?

mlflow is imported when the first question is asked, not before: it takes seconds, which `turnout --help`
must not, and its switches have to be set first. Metadata only: no artifact is ever opened. It knows nothing
of models.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from .errors import NotFound, RegistryError, RegistryRefused, RegistryUnreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Not the operator's to choose: deserialising a pickle runs it, nobody agreed to being counted, and what is
#: printed stands in logs.
_FIXED: Final = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the tracking URI's user and password among it
}
#: MLflow's own (120 s, seven retries with doubling pauses) let a caller wait for minutes.
#: They may be set from outside.
_DEFAULTS: Final = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0.2",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
_ABSENT: Final = frozenset(("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"))
_REFUSALS: Final = frozenset(
    (
        "INVALID_PARAMETER_VALUE",
        "BAD_REQUEST",
        "INVALID_STATE",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_CONFLICT",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "CUSTOMER_UNAUTHORIZED",
        "FEATURE_DISABLED",
        "RESOURCE_LIMIT_EXCEEDED",
    )
)
_opening: Final = threading.Lock()


class AlreadyThere(RegistryRefused):
    """What was to be created exists: most callers go on with it."""


def sqlite_uri(file: Path) -> str:
    """The URI of an SQLite file. What SQLAlchemy would read otherwise in its path is quoted: since 2.1 it
    takes `%2F` for a slash, and what follows a `?` is no path."""
    from sqlalchemy import URL, make_url

    uri = f"sqlite:///{file}"
    if make_url(uri).database == str(file):
        return uri
    return URL.create("sqlite", database=str(file)).render_as_string(hide_password=False)


def shown_uri(uri: str) -> str:
    """`uri` without its user and password, for messages and logs."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "(an unreadable tracking URI)"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else uri


@contextmanager
def _nothing_swept() -> Iterator[None]:
    """Hundreds of thousands of objects come with MLflow, and stay: sweeps on the way, a sixth of the time,
    would find nothing."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _mlflow_client() -> type[MlflowClient]:
    """Imports mlflow with its switches set."""
    os.environ.update(_FIXED)
    for key, value in _DEFAULTS.items():
        os.environ.setdefault(key, value)
    with suppress(OSError):  # a folder that is gone
        folder = Path.cwd() / "mlruns"
        if "\\" in repr(str(folder)):  # MLflow writes it so into its first INSERT, where that is no string
            os.environ.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", folder.as_uri())
    import mlflow.store.db.utils as databases
    from mlflow import MlflowClient

    databases.MAX_RETRY_COUNT = 4  # a second; its own ten tries to open a database take 100 seconds
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # logs a traceback for each error it raises; the error itself comes to us
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient


class Connection:
    """One MLflow, by tracking URI (`sqlite:///FILE`, `postgresql://...`, `http://HOST:PORT`). Thread-safe.

    Nothing is opened before the first `with connection.asking(...) as client`.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self.remote = tracking_uri.startswith(("http://", "https://"))
        self._client: MlflowClient | None = None

    @contextmanager
    def asking(self, question: str) -> Iterator[MlflowClient]:
        """The client, inside which MLflow's errors become ours. `question` completes "cannot ...".

        Raises `NotFound`, `AlreadyThere`, `RegistryRefused` or `RegistryUnreachable`.
        """
        try:
            client = self._client or self._open()
            yield client
        except RegistryError:
            raise
        except Exception as error:
            # Broad: drivers, sockets, parsers and MLflow itself raise whatever they like from in here.
            raise self._translated(error, question) from error

    def _open(self) -> MlflowClient:
        with _opening, warnings.catch_warnings():
            # What MLflow and its libraries warn of while they load is not our user's to mend.
            warnings.simplefilter("ignore")
            if self._client is None:
                with _nothing_swept():
                    new_client = _mlflow_client()
                # Opening makes the tables; two processes that do so at once break each other.
                with self._one_at_a_time():
                    client = new_client(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
                    client.search_registered_models(max_results=1)
                    client.search_experiments(max_results=1)
                self._client = client
            return self._client

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """A lock between processes while an SQLite file gets its tables; nothing for other stores."""
        file = self.sqlite_file
        if file is None:
            yield
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{file}.lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield  # closing the file gives the lock back

    @property
    def sqlite_file(self) -> Path | None:
        """The database file of an SQLite URI (`sqlite:///relative`, `sqlite:////absolute`)."""
        if not self.tracking_uri.startswith("sqlite:///"):
            return None
        from sqlalchemy import make_url

        path = make_url(self.tracking_uri).database
        return Path(path) if path and path != ":memory:" else None

    def _translated(self, error: Exception, question: str) -> RegistryError:
        where = shown_uri(self.tracking_uri)
        code, answered = _code(error)
        if answered or not self.remote:
            first_line = str(error).partition("\n")[0][:300]
            if code in _ABSENT:
                return NotFound(f"cannot {question}: {first_line}")
            if code == "RESOURCE_ALREADY_EXISTS":
                return AlreadyThere(f"cannot {question}: it exists in {where} already")
            if code in _REFUSALS:
                return RegistryRefused(f"cannot {question}: the registry at {where} refuses: {first_line}")
        return RegistryUnreachable(
            f"cannot {question}: the registry at {where} does not answer ({_cause(error)}); "
            + (
                "is the MLflow server running there?"
                if self.remote
                else "is it an MLflow database, and readable?"
            )
        )


def _code(error: Exception) -> tuple[str, bool]:
    """MLflow's error code, and whether an MLflow server said it (rather than the client, about any 404)."""
    from mlflow.exceptions import MlflowException, RestException

    if not isinstance(error, MlflowException):
        return "", False
    return str(error.error_code), isinstance(error, RestException)


def _cause(error: BaseException) -> str:
    """The innermost reason in one short line, its type in front: `ConnectionRefusedError: ...`."""
    seen: Any = error
    while (deeper := seen.__cause__ or seen.__context__) is not None:
        seen = deeper
    return f"{type(seen).__name__}: {str(seen).partition(chr(10))[0][:160]}"
