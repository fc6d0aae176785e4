"""Does the accounting close: what became of every request that an experiment could have had?

Pure: accounts by arm in, the books of a whole experiment out. Every number is a count of requests (of a
shadow: of copies), each in exactly one place; what is known only by its number, and has no row, is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, get_args

from .evidence import Account
from .ledger.exchange import FAILURES, Outside

OUTSIDE: Final[tuple[str, ...]] = get_args(Outside)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmAccount:
    """assigned = the sum of `outcomes` + missing."""

    assigned: int
    outcomes: dict[str, int]
    failed: int
    fell_back: int
    shed: dict[str, int]
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """The books: eligible = assigned in all arms + outside = recorded + missing.

    `lost` is what workers say that they could not write since the start, of this experiment or of another;
    `not_copied` (shadow) the model's requests of which no copy was to be made.
    """

    eligible: int
    recorded: int
    missing: int
    lost: int
    by_arm: dict[str, ArmAccount]
    outside: dict[str, int]
    not_copied: int | None = None

    @property
    def closes(self) -> bool:
        """Whether every request has its row."""
        return not self.missing


def accounting_of(accounts: Sequence[Account], *, lost: int, not_copied: int | None = None) -> Accounting:
    """The books of all accounts."""
    arms = {account.place: _arm(account) for account in accounts if account.inside}
    outside = dict.fromkeys(OUTSIDE, 0)
    outside |= {one.place: _recorded(one) + one.missing for one in accounts if not one.inside}
    return Accounting(
        eligible=sum(arm.assigned for arm in arms.values()) + sum(outside.values()),
        recorded=sum(map(_recorded, accounts)),
        missing=sum(account.missing for account in accounts),
        lost=lost,
        by_arm=arms,
        outside=outside,
        not_copied=not_copied,
    )


def _recorded(account: Account) -> int:
    return sum(count for _, count in account.outcomes)


def _arm(account: Account) -> ArmAccount:
    return ArmAccount(
        assigned=_recorded(account) + account.missing,
        outcomes=dict(account.outcomes),
        failed=sum(count for outcome, count in account.outcomes if outcome in FAILURES),
        fell_back=account.fell_back,
        shed=dict(account.shed),
        missing=account.missing,
    )
