"""What does a template of a foreign tool say once its variables are filled in?

Only `{{ name }}` and `{{ name.inner }}` (also `["inner"]`) are understood: the part that promptfoo's Nunjucks
and OpenAI's graders share. Filters, blocks and calls are programs, and are refused rather than guessed at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

_SLOT: Final = re.compile(r"\{\{-?(.*?)-?\}\}", re.DOTALL)
_BLOCK: Final = re.compile(r"\{%|\{#")
_PATH: Final = re.compile(r"""[A-Za-z_]\w*(?:\.\w+|\[\s*(?:\d+|'[^']*'|"[^"]*")\s*\])*""")
_STEP: Final = re.compile(r"""\w+|'[^']*'|"[^"]*\"""")


class TemplateRefused(ValueError):
    """The template uses what is not understood here, or a variable that is not there."""


def fill(template: str, variables: Mapping[str, Any]) -> str:
    """The text with every slot filled in; objects and lists become JSON. Raises TemplateRefused."""
    if _BLOCK.search(template):
        raise TemplateRefused("the template has blocks ({% or {#), which are not run here")
    return _SLOT.sub(lambda slot: _text(_value(slot[1].strip(), variables)), template)


def filled(value: Any, variables: Mapping[str, Any]) -> Any:
    """A JSON value with every text in it filled in; a text that is one slot becomes the slot's value."""
    if isinstance(value, str):
        whole = _SLOT.fullmatch(value.strip())
        if whole and "{{" not in whole[1]:
            return _value(whole[1].strip(), variables)
        return fill(value, variables)
    if isinstance(value, Mapping):
        return {key: filled(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, variables) for inner in value]
    return value


def slots(template: str) -> list[str]:
    """What stands in the slots of a template."""
    return [slot.strip() for slot in _SLOT.findall(template)]


def _value(path: str, variables: Mapping[str, Any]) -> Any:
    if not _PATH.fullmatch(path):
        raise TemplateRefused(f"{{{{ {path} }}}} is more than a variable's name, and is not run here")
    value: Any = variables
    for step in _STEP.findall(path):
        name = step.strip("'\"")
        try:
            value = value[int(name)] if isinstance(value, list) else value[name]
        except (KeyError, IndexError, TypeError, ValueError):
            raise TemplateRefused(f"there is no variable {path!r}") from None
    return value


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float | list | Mapping) or value is None:
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)  # a moment, as tables have them
