"""How can a question to the registry fail?

    RegistryError
    ├── InvalidEntry            a name, alias, tag or address that cannot be stored (the caller's mistake)
    ├── NotFound
    │   ├── NoSuchModel
    │   ├── NoSuchVersion
    │   └── NoSuchAlias
    ├── NothingToRollBack       no version was in production before this one
    ├── RegistryRefused         MLflow answered, and said no: permissions, or a value it does not take
    └── RegistryUnreachable     MLflow did not answer: nothing is known, not even that a version is missing

`code` is stable and goes out in OpenAI's error shape; `status` is the HTTP status an API gives for it.
"""

from __future__ import annotations

from typing import ClassVar


class RegistryError(Exception):
    """What was bad, where, and how to mend it: the message is for a person."""

    code: ClassVar[str] = "registry_error"
    status: ClassVar[int] = 500


class InvalidEntry(RegistryError, ValueError):
    code = "invalid_registry_entry"
    status = 400


class NotFound(RegistryError, LookupError):
    code = "not_registered"
    status = 404


class NoSuchModel(NotFound):
    code = "model_not_registered"


class NoSuchVersion(NotFound):
    code = "version_not_registered"


class NoSuchAlias(NotFound):
    code = "alias_not_registered"


class NothingToRollBack(RegistryError):
    code = "nothing_to_roll_back"
    status = 409


class RegistryRefused(RegistryError):
    code = "registry_refused"
    status = 403


class RegistryUnreachable(RegistryError):
    code = "registry_unreachable"
    status = 503
