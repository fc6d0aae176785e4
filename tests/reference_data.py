"""Which numbers does a case's input stand for, where it names data instead of listing them?

Inputs may refer to another case of the same collection ("same x as ID"), to arrays of a data file beside it
("FILE.json:name", "FILE.json name[:300]"), to a run of integers ("1+70..1000+70"), or to a recipe of seeded
draws ("rng=default_rng(42); n=400; y=(rng.random(n)<.5)"). Recipes are evaluated node by node: names,
numbers, arithmetic, comparisons and a handful of numpy functions, nothing else.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

PUBLISHED = Path(__file__).parent / "experiments" / "statistics" / "cases"

_SAME = re.compile(r"^same (\w+) as (\S+)$")
_FILE = re.compile(r"^(\S+\.json)[:\s]+(\w+)(?:\[:(\d+)\])?")
_RUN = re.compile(r"^(-?\d+)(?:\+(-?\d+))?\.\.(-?\d+)(?:\+(-?\d+))?$")
_SEEDED = re.compile(r"^numpy default_rng\((\d+)\):\s*(.+)$")
_SIZED = re.compile(r"^(?:(\w+)\s*=\s*)?(.+?)(?:\s+size\s+(\d+))?$")
_FIRST = re.compile(r"^(\w+)=first (\w+)$")

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}


class _Evaluator:
    """One expression of a recipe; `size` is what N(...) draws where it is not told."""

    def __init__(self, names: dict[str, Any], size: int | None = None) -> None:
        self.names, self.size = names, size

    def __call__(self, text: str) -> Any:
        return self._node(ast.parse(text.strip(), mode="eval").body)

    def _node(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() as value):
                return value
            case ast.Name(id=name):
                return self.names[name]
            case ast.Tuple(elts=parts):
                return tuple(self._node(part) for part in parts)
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return -self._node(inner)
            case ast.BinOp(left=left, op=op, right=right):
                return _BINARY[type(op)](self._node(left), self._node(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return _COMPARE[type(op)](self._node(left), self._node(right))
            case ast.Call(func=function, args=arguments, keywords=[]):
                return self._call(function, [self._node(argument) for argument in arguments])
        raise ValueError(f"no recipe: {ast.dump(node)}")

    def _call(self, function: ast.expr, arguments: list[Any]) -> Any:
        match function:
            case ast.Attribute(
                value=ast.Name(id="rng"), attr="random" | "normal" | "standard_normal" as method
            ):
                return getattr(self.names["rng"], method)(*arguments)
            case ast.Name(id="default_rng"):
                return np.random.default_rng(*arguments)
            case ast.Name(id="N"):
                mean, sd, *size = arguments
                return self.names["rng"].normal(mean, sd, size[0] if size else self.size)
            case ast.Name(id="exp" | "where" | "round" | "log" | "abs" as name):
                return getattr(np, name)(*arguments)
        raise ValueError(f"no recipe: {ast.dump(function)}")


def recipe(text: str) -> dict[str, Any]:
    """The names that a recipe's statements define; a single unnamed expression is called "x"."""
    seeded = _SEEDED.match(text)
    names: dict[str, Any] = {}
    if seeded:
        names["rng"] = np.random.default_rng(int(seeded[1]))
        for part in re.split(r"\s+THEN\s+", seeded[2]):
            sized = _SIZED.match(part.strip())
            assert sized is not None
            names[sized[1] or "x"] = _Evaluator(names, int(sized[3]) if sized[3] else None)(sized[2])
        return names
    for statement in filter(None, (part.strip() for part in text.split(";"))):
        first = _FIRST.match(statement)
        if first:
            names[first[1]] = int(names.get(first[2], first[2]))
            continue
        target, _, expression = statement.partition("=")
        value = _Evaluator(names)(expression)
        for name, each in zip(target.split(","), value if "," in target else (value,), strict=True):
            names[name.strip()] = each
    return names


def _stored(name: str, folder: Path) -> dict[str, list[float]]:
    for place in (folder, PUBLISHED):
        if (place / name).is_file():
            found: dict[str, list[float]] = json.loads((place / name).read_text(encoding="utf-8"))
            return found
    raise FileNotFoundError(f"{name} lies neither in {folder} nor in {PUBLISHED}")


class Collection:
    """The cases of a file, in which inputs are looked up by the case that has them."""

    def __init__(self, cases: list[Mapping[str, Any]], folder: Path) -> None:
        self.folder = folder
        self.inputs = {case["id"]: case["inputs"] for case in self._published()}
        self.inputs |= {case["id"]: case["inputs"] for case in cases}

    @staticmethod
    def _published() -> list[Mapping[str, Any]]:
        path = PUBLISHED / "reference.json"
        found: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cases"]
        return found

    def resolved(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs with every named piece of data in its place; unknown text stays as it is."""
        return {key: self._value(key, value) for key, value in inputs.items()}

    def _value(self, key: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        same, file, run = _SAME.match(value), _FILE.match(value), _RUN.match(value)
        if same and same[2] in self.inputs:
            return self._value(key, self.inputs[same[2]][same[1]])
        if file:
            stored = _stored(file[1], self.folder)
            chosen = stored[file[2]][: int(file[3]) if file[3] else None]
            return {**stored, "x": chosen} if key == "data" else chosen
        if run:
            start, shift, end, other = (int(part or 0) for part in run.groups())
            return list(range(start + shift, end + other + 1))
        if key == "data" and value in self.inputs:
            return self.resolved(self.inputs[value])
        if "default_rng(" in value and key == "data":
            return recipe(value)
        return value
