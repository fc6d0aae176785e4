"""MLflow's registry without MLflow: the same records, the same moves, the same order of writes.

Hundreds of histories are told against it; a handful of them are told against the real one as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from registry import EndpointSpec, ModelVersion, Move, RegisteredModel, Registry, RegistryUnreachable


class MemoryRegistry(Registry):
    """One model `chat` with three versions. `at` is called between the two writes of a move."""

    def __init__(self, at: Callable[[str], None] = lambda step: None) -> None:
        super().__init__("memory:")
        self.away = False
        self.at = at
        self.production = 1
        self.moves = 0
        self.versions_of = {number: _version(number) for number in (1, 2, 3)}

    def _ask(self) -> None:
        if self.away:
            raise RegistryUnreachable("MLflow does not answer")

    def models(self) -> list[RegisteredModel]:
        return [self.model("chat")]

    def model(self, name: str) -> RegisteredModel:
        self._ask()
        current = self.versions_of[self.production]
        return RegisteredModel(
            name="chat",
            production=self.production,
            former=current.former if current.rolled_back_from is None else None,
            versions=tuple(self.versions_of.values()),
            aliases={"production": self.production},
        )

    def promote(self, model: str, version: int) -> Move:
        self._ask()
        if version == self.production:
            return Move(former=None, current=version, changed=False)
        left = self.production
        self._note(version, former=left, rolled_back_from=None)
        return self._move(left, version)

    def rollback(self, model: str) -> Move:
        self._ask()
        left = self.versions_of[self.production]
        if left.rolled_back_from is not None or left.former is None:
            return Move(former=left.rolled_back_from, current=left.version, changed=False)
        self._note(left.former, former=self.versions_of[left.former].former, rolled_back_from=left.version)
        return self._move(left.version, left.former)

    def _note(self, version: int, *, former: int | None, rolled_back_from: int | None) -> None:
        noted = replace(self.versions_of[version], former=former, rolled_back_from=rolled_back_from)
        self.versions_of[version] = noted
        self.at("noted")

    def _move(self, left: int, version: int) -> Move:
        self.production = version
        self.moves += 1
        self.at("moved")
        return Move(former=left, current=version, changed=True)

    def label(self, model: str, version: int, labels: Mapping[str, str]) -> None:
        self._ask()
        known = self.versions_of[version]
        self.versions_of[version] = replace(known, labels={**known.labels, **labels})


def _version(number: int) -> ModelVersion:
    endpoint = EndpointSpec(replicas=(f"http://127.0.0.1:900{number}",), served_name="chat")
    return ModelVersion(model="chat", version=number, endpoint=endpoint)
