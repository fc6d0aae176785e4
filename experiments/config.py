"""What is recorded of each model and for how long, and whose keys are good? (DATA/turnout.yaml)

    models:
      chat: {recording: redacted, redact: ['[0-9]{16}'], keep: 30d, keep_size: 5GB}
    keys:
      - {tenant: acme, sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae}
    notify:
      - {url: https://example.com/hook, secret_env: HOOK_SECRET}
    registry: {secret_env: MLFLOW_HOOK_SECRET}

Read again whenever the file changes; a file that is torn, empty, wrong or gone never replaces a good one, not
even at a restart: the last good text is kept beside it. Where no file ever was everything is recorded in full
and kept, and no key is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from registry import names

from . import quantities
from .document import Document, check, read_document, shown
from .errors import DocumentError, Problem
from .ledger.exchange import Recording
from .ledger.recording import RecordingPolicy
from .patterns import compiled
from .replacing import replace_whole
from .spec import Duration

log = logging.getLogger("turnout.config")

CODE: Final = "invalid_config"


def _pattern(value: object) -> object:
    try:
        compiled(str(value))
    except ValueError as error:
        context = {"found": f"{shown(value)} ({error})", "expected": "a regular expression"}
        raise PydanticCustomError("turnout", "{expected}", context) from None
    return value


def _size(value: object) -> int:
    try:
        return quantities.size(value)
    except ValueError:
        context = {"found": shown(value), "expected": "a size such as 500MB or 5GB"}
        raise PydanticCustomError("turnout", "{expected}", context) from None


def _recording(given: Mapping[str, object]) -> Recording:
    """Whoever declares patterns wants them used."""
    return "redacted" if given.get("redact") else "full"


class _ModelEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    redact: list[Annotated[str, BeforeValidator(_pattern)]] = Field(
        default=[], description="a list of regular expressions"
    )
    recording: Recording = Field(default_factory=_recording, description="full, redacted or numbers")
    keep: Duration | None = Field(default=None, description="a duration such as 30d")
    keep_size: Annotated[int, BeforeValidator(_size)] | None = Field(
        default=None, description="a size such as 5GB"
    )


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tenant: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="a name of a-z 0-9 . _ - (64 at most)"
    )
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="the SHA-256 of the key, 64 hex digits")


def _web_address(value: object) -> object:
    try:
        parts = urlsplit(str(value))
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        good = good and str(value).isprintable() and not (parts.username or parts.password or parts.fragment)
    except ValueError:
        good = False
    if not good:
        context = {"found": shown(value), "expected": "an address such as https://example.com/hook"}
        raise PydanticCustomError("turnout", "{expected}", context)
    return value


_VARIABLE: Final = r"^[A-Z_][A-Z0-9_]{0,63}$"


class _Webhook(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    url: Annotated[str, BeforeValidator(_web_address)] = Field(
        description="where every decision is posted to: http or https, without credentials"
    )
    secret_env: str = Field(
        pattern=_VARIABLE,
        description="the environment variable of the controller that holds the secret to sign with",
    )


class _Registry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    secret_env: str = Field(
        pattern=_VARIABLE,
        description="the environment variable of the controller with the secret of MLflow's webhook",
    )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    models: dict[str, _ModelEntry] = Field(
        default={}, description="a mapping of model names to their recording"
    )
    keys: list[_Key] = Field(default=[], description="a list of {tenant, sha256}; `turnout key` makes one")
    notify: list[_Webhook] = Field(
        default=[], description="a list of {url, secret_env}: who is told of every decision"
    )
    registry: _Registry | None = Field(
        default=None, description="{secret_env}: how MLflow signs what it posts to /api/models/changed"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What a file says: policies by model, tenants by their keys' SHA-256, secrets' variables by webhook, and
    the variable with the secret of the registry's own webhook ("": it has none).
    """

    policies: Mapping[str, RecordingPolicy] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    webhooks: Mapping[str, str] = field(default_factory=dict)
    registry_secret: str = ""


def read_config(text: str, file: str, *, lenient: bool = False) -> Declared:
    """What the text declares. Raises DocumentError with every problem; with `lenient` only where the text
    cannot be read otherwise: of entries that contradict each other the last one counts."""
    document = read_document(text, file)
    parsed = check(document, _File)
    problems = [
        document.problem(
            ("models", name, "recording"),
            "redacted without patterns",
            "redact: a list of regular expressions",
            "Add redact, or record numbers only",
        )
        for name, entry in parsed.models.items()
        if entry.recording == "redacted" and not entry.redact
    ]
    problems += [
        document.problem(
            ("models", name),
            f"the model {name!r}",
            "a registered model's name",
            "Remove it: no model can be called so",
        )
        for name in parsed.models
        if not names.is_model_name(name)
    ]
    problems += _twice(document, "keys", "sha256", [key.sha256 for key in parsed.keys])
    problems += _twice(document, "notify", "url", [hook.url for hook in parsed.notify])
    if problems and not lenient:
        raise DocumentError(tuple(problems), code=CODE)
    return Declared(
        policies={name: _policy(entry) for name, entry in parsed.models.items()},
        keys={key.sha256: key.tenant for key in parsed.keys},
        webhooks={hook.url: hook.secret_env for hook in parsed.notify},
        registry_secret=parsed.registry.secret_env if parsed.registry else "",
    )


def _twice(document: Document, where: str, field: str, values: Sequence[str]) -> Iterator[Problem]:
    """What may stand once only, for the entries would contradict each other: a key is of one tenant."""
    first: dict[str, int] = {}
    for number, value in enumerate(values):
        if (before := first.setdefault(value, number)) != number:
            found, expected = f"the {field} of {where}[{before}] again", "each of them once"
            yield document.problem((where, number, field), found, expected, "Remove one of the two")


def differences(before: Declared, after: Declared) -> tuple[str, ...]:
    """What another file makes different, in sentences that name no secret; empty if it says the same."""
    found = []
    for model in sorted({*before.policies, *after.policies}):
        was, now = (_policy_text(declared.policies.get(model)) for declared in (before, after))
        if was != now:
            found.append(f"recording of {model!r}: {was} -> {now}")
    gone = sorted(tenant for key, tenant in before.keys.items() if after.keys.get(key) != tenant)
    come = sorted(tenant for key, tenant in after.keys.items() if before.keys.get(key) != tenant)
    found += [f"a key of {tenant!r} is taken away" for tenant in gone]
    found += [f"a key of {tenant!r} is added" for tenant in come]
    if bool(before.keys) != bool(after.keys):
        found.append(
            "the proxy answers nobody without a key" if after.keys else "the proxy asks nobody for a key"
        )
    for url in sorted({*before.webhooks, *after.webhooks}):
        if before.webhooks.get(url) != after.webhooks.get(url):
            verb = "are posted" if url in after.webhooks else "are not posted any more"
            found.append(f"decisions {verb} to {urlsplit(url).hostname}")
    if before.registry_secret != after.registry_secret:
        signed = f"with the secret in {after.registry_secret}" if after.registry_secret else "by nobody"
        found.append(f"what MLflow posts is signed {signed}")
    return tuple(found)


def _policy_text(policy: RecordingPolicy | None) -> str:
    if policy is None:
        return "full"
    words: list[str] = [policy.recording]
    if policy.redact:
        words.append("patterns " + " ".join(repr(pattern.pattern) for pattern in policy.redact))
    if policy.keep_s is not None:
        words.append(f"kept for {quantities.duration_text(policy.keep_s)}")
    if policy.keep_bytes is not None:
        words.append(f"{policy.keep_bytes} bytes at most")
    return ", ".join(words)


def _policy(entry: _ModelEntry) -> RecordingPolicy:
    return RecordingPolicy(
        recording=entry.recording,
        redact=tuple(compiled(pattern) for pattern in entry.redact),
        keep_s=entry.keep,
        keep_bytes=entry.keep_size,
    )


class Config(Mapping[str, RecordingPolicy]):
    """The policies in force by model; a model that is not named is recorded in full.

    `file` is where the file is, there or not. `declared` is what is in force, and `text` what it was read
    from, empty if there never was any; `error` says why the file as it is now is not, None while it is.

    A text that an earlier Turnout took, and this one would not, stays in force at a restart: traffic needs
    the controller. Where even that cannot be read, `before` stands in: what the last snapshot said. Raises
    DocumentError if the file is wrong and nothing was in force before: to go on would be to record what was
    to be redacted, and to let in who has no key.
    """

    def __init__(self, file: Path, before: Declared | None = None) -> None:
        self.file = file
        self._last_good = file.with_suffix(f".last-good{file.suffix}")
        self._stamp: tuple[int, int, int] | None = None  # when it was modified, its size, its inode
        self.text = ""
        self.declared = Declared()
        self.error: str | None = None
        self.reload()
        if self.error is not None or self._stamp is None:
            self._go_on(before)

    def _go_on(self, before: Declared | None) -> None:
        """Start with what was in force, for the file is wrong or not there."""
        lenient = True  # it was in force
        try:
            text = self._last_good.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            if self.error is None and isinstance(error, FileNotFoundError):
                return  # there never was a file
            text, lenient = self.file.read_text("utf-8", "replace"), before is not None
        if self.error is None:
            self._refuse(self._gone())
        try:
            self.declared = read_config(text, str(self.file), lenient=lenient)
            self.text = text
        except DocumentError:
            if before is None:
                raise
            log.error("bodies that were redacted are not kept, and none is deleted, until the file is mended")
            self.declared = before

    def __getitem__(self, model: str) -> RecordingPolicy:
        return self.declared.policies[model]

    def __iter__(self) -> Iterator[str]:
        return iter(self.declared.policies)

    def __len__(self) -> int:
        return len(self.declared.policies)

    def recordings(self) -> dict[str, Recording]:
        """What the proxies need to know."""
        return {model: policy.recording for model, policy in self.declared.policies.items()}

    def keys_in_force(self) -> Mapping[str, str]:
        """Tenants by the SHA-256 of their keys."""
        return self.declared.keys

    def webhooks(self) -> Mapping[str, str]:
        """Who is told of decisions: the environment variables of the secrets by URL."""
        return self.declared.webhooks

    def registry_secret(self) -> str:
        """The environment variable with the secret that the registry signs with; "" if none is declared."""
        return self.declared.registry_secret

    def reload(self) -> bool:
        """Take the file up if it has changed and is good; whether anything is different now.

        A file that has gone keeps what it said: an editor that replaces it must not switch redaction off.
        """
        try:
            status = self.file.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            text = self.file.read_text("utf-8")
            declared = read_config(text, str(self.file))
        except FileNotFoundError:
            if self._stamp is not None and self.error is None:
                self._refuse(self._gone())
            self._stamp = None  # it may come back as it was
            return False
        except (DocumentError, UnicodeDecodeError) as error:
            self._refuse(str(error))
            return False
        except OSError as error:  # of the machine, not of the file: it is read again as it is
            self._stamp = None
            self._refuse(str(error))
            return False
        self.error = None
        changed = declared != self.declared
        self.text, self.declared = text, declared
        self._keep(text)
        return changed

    def replace(self, text: str) -> None:
        """Put a text in the file's place, whole or not at all, and take it up.

        Raises DocumentError, OSError; then the file and what is in force are as they were.
        """
        read_config(text, str(self.file))
        replace_whole(self.file, text)
        self.reload()

    def _keep(self, text: str) -> None:
        """The last good text, for a restart. A full disk costs this copy only."""
        making = self._last_good.with_suffix(".new")
        try:
            making.write_text(text, "utf-8")
            making.replace(self._last_good)
        except OSError as error:
            log.warning("%s could not be written: %s", self._last_good, error)

    def _gone(self) -> str:
        return (
            f"{self.file} has gone; what it said last is still in force. Put it back, or `models: {{}}` "
            "in its place if nothing is to hold any more"
        )

    def _refuse(self, error: str) -> None:
        if error != self.error:
            log.error("the settings stay as they were: %s", error)
        self.error = error
