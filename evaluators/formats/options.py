"""What may the operator say about foreign files that the files themselves do not say?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """`scorer` names the foreign scorer (OpenAI's class, inspect's scorer); `fields` maps ours to theirs
    (`{"input": "question"}`); `prompt` is a template over an item's fields where the files have none;
    `system` goes in front of every question; `checks` are added to every item."""

    scorer: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    prompt: str | None = None
    system: str | None = None
    checks: tuple[Mapping[str, Any], ...] = ()
