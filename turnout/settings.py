"""Which ports, folders and addresses does the command use? Environment variables and their defaults.

Options of a command win over the environment. docs/reference/settings.md lists them; a test holds it to this.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from proxy.limits import LimitError, read_limits

TOKEN_FILE: Final = "token"
#: Variables that are read by one command or process only: name and meaning.
OTHER_VARIABLES: Final = {
    "TURNOUT_JUDGE_KEY": "the API key of a judge's `api_base` in a golden set, if it asks for one",
    "TURNOUT_EMBEDDINGS_KEY": "the API key of a golden set's `embeddings_base`, if it asks for one",
    "TURNOUT_API_KEY": "an API key for golden runs, preflights, `turnout bench` and the evaluators,"
    " where the proxy asks for one",
    "TURNOUT_TOKEN_FILE": "where the dashboard reads the control token; `turnout` sets it itself",
    "TURNOUT_VLLM_PYTHON": "the Python `turnout serve` starts vLLM with; default: `.venv-vllm/bin/python`",
}


class SettingsError(ValueError):
    """A setting that cannot be used; the message names the variable."""


class Settings(BaseSettings):
    """Read from `TURNOUT_*`."""

    model_config = SettingsConfigDict(env_prefix="TURNOUT_", extra="ignore", frozen=True)

    data: Path = Field(
        Path("turnout-data"), description="folder of the ledger, the spool, the logs and the token"
    )
    tracking_uri: str | None = Field(
        None, description="MLflow's tracking URI; default: SQLite in the data folder"
    )
    host: str = Field("127.0.0.1", description="address the proxy listens on; the rest stays on loopback")
    proxy_port: int = Field(8080, ge=0, le=65535, description="port of the proxy")
    control_port: int = Field(8081, ge=0, le=65535, description="port of the controller's API")
    dashboard_port: int = Field(8501, ge=0, le=65535, description="port of the dashboard")
    workers: int = Field(1, ge=1, le=256, description="workers of the proxy")
    busy_polling: bool = Field(
        default=False,
        description="whether the proxy's workers never sleep: the first byte comes sooner, for a core each",
    )
    limits: str | None = Field(
        default=None,
        description="limits of the proxy other than the defaults, as `body_bytes=67108864,"
        " first_byte_seconds=1800`; their names are in [limits](limits.md)",
    )
    control_url: str | None = Field(None, description="where commands find the controller")
    proxy_url: str | None = Field(None, description="where golden runs find the proxy")
    token: str | None = Field(None, description="the control token; default: read from the data folder")

    @field_validator("data", mode="before")
    @classmethod
    def _folder(cls, value: str | Path) -> Path:
        if not str(value):  # it would be the folder that one happens to be in
            raise PydanticCustomError("folder", "expected a folder; without the variable it is turnout-data")
        try:
            return Path(value).expanduser()
        except RuntimeError as error:
            raise PydanticCustomError("folder", "{why}", {"why": str(error)}) from None

    @field_validator("control_url", "proxy_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not _is_address(value):
            raise PydanticCustomError("address", "expected an address such as http://127.0.0.1:8080")
        return value

    @field_validator("limits")
    @classmethod
    def _known_limits(cls, value: str | None) -> str | None:
        try:
            read_limits(value or "")
        except LimitError as error:
            raise PydanticCustomError("limits", "{why}", {"why": str(error)}) from None
        return value

    @field_validator("token")
    @classmethod
    def _stripped(cls, value: str | None) -> str | None:
        return (value or "").strip() or None  # a secret's file ends with a line end

    @property
    def registry_uri(self) -> str:
        """The tracking URI in force."""
        if self.tracking_uri:
            return self.tracking_uri
        from registry import sqlite_uri

        return sqlite_uri(self.data.resolve() / "mlflow.db")

    @property
    def control_address(self) -> str:
        """The controller's base URL."""
        return (self.control_url or f"http://127.0.0.1:{self.control_port}").rstrip("/")

    @property
    def proxy_address(self) -> str:
        """The proxy's base URL."""
        return (self.proxy_url or f"http://{reached_at(self.host)}:{self.proxy_port}").rstrip("/")

    @property
    def token_file(self) -> Path:
        """Where the controller writes the token that it accepts."""
        return self.data / TOKEN_FILE

    def read_token(self) -> str | None:
        """The control token, None if there is none to be found: reading needs none."""
        if self.token:
            return self.token
        try:
            return self.token_file.read_text("utf-8").strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    @property
    def token_origin(self) -> str:
        """Where a token that was refused comes from, or why there was none: the end of a message."""
        if self.token:
            variable = _variable("token")
            given = variable if self.token == os.environ.get(variable, "").strip() else "--token"
            return f"here the token comes from {given}"
        if self.read_token():
            return f"here the token comes from {self.token_file}"
        return f"here there is none: {self.token_file} cannot be read; set TURNOUT_DATA, or TURNOUT_TOKEN"


def reached_at(host: str) -> str:
    """How this machine reaches what listens on a host: one that means all addresses is none to ask."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").encode("idna")  # as the resolver will: a..b is no name
        return parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except ValueError:
        return False


def read_settings(**given: Any) -> Settings:
    """The settings; what is given and not None wins over the environment. Raises SettingsError."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"{_variable(first['loc'][0])}: {first['msg']}, got {first['input']!r}") from None


def unknown_variables() -> list[str]:
    """A sentence for each TURNOUT_ variable of the environment that nothing reads: often a slip."""
    known = [*map(_variable, Settings.model_fields), *OTHER_VARIABLES]
    found = []
    for name in sorted(os.environ):
        if name.startswith("TURNOUT_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            found.append(f"{name} is no setting" + (f": did you mean {near[0]}?" if near else ""))
    return found


def _variable(field: object) -> str:
    return f"TURNOUT_{field}".upper()
