"""The jobs that one connection was given, each at the target that was in force when it was given.

A share is judged by that target: a job that is given again at another one has another id on the wire (its place: the
job's number and one hex digit that counts), so no change of target ever refuses work that was begun before it.
"""

from __future__ import annotations

from pool_oracle.judge import JobTerms, Judge, LiveJob
from pool_oracle.stratum.messages import REPEATS

MAX_CHANGES = 32
"""Changes of target that are remembered over a new tip; jobs of two tips have far fewer."""


class GivenJobs:
    """Places and targets of one connection's jobs. Pure: the caller sends.

    `changes` are pairs (place, share bits in force from there on), oldest first; `terms` are those of `job_id`, the id
    that was looked up last: nearly always the next share's.
    """

    __slots__ = ("changes", "job_id", "terms")

    def __init__(self, changes: list[tuple[int, int]]) -> None:
        """`changes` of the session that is taken up again, or none."""
        self.changes = changes
        self.job_id = ""
        self.terms: JobTerms | None = None

    @property
    def bits(self) -> int | None:
        """The share bits in force, None before the first job."""
        return self.changes[-1][1] if self.changes else None

    def find(self, judge: Judge, job_id: str) -> JobTerms | None:
        """The job of an id and the target that was in force when this connection got it.

        None where it was never given or is gone; raises ValueError for what is no id.
        """
        place = int(job_id, 16)
        job = judge.find(place // REPEATS)
        if job is None:
            return None
        for since, bits in reversed(self.changes):
            if since <= place:
                self.job_id, self.terms = job_id, job.terms(bits)
                return self.terms
        return None

    def give(self, job: LiveJob, bits: int) -> bool:
        """A job is given for the first time, under its own id; returns whether its target is another than before."""
        if self.bits == bits:
            return False
        self.changes.append((job.number * REPEATS, bits))
        return True

    def give_again(self, job: LiveJob, bits: int) -> int | None:
        """The place under which a job can be given once more, its target in force from there on; None if none is left.

        A session that was taken up has had the job's first id already, for all that is known.
        """
        place = job.number * REPEATS
        if self.changes:
            place = max(place, self.changes[-1][0]) + 1
        if place // REPEATS != job.number:
            return None
        self.changes.append((place, bits))
        return place

    def can_give_again(self, job: LiveJob) -> bool:
        """Whether `give_again` has a place left for a job."""
        return not self.changes or self.changes[-1][0] < (job.number + 1) * REPEATS - 1

    def forget_all_but(self, count: int) -> None:
        """Only the last `count` changes still count: work on older jobs is for nobody."""
        del self.changes[: max(0, len(self.changes) - count)]
        self.job_id, self.terms = "", None
