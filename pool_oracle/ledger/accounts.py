"""Accounting: a scheme that is told what a share log holds, in the log's order, which alone decides.

`Accounts` is told of records, whoever reads or writes them: a pool that works, a restart, an auditor. `AccountedLog` is
the pool's way to write: nothing comes into its log that its accounts do not hear of at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pool_oracle.errors import InputError
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import ShareLog
from pool_oracle.payout.schemes import Fate, Found, Scheme
from pool_oracle.payout.window import Tail
from pool_oracle.units import Payee, Satoshi
from pool_oracle.work.records import ShareRecord
from pool_oracle.work.transaction import parse_transaction

_FATES = {
    "submitted": Fate.ALIVE,
    "accepted": Fate.ALIVE,
    "best": Fate.ALIVE,
    "rejected": Fate.LOST,
    "orphaned": Fate.LOST,
    "mature": Fate.MATURE,
}
"""A block's state in the log to what schemes make of it."""


class Accounts:
    """A scheme under the rules of a log.

    `may_change` tells whether the next record may be one of other terms: right after a close, or before anything.
    """

    def __init__(
        self, rules: Rules, scheme: Scheme | None = None, *, t: int = 0, tail: Callable[[Rules], Tail] | None = None
    ) -> None:
        """`rules` hold until a record says otherwise; `scheme` goes on from a checkpoint.

        Without one, `t` is the running sum of units before the first share, and `tail` makes, by the rules, what a
        window's shares come from when they leave.
        """
        self.rules = rules
        self._tail = tail
        self.scheme = scheme or self._open(t)
        self.may_change = True
        self._is_fresh = scheme is None  # no share was told yet
        self._is_stated = False  # whether the log itself has said its rules

    def _open(self, t: int) -> Scheme:
        return self.rules.open(t=t, tail=None if self._tail is None else self._tail(self.rules))

    def on_policy(self, rules: Rules) -> None:
        """The log states its rules, as each segment does. Raises InputError for a change where there may be none."""
        if rules != self.rules:
            if not self._is_stated and self._is_fresh:
                self.rules = rules
                self.scheme = self._open(self.scheme.t)
            elif self.may_change and self.rules.can_become(rules):
                self.scheme.change(rules.terms)
            else:
                raise InputError(f"the rules change from {self.rules} to {rules}, which they cannot here")
        self.rules = rules
        self._is_stated = True

    def on_share(self, sequence: int, payee: Payee, unit: int, height: int) -> None:
        """An accepted share. Raises InputError where the scheme cannot price it."""
        self.may_change = self._is_fresh = False
        self.scheme.add(sequence, payee, unit, height)

    def on_tip(self, payload: dict[str, Any]) -> None:
        """A block of the best chain and its fees."""
        self.scheme.on_tip(int(payload["height"]), Satoshi(int(payload["fees"])))

    def on_block(self, payload: dict[str, Any]) -> None:
        """A block of ours was found."""
        coinbase = parse_transaction(bytes.fromhex(payload["coinbase"]))
        value = Satoshi(sum(output.value for output in coinbase.outputs))
        self.scheme.on_block(Found(_hash_of(payload), int(payload["epoch"]), int(payload["height"]), value))

    def on_block_state(self, payload: dict[str, Any]) -> None:
        """Something became of a block. Raises InputError for a state that there is not."""
        fate = _FATES.get(str(payload["state"]))
        if fate is None:
            raise InputError(f"a block cannot be {payload['state']!r}")
        self.scheme.on_fate(_hash_of(payload), fate)

    def on_close(self) -> dict[Payee, int]:
        """The epoch's close; returns the weights of its root, empty where nobody has any."""
        weights = self.scheme.close()
        self.may_change = bool(weights)
        return weights


class AccountedLog:
    """A share log open for appending, and the accounts that follow from it."""

    def __init__(self, share_log: ShareLog, accounts: Accounts) -> None:
        """`accounts` are those of what the log holds already."""
        self._log = share_log
        self.accounts = accounts
        share_log.policy = accounts.rules.to_payload()

    def append_share(self, share: ShareRecord, payee: Payee, unit: int, height: int) -> asyncio.Future[None]:
        """A share of `payee`; see `ShareLog.append`."""
        done = self._log.append(share, unit)
        self.accounts.on_share(share.sequence, payee, unit, height)
        return done

    def append_tip(self, height: int, block: str, fees: Satoshi) -> asyncio.Future[None]:
        """A block of the best chain: its hash (display order) and what its coinbase paid above the subsidy."""
        payload = {"height": height, "block": block, "fees": fees}
        done = self._log.append_tip(payload)
        self.accounts.on_tip(payload)
        return done

    def append_block(self, payload: dict[str, Any], worker: int) -> asyncio.Future[None]:
        """A found block; see `ShareLog.append_block`."""
        done = self._log.append_block(payload, worker)
        self.accounts.on_block(payload)
        return done

    def append_block_state(self, payload: dict[str, Any]) -> asyncio.Future[None]:
        """What became of a block; see `ShareLog.append_block_state`."""
        done = self._log.append_block_state(payload)
        self.accounts.on_block_state(payload)
        return done

    def close_epoch(self, payload: dict[str, Any]) -> dict[Payee, int]:
        """An epoch's close; returns its weights."""
        self._log.close_epoch(payload)
        return self.accounts.on_close()

    def change(self, rules: Rules) -> None:
        """Other terms from the next record on; only right after a close. Raises InputError."""
        self.accounts.on_policy(rules)
        self._log.state_policy(rules.to_payload())


def _hash_of(payload: dict[str, Any]) -> bytes:
    return bytes.fromhex(str(payload["block"]))[::-1]
