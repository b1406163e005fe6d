"""Thousands of blocks of ours, empty and full, judged by Bitcoin Core's own validation; and every way to spoil one.

Regtest never retargets: retargets of the main network are in tests/unit/test_retargets.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pool_oracle.api.views import Views
from pool_oracle.blocks import COINBASE_MATURITY
from pool_oracle.errors import BlockRejected, ShareRefused
from pool_oracle.hashes import sha256d
from pool_oracle.ledger.rules import Rules
from pool_oracle.logbook import BlockState
from pool_oracle.node.embedded import EmbeddedRegtest, solve
from pool_oracle.node.source import Tip
from pool_oracle.restoring import restore_state
from pool_oracle.units import Satoshi
from pool_oracle.work.block import parse_block
from pool_oracle.work.coinbase import WITNESS_RESERVED_VALUE, with_witness, witness_commitment_script
from pool_oracle.work.merkle import merkle_root
from pool_oracle.work.serialize import compact_size
from pool_oracle.work.share import HEADER_SIZE, pack_header, rolled_version
from pool_oracle.work.template import Template
from pool_oracle.work.transaction import Transaction, TxOutput
from tests.integration.spends import Coin, Lock, assembled, coins_of, filled, job_of, sign, solved, spend

OpenRig = Callable[..., AbstractAsyncContextManager[Any]]

ROLLED = 0x1FFFE000
"""The version bits that miners roll (BIP-320)."""

BLOCKS = 3_500
"""Below 4,950 blocks, where regtest's subsidy is zero."""

BORDERS = [2**n + step for n in range(1, 13) for step in (-1, 0, 1)]
"""Transactions of a block, its coinbase included, around each number at which a branch gets another level."""

SMALL = 2_000
"""Satoshi that a coin must be above, so that it can pay any fee here."""


class Chain:
    """A regtest chain that grows by blocks in which everything is random that a miner or a pool may choose."""

    def __init__(self, node: EmbeddedRegtest, seed: int) -> None:
        self.node = node
        self.random = random.Random(seed)
        self.coins: list[Coin] = []
        self.unripe: list[Coin] = []
        self.raw: list[bytes] = []
        self.with_witness: set[bool] = set()

    async def grow(self, blocks: int, most_transactions: int = 0) -> None:
        """Add blocks with up to so many transactions."""
        for _ in range(blocks):
            await self.add(self.random.randint(0, most_transactions))

    async def add(self, transactions: int) -> Template:
        """Add a block with so many transactions besides the coinbase; its template."""
        spends, fees = self.spends(transactions)
        template = filled(await self.node.template(), spends, fees)
        if self.random.random() < 0.1:
            template = replace(template, coinbase_aux=self.random.randbytes(4))
        await self.take(self.solved(template))
        return template

    def solved(self, template: Template) -> bytes:
        choose = self.random
        extranonces = choose.randbytes(4), choose.randbytes(choose.randint(4, 8))
        job = job_of(
            template,
            reward=choose.choice(list(Lock)),
            tag=choose.randbytes(choose.randint(0, 59)),
            extranonce_size=len(extranonces[0] + extranonces[1]),
        )
        version = rolled_version(template.version, ROLLED, choose.getrandbits(32) & ROLLED)
        ntime = choose.randint(template.mintime, template.curtime)
        return solved(job, extranonces=extranonces, version=version, ntime=ntime)

    async def take(self, raw: bytes) -> None:
        """Hand in a block that must be accepted, and own its reward once it is mature."""
        await self.node.submit(raw)
        block = parse_block(raw)
        self.raw.append(raw)
        assert await self.node.tip() == Tip(block.hash, len(self.raw)), "the block was refused without a word"
        self.unripe += coins_of(block.coinbase)
        if len(self.unripe) >= COINBASE_MATURITY and (coin := self.unripe.pop(0)).value > SMALL:
            self.coins.append(coin)

    def spends(self, count: int) -> tuple[list[Transaction], int]:
        """(transactions, their fees): of one to three coins each, some of which come from the transaction before."""
        made, fees = [], 0
        for _ in range(count):
            inputs = [self._coin() for _ in range(min(self.random.randint(1, 3), len(self.coins)))]
            fee = self.random.randint(0, 1000)
            locktime = self.random.choice([0, 0, 1, len(self.raw)])
            tx = spend(inputs, self.random.choices(list(Lock), k=self.random.randint(1, 4)), fee=fee, locktime=locktime)
            self.coins += [coin for coin in coins_of(tx) if coin.value > SMALL]
            self.with_witness.add(bool(tx.witnesses))
            made.append(tx)
            fees += fee
        return made, fees

    def _coin(self) -> Coin:
        return self.coins.pop(self.random.randrange(len(self.coins)))


def test_thousands_of_blocks_are_accepted_whatever_miners_and_pool_choose(tmp_path: Path) -> None:
    async def work() -> None:
        node = EmbeddedRegtest(tmp_path)
        chain = Chain(node, seed=1)
        await chain.grow(COINBASE_MATURITY)
        await chain.grow(BLOCKS - COINBASE_MATURITY, most_transactions=3)
        assert [await node.block(height + 1) for height in range(BLOCKS)] == chain.raw
        assert chain.with_witness == {True, False}
        await node.close()

    asyncio.run(work())


def test_blocks_are_accepted_at_every_depth_of_the_merkle_branch(tmp_path: Path) -> None:
    async def work() -> None:
        node = EmbeddedRegtest(tmp_path)
        chain = Chain(node, seed=2)
        await chain.grow(COINBASE_MATURITY)
        depths = [len((await chain.add(count - 1)).branch) for count in BORDERS]
        assert depths == [(count - 1).bit_length() for count in BORDERS]
        assert max(depths) == 13
        assert chain.with_witness == {True, False}
        await node.close()

    asyncio.run(work())


# Spoilt blocks


@dataclass(frozen=True, slots=True)
class Case:
    """A good template of two spends, the second of the first, to be spoilt; and the coins that were there for it."""

    template: Template
    parent: Transaction
    child: Transaction
    coin: Coin
    unripe: Coin

    def holding(self, *transactions: Transaction) -> Template:
        """The template with other transactions, without their fees."""
        return filled(replace(self.template, coinbase_value=self.subsidy), transactions)

    @property
    def subsidy(self) -> Satoshi:
        """What the coinbase may pay without fees."""
        return Satoshi(self.template.coinbase_value - FEE)


FEE = 500


def with_branch(case: Case, spoil: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]) -> bytes:
    job = job_of(case.template)
    return solved(replace(job, stratum=replace(job.stratum, branch=spoil(job.stratum.branch))))


def with_body(case: Case, spoil: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """The good block with its transactions, the coinbase first, exchanged under the same header."""
    block = assembled(case.template)
    coinbase = with_witness(job_of(case.template).stratum.coinbase(b"\x01", b"\x02"))
    body = spoil([coinbase, *case.template.transactions])
    return block[:HEADER_SIZE] + compact_size(len(body)) + b"".join(body)


def with_transactions(template: Template, *transactions: Transaction) -> bytes:
    """A solved block of exactly these, which has no coinbase unless one is among them."""
    root = merkle_root([tx.txid for tx in transactions])
    header = pack_header(template.version, template.prev_hash, root, template.curtime, template.nbits, 0)
    raw = [tx.serialize() for tx in transactions]
    return solve(header, template.network_target) + compact_size(len(raw)) + b"".join(raw)


def coinbase_of(case: Case, **changes: Any) -> Transaction:
    return replace(parse_block(assembled(case.template)).coinbase, **changes)


def with_script(case: Case, size: int) -> bytes:
    """A coinbase with a scriptSig of so many bytes."""
    coinbase = coinbase_of(case)
    script = coinbase.inputs[0].script.ljust(size, b"\x00")[:size]
    changed = replace(coinbase, inputs=(replace(coinbase.inputs[0], script=script),))
    return with_transactions(case.template, changed, case.parent, case.child)


def with_reserved_value(case: Case, *items: bytes) -> bytes:
    return with_body(case, lambda body: [coinbase_of(case, witnesses=(items,)).serialize(), *body[1:]])


def other_signature(case: Case) -> Transaction:
    """The first spend with a signature that is good for another value."""
    return sign(case.parent, [replace(case.coin, value=case.coin.value + 1)])


def spends_twice(coin: Coin) -> Transaction:
    """A transaction that spends a coin in two inputs (CVE-2018-17144)."""
    tx = spend([coin], [Lock.TRUE])
    return replace(tx, inputs=tx.inputs * 2, witnesses=tx.witnesses * 2)


def too_large(case: Case) -> Transaction:
    tx = spend([case.coin], [Lock.TRUE])
    return sign(replace(tx, outputs=(TxOutput(Satoshi(0), bytes(1_000_000)),)), [case.coin])


SPOILT: dict[str, tuple[str, Callable[[Case], bytes]]] = {
    "a branch with another hash": ("bad-txnmrklroot", lambda c: with_branch(c, lambda b: (b[0], bytes(32), *b[2:]))),
    "a branch that is too short": ("bad-txnmrklroot", lambda c: with_branch(c, lambda b: b[:-1])),
    "a branch that is too long": ("bad-txnmrklroot", lambda c: with_branch(c, lambda b: (*b, b[-1]))),
    "a branch upside down": ("bad-txnmrklroot", lambda c: with_branch(c, lambda b: b[::-1])),
    "ids in another order": (
        "bad-txnmrklroot",
        lambda c: assembled(replace(c.template, transactions=c.template.transactions[::-1])),
    ),
    "ids in display order": (
        "bad-txnmrklroot",
        lambda c: assembled(replace(c.template, txids=tuple(txid[::-1] for txid in c.template.txids))),
    ),
    "ids that cover witnesses": (
        "bad-txnmrklroot",
        lambda c: assembled(replace(c.template, txids=tuple(sha256d(raw) for raw in c.template.transactions))),
    ),
    "a transaction left out": ("bad-txnmrklroot", lambda c: with_body(c, lambda body: body[:-1])),
    "the last transaction twice": ("bad-txns-duplicate", lambda c: with_body(c, lambda body: [*body, body[-1]])),
    "a child before its parent": (
        "bad-txns-inputs-missingorspent",
        lambda c: assembled(c.holding(c.child, c.parent)),
    ),
    "a coin spent in two transactions": (
        "bad-txns-inputs-missingorspent",
        lambda c: assembled(c.holding(c.parent, spend([c.coin], [Lock.TRUE]))),
    ),
    "a coin spent twice in one": ("bad-txns-inputs-duplicate", lambda c: assembled(c.holding(spends_twice(c.coin)))),
    "a coinbase spent too early": (
        "bad-txns-premature-spend-of-coinbase",
        lambda c: assembled(c.holding(spend([c.unripe], [Lock.TRUE]))),
    ),
    "more paid than spent": (
        "bad-txns-in-belowout",
        lambda c: assembled(c.holding(spend([c.coin], [Lock.TRUE], fee=-1))),
    ),
    "a locktime to come": (
        "bad-txns-nonfinal",
        lambda c: assembled(c.holding(spend([c.coin], [Lock.TRUE], locktime=c.template.height))),
    ),
    "a wrong signature": (
        "block-script-verify-flag-failed",
        lambda c: assembled(c.holding(other_signature(c))),
    ),
    "a megabyte without witnesses": ("bad-blk-length", lambda c: assembled(c.holding(too_large(c)))),
    "a witness commitment over txids": (
        "bad-witness-merkle-match",
        lambda c: assembled(
            replace(
                c.template,
                witness_commitment=witness_commitment_script(merkle_root([bytes(32), *c.template.txids])),
            )
        ),
    ),
    "the witness commitment of an empty block": (
        "bad-witness-merkle-match",
        lambda c: assembled(replace(c.template, witness_commitment=witness_commitment_script(bytes(32)))),
    ),
    "witnesses without a commitment": (
        "unexpected-witness",
        lambda c: assembled(replace(c.template, witness_commitment=b"")),
    ),
    "no witness reserved value": ("bad-witness-nonce-size", with_reserved_value),
    "a witness reserved value of 31 bytes": (
        "bad-witness-nonce-size",
        lambda c: with_reserved_value(c, WITNESS_RESERVED_VALUE[1:]),
    ),
    "another witness reserved value": (
        "bad-witness-merkle-match",
        lambda c: with_reserved_value(c, b"\x01" * 32),
    ),
    "two coinbases": (
        "bad-cb-multiple",
        lambda c: with_transactions(c.template, coinbase_of(c), coinbase_of(c, locktime=1)),
    ),
    "no coinbase": ("bad-cb-missing", lambda c: with_transactions(c.template, c.parent, c.child)),
    "a scriptSig of 101 bytes": ("bad-cb-length", lambda c: with_script(c, 101)),
    "a scriptSig of 1 byte": ("bad-cb-length", lambda c: with_script(c, 1)),
    "a height too high": (
        "bad-cb-height",
        lambda c: assembled(replace(c.template, height=c.template.height + 1)),
    ),
    "a height too low": (
        "bad-cb-height",
        lambda c: assembled(replace(c.template, height=c.template.height - 1)),
    ),
    "one satoshi more than subsidy and fees": (
        "bad-cb-amount",
        lambda c: assembled(replace(c.template, coinbase_value=Satoshi(c.template.coinbase_value + 1))),
    ),
    "fees of transactions that are not there": (
        "bad-cb-amount",
        lambda c: assembled(filled(c.template, [])),
    ),
    "a time too old": ("time-too-old", lambda c: assembled(replace(c.template, curtime=c.template.mintime - 1))),
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """A chain with some mature coins; each test that spends one adds a block."""
    grown = Chain(EmbeddedRegtest(tmp_path_factory.mktemp("node")), seed=3)
    asyncio.run(grown.grow(COINBASE_MATURITY + 20))
    yield grown
    grown.node.unload()


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_block_is_refused_with_the_kernels_own_reason_and_the_good_one_accepted(
    chain: Chain, name: str
) -> None:
    reason, spoil = SPOILT[name]

    async def work() -> None:
        template = await chain.node.template()
        coin = next(c for c in chain.coins if c.lock is Lock.P2WPKH)
        chain.coins.remove(coin)
        parent = spend([coin], [Lock.P2PKH, Lock.NESTED_P2WPKH], fee=FEE)
        child = spend(coins_of(parent), [Lock.P2WPKH])
        case = Case(filled(template, [parent, child], FEE), parent, child, coin, chain.unripe[1])
        before = await chain.node.tip()
        with pytest.raises(BlockRejected) as refusal:
            await chain.node.submit(spoil(case))
        assert refusal.value.reason == reason
        assert await chain.node.tip() == before
        # Nothing but the spoiling was wrong; where it left the header alone, the node must not hold that against it.
        await chain.take(assembled(case.template))
        chain.coins += coins_of(child)

    asyncio.run(work())


# What the operator sees


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: replace(t, height=t.height + 1), "bad-cb-height"),
        (lambda t: replace(t, witness_commitment=t.witness_commitment[:-1] + b"\x00"), "bad-witness-merkle-match"),
        (lambda t: replace(t, coinbase_value=t.coinbase_value + 1), "bad-cb-amount"),
        (lambda t: replace(t, txids=(bytes(32),)), "bad-txnmrklroot"),
        (lambda t: replace(t, curtime=t.mintime - 1), "time-too-old"),
    ],
)
def test_the_kernels_reason_reaches_the_operator_the_log_and_the_api(
    rig: OpenRig, spoil: Callable[[Template], Template], reason: str
) -> None:
    async def work() -> None:
        async with rig() as r:
            template = spoil(await r.node.template())

            async def spoilt() -> Template:
                return template

            r.node.template = spoilt
            await r.pool.refresh()
            target = r.pool.job.network_target
            with capture_logs() as lines:
                with suppress(
                    ShareRefused
                ):  # a time too old makes a bad share, too; the block is handed in all the same
                    await r.pool.submit(r.solve(wanted=lambda number: number <= target))
                await r.pool.block_keeper.settle()
            (block,) = r.pool.blocks
            assert (block.state, block.detail) == (BlockState.REJECTED, reason)
            assert {"event": "block rejected", "log_level": "error", "detail": reason}.items() <= lines[-1].items()
            (row,) = await Views("", r.pool, None, {}, None).blocks()
            assert (row["state"], row["detail"]) == ("rejected", reason)
            await r.log.flush()
            assert restore_state(r.log, Rules(2, target)).blocks == [block]
            assert (await r.node.tip()).height == 0

    asyncio.run(work())
