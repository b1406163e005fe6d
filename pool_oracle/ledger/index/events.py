"""What a reader finds in a share log, as values.

`t` is the running sum of units, `work` counts hashes; hashes are in internal order. Texts are such that every database
can hold them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pool_oracle.units import Payee
from pool_oracle.work.records import SegmentHeader, ShareRecord
from pool_oracle.work.share import StratumJob


class ReadShare(NamedTuple):
    """A share; `unit` as in protocol.md, `work` the hashes that it takes on average."""

    record: ShareRecord
    unit: int
    work: int


@dataclass(frozen=True, slots=True)
class LoggedJob:
    """A job's definition."""

    stratum: StratumJob
    height: int


@dataclass(frozen=True, slots=True)
class LoggedWorker:
    """A worker's definition."""

    number: int
    payee: Payee
    name: str


@dataclass(frozen=True, slots=True)
class LoggedClose:
    """An epoch's close, with the weights that the shares before it make. `time` in Unix seconds."""

    epoch: int
    first_share: int
    closing_share: int
    t: int
    tip: str
    tip_height: int
    time: int
    segment: int
    weights: dict[Payee, int]


@dataclass(frozen=True, slots=True)
class LoggedBlock:
    """A found block. `txid` is its coinbase's, `t` T when it was found; `time` in Unix microseconds."""

    segment: int
    hash: bytes
    height: int
    epoch: int
    worker: int
    txid: bytes
    time: int
    t: int


@dataclass(frozen=True, slots=True)
class LoggedBlockState:
    """What became of a block. `time` in Unix microseconds."""

    hash: bytes
    state: str
    depth: int
    detail: str
    time: int


Event = ReadShare | SegmentHeader | LoggedWorker | LoggedClose | LoggedBlock | LoggedBlockState
