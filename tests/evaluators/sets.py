"""Golden sets for tests, made the way users make them: written to a file and loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evaluators.golden import GoldenItem, GoldenSet
from evaluators.loading import load_golden_set
from evaluators.score import Output, ToolCall

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "examples" / "goldens" / "support"


def row(id: str, **fields: Any) -> dict[str, Any]:
    """An item that asks its own id."""
    base = {"id": id, "input": {"messages": [{"role": "user", "content": id}]}, "reference": "right"}
    return {**base, **fields}


def write_set(folder: Path, rows: Iterable[Mapping[str, Any]], set_yaml: str = "") -> Path:
    """A set's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "set.yaml").write_text(set_yaml, "utf-8")
    return folder


def make_set(folder: Path, rows: Iterable[Mapping[str, Any]], set_yaml: str = "") -> GoldenSet:
    """A loaded set."""
    return load_golden_set(write_set(folder, rows, set_yaml))


def one_item(folder: Path, *checks: Mapping[str, Any], **fields: Any) -> GoldenItem:
    """One item with these checks."""
    return make_set(folder, [row("a", checks=list(checks), **fields)]).items[0]


def right_output(item: GoldenItem, which: str = "right") -> Output:
    """The answer that the item's own key calls right (or wrong)."""
    source = item.source or {}
    text, call = {
        "right": (source.get("answer"), source.get("tool_call")),
        "wrong": (source.get("wrong_answer"), source.get("wrong_tool_call")),
    }[which]
    return said(text or "", *([(call["name"], json.dumps(call["arguments"]))] if call else []))


def said(text: str = "", *calls: tuple[str, str], **fields: Any) -> Output:
    """An answer."""
    tool_calls = tuple(ToolCall(name=name, arguments=arguments) for name, arguments in calls)
    return Output(text=text, tool_calls=tool_calls, **fields)
