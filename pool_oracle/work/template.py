"""A block template, and the jobs and blocks that are made of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pool_oracle.hashes import sha256d
from pool_oracle.units import Satoshi, Target
from pool_oracle.work.coinbase import build_coinbase, with_witness
from pool_oracle.work.merkle import coinbase_branch
from pool_oracle.work.serialize import compact_size
from pool_oracle.work.share import StratumJob
from pool_oracle.work.targets import nbits_to_target
from pool_oracle.work.transaction import TxOutput


@dataclass(frozen=True, slots=True)
class Template:
    """What a node wants in the next block (BIP-22, BIP-23).

    `prev_hash` and txids are in internal order; `transactions` are raw, in the block's order, without the coinbase;
    `curtime` and `mintime` are Unix seconds; `witness_commitment` is the output script, empty before segwit;
    `coinbase_aux` are bytes that the node wants in the coinbase's scriptSig; `extension` is what follows the
    transactions in a block (Litecoin's MWEB, LIP-3). `branch` is the coinbase's merkle branch, computed once here
    because every job of the template has the same.
    """

    height: int
    version: int
    prev_hash: bytes
    nbits: int
    curtime: int
    mintime: int
    coinbase_value: Satoshi
    txids: tuple[bytes, ...]
    transactions: tuple[bytes, ...]
    witness_commitment: bytes
    coinbase_aux: bytes = b""
    extension: bytes = b""
    branch: tuple[bytes, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compute the branch."""
        object.__setattr__(self, "branch", tuple(coinbase_branch(self.txids)))

    @property
    def network_target(self) -> Target:
        """The target a block's hash must not exceed."""
        return nbits_to_target(self.nbits)


@dataclass(frozen=True, slots=True)
class Job:
    """A template with its coinbase: what is sent to miners and kept until its tip is gone.

    `number` counts jobs over the life of the log; `commitment` is the epoch commitment in the coinbase; `epoch` is
    that epoch's number; `network_target` is the one that blocks are judged by (emulated on regtest).
    """

    number: int
    stratum: StratumJob
    template: Template
    commitment: bytes
    epoch: int
    network_target: Target


def make_job(
    number: int,
    template: Template,
    *,
    reward_script: bytes,
    commitment_script: bytes,
    commitment: bytes,
    epoch: int,
    tag: bytes,
    extranonce_size: int,
    network_target: Target | None = None,
) -> Job:
    """The job for `template` that pays everything to `reward_script` and carries `commitment_script`.

    Raises JobError when the coinbase would not be valid, see `build_coinbase`.
    """
    outputs = [TxOutput(template.coinbase_value, reward_script)]
    if template.witness_commitment:
        outputs.append(TxOutput(Satoshi(0), template.witness_commitment))
    outputs.append(TxOutput(Satoshi(0), commitment_script))
    # What the node wants in scriptSig goes into the second push, before the extranonces: bridges read two pushes.
    marker = tag + template.coinbase_aux
    parts = build_coinbase(template.height, marker, extranonce_size, outputs, template.coinbase_value)
    stratum = StratumJob(
        version=template.version,
        prev_hash=template.prev_hash,
        coinb1=parts.coinb1,
        coinb2=parts.coinb2,
        branch=template.branch,
        nbits=template.nbits,
    )
    return Job(number, stratum, template, commitment, epoch, network_target or template.network_target)


def assemble_block(header: bytes, coinbase: bytes, template: Template) -> bytes:
    """The block of a header that was solved. `coinbase` is without witness data; it is added where segwit wants it."""
    full = with_witness(coinbase) if template.witness_commitment else coinbase
    count = compact_size(1 + len(template.transactions))
    return b"".join((header, count, full, *template.transactions, template.extension))


def block_hash(header: bytes) -> bytes:
    """The hash that names a block, internal order; for scrypt networks it is not the proof of work's."""
    return sha256d(header)
