"""Deciding about shares: the jobs that shares may come for, the tips that they build on, the headers that were seen.

A judge holds no money and no log, so each process that serves miners has one of its own. `judge` is the hot path: what
does not change between the shares of a job is computed when the job comes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pool_oracle.errors import ShareRefused
from pool_oracle.networks import Network
from pool_oracle.payout.window import share_unit
from pool_oracle.units import Payee
from pool_oracle.work.merkle import fold_branch
from pool_oracle.work.share import StratumJob, pack_header
from pool_oracle.work.targets import nbits_to_target

MAX_NTIME_AHEAD = 7000
"""Seconds that a share's ntime may be ahead of the template's; a node refuses blocks 7,200 ahead of its clock."""

SEEN_TIPS = 16
"""Tips whose shares are remembered against duplicates: more than any reorganisation has blocks."""

_sha256 = hashlib.sha256


class SeenHeaders:
    """The hashes of the headers of accepted shares, by the block they build on.

    Headers on a tip that is gone cannot be accepted, but a reorganisation may bring it back: the last few tips stay.
    """

    def __init__(self) -> None:
        self._by_tip: dict[bytes, set[bytes]] = {}

    def of(self, tip: bytes) -> set[bytes]:
        """The hashes seen on `tip`, a set to be added to."""
        seen = self._by_tip.pop(tip, None)
        self._by_tip[tip] = seen = set() if seen is None else seen  # the last used tip stands last
        if len(self._by_tip) > SEEN_TIPS:
            del self._by_tip[next(iter(self._by_tip))]
        return seen


class LiveJob:
    """A job that shares may come for, as the hot path wants it."""

    __slots__ = (
        "_terms",
        "branch",
        "curtime",
        "height",
        "latest_ntime",
        "mintime",
        "network_target",
        "number",
        "seen",
        "stratum",
    )

    def __init__(
        self,
        number: int,
        stratum: StratumJob,
        network_target: int,
        mintime: int,
        curtime: int,
        height: int,
        seen: set[bytes],
    ) -> None:
        """`height` is that of the job's block; `seen` are the headers seen on its tip."""
        self.number = number
        self.stratum = stratum
        self.branch = stratum.branch
        self.network_target = network_target
        self.mintime = mintime
        self.curtime = curtime
        self.height = height
        self.latest_ntime = curtime + MAX_NTIME_AHEAD
        self.seen = seen
        self._terms: dict[int, JobTerms] = {}

    def terms(self, share_bits: int) -> JobTerms:
        """The job at a share target, given in compact form. Raises TargetError."""
        terms = self._terms.get(share_bits)
        if terms is None:
            target = nbits_to_target(share_bits)
            terms = JobTerms(self, share_bits, target, share_unit(self.network_target, target))
            self._terms[share_bits] = terms
        return terms

    def forget_terms(self) -> None:
        """No share can come for it any more: what it and its terms hold of each other would wait for a collector."""
        self._terms.clear()

    def merkle_root(self, extranonce1: bytes, extranonce2: bytes) -> bytes:
        """The header's merkle root for these extranonces."""
        coinbase = b"".join((self.stratum.coinb1, extranonce1, extranonce2, self.stratum.coinb2))
        return fold_branch(_sha256(_sha256(coinbase).digest()).digest(), self.branch)


class JobTerms(NamedTuple):
    """A job and the share target that was in force when a connection got it: `bits` compact, `unit` its work."""

    job: LiveJob
    bits: int
    target: int
    unit: int


class Worker:
    """A worker as one connection knows it. `number` is the pool's, -1 until a share of it was accepted there.

    Whoever only signs in, or sends shares that do not count, leaves nothing behind.
    """

    __slots__ = ("name", "number", "payee")

    def __init__(self, payee: Payee, name: str, number: int = -1) -> None:
        """A payee's worker."""
        self.payee = payee
        self.name = name
        self.number = number


class Submission(NamedTuple):
    """A miner's answer to a job, parsed but not judged.

    `version` is the header's, whole; `in_mask` tells whether only bits of the version mask differ from the job's.
    """

    terms: JobTerms
    worker: Worker
    extranonce1: bytes
    extranonce2: bytes
    ntime: int
    nonce: int
    version: int
    merkle_root: bytes
    in_mask: bool = True


class Judge:
    """The jobs of the present tip and the one before, and the verdict on shares for them."""

    def __init__(
        self,
        network: Network,
        stale_grace: float,
        on_block: Callable[[Submission, bytes, bytes], None],
        seen: SeenHeaders | None = None,
    ) -> None:
        """`on_block(submission, header, block hash)` is called for a header that meets the network target, at once.

        `stale_grace` is for how many seconds after a new tip shares of the one before are accepted; `seen` are headers
        of shares that were accepted before.
        """
        self._on_block = on_block
        self._scrypt = None if network.pow_name == "sha256d" else network.pow_hash
        self._grace = stale_grace
        self._seen = seen or SeenHeaders()
        self._jobs: dict[int, LiveJob] = {}
        self._tip = self._tip_before = b""
        self._tip_since = 0.0
        self.job: LiveJob | None = None

    def see(self, tip: bytes, headers: Iterable[bytes]) -> None:
        """Remember headers of shares on `tip` that were accepted before."""
        self._seen.of(tip).update(headers)

    def add_job(
        self, number: int, stratum: StratumJob, network_target: int, mintime: int, curtime: int, height: int
    ) -> list[int]:
        """Take up a job; it becomes the present one. Returns the numbers of jobs that are forgotten for it.

        Where its tip is new, jobs of the tip before stay known for one more tip: a late share may still be a block.
        """
        forgotten = []
        if stratum.prev_hash != self._tip:
            kept = {i: job for i, job in self._jobs.items() if job.stratum.prev_hash == self._tip}
            forgotten = [i for i in self._jobs if i not in kept]
            for i in forgotten:
                self._jobs[i].forget_terms()
            self._jobs = kept
            self._tip_before, self._tip = self._tip, stratum.prev_hash
            self._tip_since = time.monotonic()
        job = LiveJob(number, stratum, network_target, mintime, curtime, height, self._seen.of(stratum.prev_hash))
        self._jobs[number] = self.job = job
        return forgotten

    def find(self, number: int) -> LiveJob | None:
        """The job of that number, while it is known."""
        return self._jobs.get(number)

    def judge(self, submission: Submission) -> bytes:
        """The block hash of a share that counts, remembered from now on. Raises ShareRefused.

        A header that meets the network target is handed on before anything else is decided about it.
        """
        terms, _, _, _, ntime, nonce, version, root, in_mask = submission
        job = terms.job
        stratum = job.stratum
        header = pack_header(version, stratum.prev_hash, root, ntime, stratum.nbits, nonce)
        digest = _sha256(_sha256(header).digest()).digest()
        number = int.from_bytes(digest if self._scrypt is None else self._scrypt(header), "little")
        if number <= job.network_target:  # before anything else: a block is worth more than any rule about shares
            self._on_block(submission, header, digest)
        if stratum.prev_hash != self._tip and self._is_stale(stratum.prev_hash):
            raise ShareRefused(21, "stale: the job's tip is gone")
        if digest in job.seen:
            raise ShareRefused(22, "duplicate share")
        if number > terms.target:
            raise ShareRefused(23, "low difficulty share")
        if not job.mintime <= ntime <= job.latest_ntime:
            raise ShareRefused(20, f"ntime {ntime:08x} is out of range")
        if not in_mask:
            raise ShareRefused(20, f"version {version:08x} differs from the job's outside the mask")
        job.seen.add(digest)
        return digest

    def check_block(self, submission: Submission) -> None:
        """Hand on a submission that another process found to be a block, if it is one."""
        job = submission.terms.job
        stratum = job.stratum
        _, _, _, _, ntime, nonce, version, root, _ = submission
        header = pack_header(version, stratum.prev_hash, root, ntime, stratum.nbits, nonce)
        digest = _sha256(_sha256(header).digest()).digest()
        number = int.from_bytes(digest if self._scrypt is None else self._scrypt(header), "little")
        if number <= job.network_target:
            self._on_block(submission, header, digest)

    def seen_on_tip(self) -> tuple[bytes, list[bytes]]:
        """The present tip, and the headers seen on it."""
        return self._tip, list(self._seen.of(self._tip))

    def _is_stale(self, tip: bytes) -> bool:
        """Whether a tip that is not the present one is gone for longer than the grace."""
        return tip != self._tip_before or time.monotonic() >= self._tip_since + self._grace
