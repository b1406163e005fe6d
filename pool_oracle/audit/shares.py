"""The shares of one epoch, each rebuilt and hashed again, and accounted as the log's own policy says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pool_oracle.errors import InputError
from pool_oracle.hashes import sha256d
from pool_oracle.ledger.accounts import Accounts
from pool_oracle.ledger.rules import Rules
from pool_oracle.networks import Network
from pool_oracle.payout.commitment import find_commitment
from pool_oracle.payout.payee import parse_payee
from pool_oracle.payout.window import share_unit
from pool_oracle.units import Payee
from pool_oracle.work.coinbase import check_extranonce_place
from pool_oracle.work.records import (
    KIND_BLOCK,
    KIND_BLOCK_STATE,
    KIND_CLOSE,
    KIND_JOB,
    KIND_POLICY,
    KIND_TIP,
    KIND_WORKER,
    LongRecord,
    Record,
    SegmentHeader,
    ShareRecord,
)
from pool_oracle.work.scripts import FlyoverTerms, flyover_script
from pool_oracle.work.share import StratumJob, check_header
from pool_oracle.work.targets import nbits_to_target
from pool_oracle.work.transaction import parse_transaction

Expect = Callable[[str, object, object, str], None]
"""Told what is checked, what is expected, what was found, and where; notes a finding unless the two are equal."""


@dataclass(frozen=True, slots=True)
class JobRules:
    """What a job's coinbase must show: one of these commitments, and the script that follows from it.

    Those of all earlier epochs, or epoch 0's where blocks pay a treasury.

    `terms` are those of the flyover route, where they are known.
    """

    commitments: frozenset[bytes]
    terms: FlyoverTerms | None


@dataclass(frozen=True, slots=True)
class _Job:
    stratum: StratumJob
    extranonce_size: int
    height: int


class EpochShares:
    """Takes the records of an epoch's segments, in order.

    `count` shares were hashed again, the newest is `last`; `seen` are their headers; `windows` are all X that the log
    named; `skips` tells that the present segment was accounted with an epoch before.
    """

    def __init__(
        self, expect: Expect, find: Expect, network: Network, rules: Rules, jobs: JobRules, *, closing_share: int
    ) -> None:
        """`find` notes a finding in any case; shares after `closing_share` are not looked at."""
        self._expect = expect
        self._find = find
        self._network = network
        self._job_rules = jobs
        self._closing_share = closing_share
        self._accounted = -1
        self._jobs: dict[int, _Job] = {}
        self._payees: dict[int, Payee] = {}
        self._checked_jobs: set[int] = set()
        self.seen: set[bytes] = set()
        self.rules = rules
        self.accounts: Accounts | None = None
        self.windows = {rules.window}
        self.skips = False
        self.count = 0
        self.last = -1
        self.last_segment = -1

    def go_on(self, accounts: Accounts | None, accounted: int, seen: set[bytes]) -> None:
        """Go on with the accounts of the epoch before, which hold the segments up to number `accounted`."""
        self.accounts, self._accounted, self.seen = accounts, accounted, set(seen)

    @property
    def t(self) -> int:
        """The running sum of units."""
        return self.accounts.scheme.t if self.accounts is not None else 0

    def take(self, record: Record, place: str) -> None:
        """The next record; `place` says where it stands."""
        if isinstance(record, SegmentHeader):
            self._begin(record, place)
        elif self.accounts is None or self.skips:
            if isinstance(record, ShareRecord):
                self.last = record.sequence
        elif isinstance(record, LongRecord):
            self._take_long(record, self.accounts, place)
        elif record.sequence <= self._closing_share:
            self._take_share(record, self.accounts, place)

    def _begin(self, header: SegmentHeader, place: str) -> None:
        self.skips = header.segment <= self._accounted
        if self.accounts is None:
            self.accounts = Accounts(self.rules, t=header.t)
        elif not self.skips:
            self._expect("T at the segment's start", self.t, header.t, place)
        if self.last >= 0:
            self._expect("first share of the segment", self.last + 1, header.first_sequence, place)
        self.last_segment = header.segment

    def _take_share(self, share: ShareRecord, accounts: Accounts, place: str) -> None:
        self.last = share.sequence
        self.count += 1
        job, payee = self._jobs.get(share.job), self._payees.get(share.worker)
        if job is None or payee is None:
            self._find("job and worker of the share", "defined before it", f"share {share.sequence}", place)
            return
        unit = self._unit_of(share, job, place)
        try:
            accounts.on_share(share.sequence, payee, unit, job.height)
        except InputError as error:
            self._find("price of the share", "what it needs, in the log before it", str(error), place)

    def _unit_of(self, share: ShareRecord, job: _Job, place: str) -> int:
        """A share's proof of work, its uniqueness, its job; returns its unit, 0 for one that does not count."""
        stratum = job.stratum
        self._expect("extranonces", job.extranonce_size, len(share.extranonce1) + len(share.extranonce2), place)
        if share.job not in self._checked_jobs:
            self._checked_jobs.add(share.job)
            self._check_coinbase(stratum, share, place)
        share_target = nbits_to_target(share.share_bits)
        network_target = self.rules.emulated_target or nbits_to_target(stratum.nbits)
        root = stratum.merkle_root(share.extranonce1, share.extranonce2)
        checked = check_header(share.header(stratum), root, share_target, network_target, self._network.pow_hash)
        if not checked.meets_share_target:
            self._find("proof of work", f"a hash up to {share_target:#x}", checked.pow_hash[::-1].hex(), place)
            return 0
        header_hash = sha256d(checked.header)
        if header_hash in self.seen:
            self._find("share counted once", "a new header", header_hash[::-1].hex(), place)
            return 0
        self.seen.add(header_hash)
        return share_unit(network_target, share_target)

    def _check_coinbase(self, job: StratumJob, share: ShareRecord, place: str) -> None:
        """The coinbase carries the commitment of an epoch that it may pay, and pays what that fixes."""
        check_extranonce_place(job.coinb1, len(share.extranonce1) + len(share.extranonce2))
        coinbase = parse_transaction(job.coinbase(share.extranonce1, share.extranonce2))
        found = find_commitment(output.script for output in coinbase.outputs)
        if found is None or found[1] not in self._job_rules.commitments:
            text = f"0x{found[1].hex()}" if found else "none, or several"
            where = f"{place}, job {share.job}"
            self._find("commitment in the coinbase", "that of an epoch that it may pay", text, where)
            return
        if self._job_rules.terms is not None:
            paid = {output.script.hex() for output in coinbase.outputs if output.value}
            expected = {flyover_script(found[1], self._job_rules.terms).hex()}
            self._expect("reward script of the coinbase", expected, paid, f"{place}, job {share.job}")

    def _take_long(self, record: LongRecord, accounts: Accounts, place: str) -> None:
        """What a record that is no share means for the accounts, or for the shares after it."""
        payload = record.payload
        try:
            if record.kind == KIND_POLICY:
                accounts.on_policy(Rules.from_payload(payload))
                self.windows.add(accounts.rules.window)
            elif record.kind == KIND_TIP:
                accounts.on_tip(payload)
            elif record.kind == KIND_BLOCK:
                accounts.on_block(payload)
            elif record.kind == KIND_BLOCK_STATE:
                accounts.on_block_state(payload)
            elif record.kind == KIND_CLOSE:
                accounts.may_change = True  # what the close makes of the accounts is looked at when all is read
        except (InputError, KeyError, ValueError, TypeError) as error:
            self._find("record in the log", "one that fits those before it", str(error), place)
        try:
            self._define(record, place)
        except (InputError, KeyError, ValueError, TypeError, OverflowError) as error:
            self._find("definition in the log", "a job or a worker", repr(error), place)

    def _define(self, record: LongRecord, place: str) -> None:
        """Note a definition. One number stands for one job or worker, however often it is defined."""
        payload = record.payload
        if record.kind == KIND_JOB:
            job = _Job(StratumJob.from_wire(payload), int(payload["extranonceSize"]), int(payload["height"]))
            self._expect("job defined again", self._jobs.setdefault(int(payload["job"]), job), job, place)
        elif record.kind == KIND_WORKER:
            payee = parse_payee(str(payload["payee"]))
            number = int(payload["worker"])
            self._expect("worker defined again", self._payees.setdefault(number, payee), payee, place)
