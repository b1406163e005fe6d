"""The outbox of one account: every transaction is written down before it is sent, and followed until it is final.

One transaction is in flight at a time, and it is always the one with the account's next nonce. The journal and the
chain together tell what has to be done next, so the process may be killed at any point: whoever opens the outbox again
goes on from there, and nothing is sent twice under another nonce. What makes that so:

- An attempt is on the disk before it leaves, and is sent again as the same bytes.
- A new nonce is taken for an intent only when its old one was used by another transaction, so that at most one of its
  attempts can ever be mined; and then its caller's question is asked again whether it is still to be done.
- A nonce that nobody used before one of ours is filled with a transfer of nothing to ourselves.

No decision depends on the clock: what is stuck is told by blocks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from web3.exceptions import Web3Exception
from web3.types import TxReceipt

from pool_oracle.chain.calls import Request, transaction_fields, try_call
from pool_oracle.chain.fees import MIN_BUMP_PERMILLE, Fees, FeeSettings, bump_fees, gwei, suggest_fees
from pool_oracle.chain.intents import ELSEWHERE, FAILED, FILLER_PREFIX, MINED, WITHDRAWN, Intent, Intents
from pool_oracle.chain.journal import (
    VERSION,
    Attempt,
    Begun,
    Dropped,
    Entry,
    Final,
    Journal,
    Mined,
    Opened,
    Void,
)
from pool_oracle.chain.keys import Signer
from pool_oracle.chain.quorum import Head, QuorumChain
from pool_oracle.errors import (
    AlreadyDone,
    AlreadyKnown,
    ChainError,
    ChainRefused,
    ChainUnreachable,
    FeesTooHigh,
    InsufficientFunds,
    NonceTooLow,
    OutboxError,
    TransactionReverted,
    Underpriced,
)
from pool_oracle.hashes import keccak256

MAX_GAP = 32
"""So many missing nonces are filled; an attempt that is further ahead is given up, since it never comes to its turn."""
FIRST_POLL_SECONDS = 0.02
MAX_BUMP_PERMILLE = 1000

log = structlog.get_logger("outbox")


@dataclass(frozen=True, slots=True)
class SendSettings:
    """How patient and how generous an outbox is. Depths count a transaction's own block."""

    confirmations: int = 1
    """The depth at which `send` returns."""
    final_depth: int = 30
    """The depth at which a transaction is not looked after any more."""
    stuck_blocks: int = 4
    """A transaction that is not mined after it has waited for so many blocks is replaced."""
    patience_seconds: float = 600
    """For how long `send` waits before it leaves the rest to the next call."""
    poll_seconds: float = 2
    resend_seconds: float = 15
    """How long a node may deny having a transaction before it is given to it again, where no block came meanwhile."""
    fees: FeeSettings = field(default_factory=FeeSettings)


class _NotYet(ChainError):
    """Waiting helps."""


_WAITS = (_NotYet, ChainUnreachable, FeesTooHigh, NonceTooLow, Underpriced)
"""What passes by itself, or by another attempt."""


class Outbox:
    """Sends an account's transactions, one after another; its calls block."""

    def __init__(self, chain: QuorumChain, signer: Signer, folder: Path, settings: SendSettings | None = None) -> None:
        """Open the journal in `folder`. Raises OutboxError where another process has it, or it is another account's."""
        self.chain = chain
        self._signer = signer
        self._settings = settings or SendSettings()
        self._busy = threading.Lock()
        self._stopped = threading.Event()
        self._journal = Journal(folder)
        try:
            self._intents = self._recover(Opened(VERSION, chain.chain_id, signer.address))
        except BaseException:
            self._journal.close()
            raise

    def _recover(self, mine: Opened) -> Intents:
        """What the journal tells, which must be ours."""
        entries = self._journal.entries
        if not entries:
            self._journal.append(mine)
        elif entries[0] != mine:
            raise OutboxError(f"{self._journal.path} is not of {mine.address} on chain {mine.chain}, but: {entries[0]}")
        intents = Intents(entries[1:])
        for intent in intents:
            if not intent.attempts:  # nothing was sent; who wants it will ask again
                self._journal.append(Final(intent.key, WITHDRAWN))
                intents.apply(Final(intent.key, WITHDRAWN))
        return intents

    @property
    def address(self) -> str:
        """The account's address."""
        return self._signer.address

    def stop(self) -> None:
        """Let a `send` that waits end soon. What it had begun is taken up when the outbox is opened again."""
        self._stopped.set()

    def close(self) -> None:
        """Stop, and let go of the journal."""
        self.stop()
        with self._busy:
            self._journal.close()

    def open_intents(self) -> list[Intent]:
        """What is not final, oldest first, to be looked at."""
        return list(self._intents)

    def send(self, request: Request, *, key: str | None = None, done: Callable[[], bool] | None = None) -> TxReceipt:
        """Have a request mined, once; returns the receipt when it has its confirmations.

        A `key` names the same intent in every life of the program: one that was begun before is gone on with. `done` is
        asked before anything is signed or sent again; where it is not this one's turn (one before it was taken out of
        the chain), it has to raise ChainError, which ends the call. Raises AlreadyDone when it says yes,
        TransactionReverted with the contract's error, InsufficientFunds, ChainError when patience ends or the outbox
        is stopped.
        """
        with self._busy:
            intent = self._take_up(key, request, done)
            deadline = time.monotonic() + self._settings.patience_seconds
            delay = FIRST_POLL_SECONDS
            while not self._stopped.is_set():
                problem = self._try(intent)
                receipt = self._receipt(intent)
                if receipt is not None:
                    return receipt
                if time.monotonic() >= deadline:
                    raise ChainError(
                        f"{request.what} has not its {self._settings.confirmations} confirmations after "
                        f"{self._settings.patience_seconds:g} s ({problem}); it stays in the outbox and is gone on with"
                    )
                self._stopped.wait(delay)
                delay = min(2 * delay, self._settings.poll_seconds)
            raise ChainError(f"{request.what}: stopped before it was confirmed; it is gone on with at the next start")

    def tend(self) -> None:
        """Look after what was sent: one step, without waiting. For a task that calls it every few seconds.

        Notices what a reorganisation dropped, and sends it again. Raises ChainError.
        """
        if not self._busy.acquire(blocking=False):
            return  # a `send` does the same
        try:
            self._advance(None)
        except _WAITS as problem:
            log.info("outbox waits", problem=str(problem))
        finally:
            self._busy.release()

    def _take_up(self, key: str | None, request: Request, done: Callable[[], bool] | None) -> Intent:
        """The intent of a key as it was left, or a new one."""
        name = key or f"{request.what}#{self._intents.count}"
        intent = self._intents.get(name)
        if intent is not None and intent.outcome is None:
            if intent.mined is not None and not intent.mined.succeeded:
                self._record(Final(name, FAILED))
            elif intent.request != request:
                self._record(Final(name, MINED if intent.mined else WITHDRAWN))
        if intent is None or intent.outcome is not None:
            intent = self._intents.new(name, request, asks=done is not None)
        intent.question, intent.is_wanted = done, True
        return intent

    def _try(self, intent: Intent) -> str:
        """One step; returns what it waits for."""
        try:
            self._advance(intent)
        except _WAITS as problem:
            return str(problem)
        return "not mined yet" if intent.mined is None else "not deep enough yet"

    def _receipt(self, intent: Intent) -> TxReceipt | None:
        """The receipt that `send` returns, when it is time. Raises AlreadyDone, TransactionReverted."""
        what = intent.request.what
        if intent.outcome == ELSEWHERE:
            raise AlreadyDone(f"{what} ({intent.key}) was done by somebody else")
        mined = intent.mined
        if mined is None:
            return None
        try:
            if self.chain.head().number - mined.block + 1 < self._settings.confirmations:
                return None
            receipt = self.chain.receipt(mined.hash)
        except ChainUnreachable:
            return None
        if receipt is not None and not receipt.succeeded:
            raise TransactionReverted(what, f"transaction {mined.hash} failed when it was mined")
        return None if receipt is None else receipt.for_web3()

    # One step

    def _advance(self, wanted: Intent | None) -> None:
        """Look at everything that is not final, then do the next thing for the first that is not mined.

        `wanted` may not be written down yet. Raises what `_work` raises.
        """
        head = self.chain.head()
        for intent in self._intents:
            self._look(intent, head)
        if wanted is not None and not wanted.is_written:
            self._look(wanted, head)
        for intent in self._intents:
            if intent is wanted:
                break
            if intent.mined is None and intent.may_send and not intent.is_filler:
                self._work_for_another(intent, head)
                if intent.outcome is None:
                    return
        if wanted is not None and wanted.mined is None and wanted.outcome is None:
            self._work(wanted, head)

    def _work_for_another(self, intent: Intent, head: Head) -> None:
        """Its revert is not the present caller's business."""
        try:
            self._work(intent, head)
        except TransactionReverted as error:
            log.error("transaction withdrawn", intent=intent.key, problem=str(error))

    def _look(self, intent: Intent, head: Head) -> None:
        """Find out where an attempt was mined, if any was."""
        if intent.mined is None or intent.seen_at != head.hash:
            found = self._find(intent)
            if found is None and intent.mined is not None:
                log.warning("transaction dropped by a reorganisation", intent=intent.key, hash=intent.mined.hash)
                self._record(Dropped(intent.key, intent.mined.hash))
                intent.waits_since = head.number
            elif found is not None and found != intent.mined:
                if not intent.is_written:  # an earlier life of this key sent it
                    self._begin(intent)
                log.info("transaction mined", intent=intent.key, hash=found.hash, block=found.block)
                self._record(found)
                intent.used_at, intent.refusals = None, 0
            intent.seen_at = head.hash
        mined = intent.mined
        if mined is not None and intent.outcome is None and head.number - mined.block + 1 >= self._settings.final_depth:
            self._record(Final(intent.key, MINED if mined.succeeded else FAILED))

    def _find(self, intent: Intent) -> Mined | None:
        """The attempt that is in a block of the believed chain."""
        for attempt in reversed(intent.attempts):
            receipt = self.chain.receipt(attempt.hash)
            if receipt is not None:
                return Mined(intent.key, attempt.hash, receipt.block, receipt.block_hash, receipt.succeeded)
        return None

    def _work(self, intent: Intent, head: Head) -> None:
        """Do the next thing for an intent that is not mined: nothing, send again, replace, or sign."""
        intent.waits_since = head.number if intent.waits_since is None else min(intent.waits_since, head.number)
        nonce = self._next_nonce()
        if intent.attempts and not self._is_void(intent, nonce, head):
            if intent.newest.nonce > nonce and self._is_stuck(intent, head):
                if not self._is_done(intent):
                    self._fill(nonce, head)
                return
            if intent.refusals or (intent.newest.nonce == nonce and self._is_stuck(intent, head)):
                self._replace(intent, head)
            elif self._is_lost(intent, head) and not self._is_done(intent):
                log.info("transaction sent again", intent=intent.key, hash=intent.newest.hash)
                self._offer(intent, intent.newest, head)
        elif intent.outcome is None and not self._is_done(intent):
            self._sign(intent, nonce, head)

    def _next_nonce(self) -> int:
        """The account's next nonce. Raises _NotYet where the node's word contradicts what is in blocks."""
        expected = self._intents.next_nonce()
        count = self.chain.nonce(self.address, expected)
        if expected is not None and count < expected:
            final = self._intents.last_final
            if final is None or count > final[0] or self.chain.block_hash(final[1].block) == final[1].block_hash:
                raise _NotYet(f"the node says that the next nonce is {count}, and {expected - 1} is used already")
        return count

    def _is_void(self, intent: Intent, nonce: int, head: Head) -> bool:
        """Whether no attempt can be mined any more, since their nonce was used or never comes. Then they are gone."""
        used = intent.newest.nonce
        if used < nonce:
            if not self._is_used_for_good(intent, head):
                raise _NotYet(f"nonce {used} was used, and no node shows a receipt of {intent.key} yet")
            log.warning("nonce used by another transaction", intent=intent.key, nonce=used)
        elif used - nonce <= MAX_GAP or not self._is_stuck(intent, head):
            return False
        intent.used_at, intent.refusals = None, 0
        if not intent.is_written:
            intent.attempts.clear()
            return True
        self._record(Void(intent.key, used))
        if intent.is_filler:
            self._record(Final(intent.key, WITHDRAWN))
        return True

    def _is_used_for_good(self, intent: Intent, head: Head) -> bool:
        """Whether its nonce was found used before: a node that counts may be ahead of one that has the receipts."""
        if intent.used_at is None:
            intent.used_at = (head.hash, time.monotonic())
        at, when = intent.used_at
        return at != head.hash or time.monotonic() - when >= self._settings.resend_seconds

    def _is_stuck(self, intent: Intent, head: Head) -> bool:
        return intent.waits_since is not None and head.number - intent.waits_since >= self._settings.stuck_blocks

    def _is_lost(self, intent: Intent, head: Head) -> bool:
        """Whether no node has the newest attempt, and it was not offered to them a moment ago."""
        at, when = intent.offered_at
        if at == head.hash and time.monotonic() - when < self._settings.resend_seconds:
            return False
        return not self.chain.everywhere("eth_getTransactionByHash", intent.newest.hash)

    def _is_done(self, intent: Intent) -> bool:
        """Ask the caller's question; where the answer is yes, that is the end of it."""
        try:
            if intent.question is None or not intent.question():
                return False
        except Web3Exception as error:
            raise ChainError(f"whether {intent.key} is done already could not be asked: {error}") from None
        if intent.is_written:
            self._record(Final(intent.key, ELSEWHERE))
        intent.outcome = ELSEWHERE
        return True

    def _fill(self, nonce: int, head: Head) -> None:
        """Use up the account's next nonce, which one of ours with a higher nonce waits for."""
        key = f"{FILLER_PREFIX}{nonce}"
        filler = self._intents.get(key)
        if filler is None or filler.outcome is not None:
            log.warning("nonce filled with a transfer to ourselves", nonce=nonce)
            filler = Intent(key, Request("fill", self.address, "0x", 0))
        self._work(filler, head)

    def _replace(self, intent: Intent, head: Head) -> None:
        """Sign another attempt with the same nonce and higher fees; at the cap, stay with what there is."""
        if self._is_done(intent):
            return
        try:
            self._sign(intent, intent.newest.nonce, head)
        except FeesTooHigh:
            if self._is_lost(intent, head):
                with contextlib.suppress(Underpriced):
                    self._offer(intent, intent.newest, head)
            raise
        except TransactionReverted:
            # It would fail by now. The next transaction takes its nonce.
            if intent.is_written and intent.outcome is None:
                self._record(Final(intent.key, WITHDRAWN))
            raise

    def _sign(self, intent: Intent, nonce: int, head: Head) -> None:
        """Try the call, sign it, write it down, send it."""
        request = intent.request
        gas = try_call(self.chain, self.address, request)
        fees = self._fees(nonce, intent.refusals)
        needed, balance = (
            gas * fees.max_fee + request.value,
            self.chain.ask_number("eth_getBalance", self.address, "latest"),
        )
        if balance < needed:
            raise InsufficientFunds(
                f"{self.address} has {balance} wei and needs {needed} for {request.what} "
                f"({gas} gas at {gwei(fees.max_fee)} gwei, value {request.value} wei); send it {needed - balance} more"
            )
        fields = transaction_fields(self.chain.chain_id, request, nonce, gas, fees)
        raw = self._signer.sign(fields)
        attempt = Attempt(
            key=intent.key,
            nonce=nonce,
            hash=f"0x{keccak256(raw).hex()}",
            raw=f"0x{raw.hex()}",
            gas=gas,
            max_fee=fees.max_fee,
            tip=fees.tip,
            time=int(time.time()),
        )
        if not intent.is_written:
            self._begin(intent)
        self._record(attempt)
        intent.waits_since = head.number
        log.info(
            "transaction signed", intent=intent.key, nonce=nonce, hash=attempt.hash, gas=gas, gwei=gwei(fees.max_fee)
        )
        self._offer(intent, attempt, head)

    def _fees(self, nonce: int, refusals: int) -> Fees:
        """The usual fees, or what outbids our own transactions with this nonce. Raises FeesTooHigh."""
        settings = self._settings.fees
        usual, offered = suggest_fees(self.chain, settings), self._intents.offered(nonce)
        if offered is None:
            return usual
        permille = min(MIN_BUMP_PERMILLE << min(refusals, 8), MAX_BUMP_PERMILLE)
        fees = bump_fees(offered, usual, settings, permille)
        if fees is None:
            raise FeesTooHigh(
                f"a transaction with nonce {nonce} offers {gwei(offered.max_fee)} gwei per gas and is not mined; "
                f"the settings allow {gwei(settings.max_fee)} gwei, too little to replace it"
            )
        return fees

    def _offer(self, intent: Intent, attempt: Attempt, head: Head) -> None:
        """Give an attempt to the nodes. Raises what they refuse it with."""
        intent.offered_at = (head.hash, time.monotonic())
        try:
            self.chain.broadcast(bytes.fromhex(attempt.raw[2:]))
        except (AlreadyKnown, NonceTooLow):
            pass  # the next look tells which of ours it was, or that it was another's
        except InsufficientFunds:
            raise
        except ChainRefused as error:
            log.warning("transaction refused", intent=intent.key, hash=attempt.hash, problem=str(error))
            intent.refusals += 1
            raise
        intent.refusals = 0

    # The journal

    def _begin(self, intent: Intent) -> None:
        request = intent.request
        self._journal.append(Begun(intent.key, request.what, request.to, request.data, str(request.value), intent.asks))
        self._intents.add(intent)

    def _record(self, entry: Entry) -> None:
        self._journal.append(entry)
        self._intents.apply(entry)
