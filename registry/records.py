"""What does the registry know about a model, and how is it written in MLflow's tags?

Tags are what MLflow offers for metadata, and anyone with access can write them. So they are checked when
read: a version with a broken endpoint is a version without endpoint and with a `problem`, never an exception
that takes the other versions down with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from . import names
from .errors import InvalidEntry

REPLICAS: Final = "turnout.replicas"
SERVED_NAME: Final = "turnout.served_name"
ENGINE: Final = "turnout.engine"
CREDENTIAL: Final = "turnout.credential"
ENDPOINT_TAGS: Final = (REPLICAS, SERVED_NAME, ENGINE, CREDENTIAL)
SOURCE: Final = "turnout.source"
#: On a version: what was in production before it was promoted. On the version, not on the model, so that it
#: can be written *before* the alias moves: a crash between the two then changes nothing.
FORMER: Final = "turnout.former_production"
#: On a version: production came back to it from that one, so a repeated rollback has nothing to do.
ROLLED_BACK_FROM: Final = "turnout.rolled_back_from"
#: On a version: what Turnout knows of it, for those who look into MLflow only. Derived, and written again
#: when it is not what it should be.
STATE: Final = "turnout.state"
VERDICT: Final = "turnout.verdict"
GOLDEN: Final = "turnout.golden"
FINGERPRINT: Final = "turnout.fingerprint"
LABELS: Final = (STATE, VERDICT, GOLDEN, FINGERPRINT)
#: On a model: it is one of Turnout's (a registry may hold thousands of others).
MANAGED: Final = "turnout.model"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """Where a version is served: base URLs, the engine's own name for the model, and which engine it is.

    `credential` names the variable of the proxy's environment that holds the key (None: there is none, or it
    is litellm's own name for it). The engine `litellm` is a provider: no base URLs, and `served_name` is
    PROVIDER/MODEL.
    """

    replicas: tuple[str, ...]
    served_name: str
    engine: str = "vllm"
    credential: str | None = None

    def __post_init__(self) -> None:
        names.engine_name(self.engine)
        if self.engine == names.LITELLM:
            if self.replicas:
                raise InvalidEntry("replicas: a provider has none; its address is litellm's business")
            names.provider_model(self.served_name)
        else:
            object.__setattr__(self, "replicas", names.replica_urls(self.replicas))
            names.served_name(self.served_name)
        if self.credential is not None:
            names.credential_name(self.credential, self.engine)

    def tags(self) -> dict[str, str]:
        written = {
            REPLICAS: json.dumps(list(self.replicas)),
            SERVED_NAME: self.served_name,
            ENGINE: self.engine,
        }
        return written if self.credential is None else written | {CREDENTIAL: self.credential}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version of a model. `problem` says why `endpoint` is None although something was written there.

    `tags` are all but Turnout's own, `labels` what Turnout says of it there. `source` is a path or a hub's
    id, None if nobody gave one.
    """

    model: str
    version: int
    aliases: tuple[str, ...] = ()
    endpoint: EndpointSpec | None = None
    problem: str | None = None
    source: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    created_ms: int = 0  # unix milliseconds
    former: int | None = None
    rolled_back_from: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """A model and its versions, the oldest first. `former` is where a rollback would go, None if nowhere."""

    name: str
    production: int | None
    former: int | None
    versions: tuple[ModelVersion, ...] = ()
    aliases: Mapping[str, int] = field(default_factory=dict)

    def version(self, number: int) -> ModelVersion | None:
        return next((one for one in self.versions if one.version == number), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What a promotion or rollback did. `changed` is False when it was already so."""

    former: int | None
    current: int
    changed: bool


def _credential(tags: Mapping[str, str], engine: str) -> str | None:
    """The credential's name, unless it is left over from another kind of endpoint."""
    found = tags.get(CREDENTIAL)
    mine = found is None or found.startswith("ENGINE_") != (engine == names.LITELLM)
    return found if mine else None


def endpoint_from(tags: Mapping[str, str]) -> tuple[EndpointSpec | None, str | None]:
    """The endpoint in a version's tags, and what is wrong with it (one of the two is None, or both)."""
    if REPLICAS not in tags:
        return None, None
    try:
        replicas = json.loads(tags[REPLICAS])
        if not isinstance(replicas, list):
            raise InvalidEntry("expected a JSON list of base URLs")
        engine = tags.get(ENGINE, "vllm")
        return (
            EndpointSpec(
                replicas=tuple(replicas),
                served_name=tags.get(SERVED_NAME, ""),
                engine=engine,
                credential=_credential(tags, engine),
            ),
            None,
        )
    except (InvalidEntry, ValueError, RecursionError) as error:
        return None, f"tag {REPLICAS} of this version is no endpoint: {error}; register its endpoint anew"


def version_tag(tags: Mapping[str, str], key: str) -> int | None:
    """A version number in a tag; None if absent or nonsense (then there is nothing to go back to)."""
    try:
        return names.version_number(tags[key])
    except (KeyError, InvalidEntry):
        return None
