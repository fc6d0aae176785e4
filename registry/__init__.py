"""Which model versions exist, where are they served, and which one is in production?

The only package that imports mlflow (when it is first asked, not before), and it reads metadata only.
"""

from .catalog import GOLDEN_RUN, Registry
from .connection import sqlite_uri
from .errors import (
    InvalidEntry,
    NoSuchAlias,
    NoSuchModel,
    NoSuchVersion,
    NotFound,
    NothingToRollBack,
    RegistryError,
    RegistryRefused,
    RegistryUnreachable,
)
from .names import PRODUCTION, models_uri
from .records import EndpointSpec, ModelVersion, Move, RegisteredModel

__all__ = [
    "GOLDEN_RUN",
    "PRODUCTION",
    "EndpointSpec",
    "InvalidEntry",
    "ModelVersion",
    "Move",
    "NoSuchAlias",
    "NoSuchModel",
    "NoSuchVersion",
    "NotFound",
    "NothingToRollBack",
    "RegisteredModel",
    "Registry",
    "RegistryError",
    "RegistryRefused",
    "RegistryUnreachable",
    "models_uri",
    "sqlite_uri",
]
