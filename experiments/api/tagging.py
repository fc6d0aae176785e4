"""What a version's tags are told at once, though a round of labelling would write them as well."""

from __future__ import annotations

import logging

from registry import RegistryError

from ..controller import Controller
from ..labels import Labels

log = logging.getLogger("turnout.api")


def tag(controller: Controller, model: str, version: int, labels: Labels) -> None:
    """Best effort: what is in the ledger counts, and is written when MLflow answers."""
    try:
        controller.registry.label(model, version, labels)
    except RegistryError as error:
        log.warning("tags of %s version %s are not in MLflow yet: %s", model, version, error)
