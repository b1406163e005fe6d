"""Bitcoin's work, whatever the numbers: merkle proofs, transactions, headers, targets, jobs."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pool_oracle.errors import JobError, TargetError
from pool_oracle.hashes import sha256d
from pool_oracle.work.block import parse_block
from pool_oracle.work.coinbase import build_coinbase
from pool_oracle.work.merkle import coinbase_branch, coinbase_partial_tree, fold_branch, merkle_root
from pool_oracle.work.share import StratumJob, rolled_version, swap_words
from pool_oracle.work.targets import MAX_TARGET, difficulty_to_target, nbits_to_target, target_to_nbits
from pool_oracle.work.transaction import Transaction, TxInput, TxOutput, parse_transaction

hashes = st.binary(min_size=32, max_size=32)
uint32 = st.integers(0, 2**32 - 1)
scripts = st.one_of(st.binary(max_size=40), st.integers(250, 260).map(bytes))
inputs = st.builds(TxInput, st.binary(min_size=36, max_size=36), scripts, uint32)
outputs = st.builds(TxOutput, st.integers(0, 2**64 - 1), scripts)
items = st.lists(scripts, max_size=3).map(tuple)


@st.composite
def transactions(draw):
    """A transaction with at least one input, with or without witness data."""
    tx_inputs = tuple(draw(st.lists(inputs, min_size=1, max_size=4)))
    witnesses = ()
    if draw(st.booleans()):
        witnesses = tuple(draw(items) for _ in tx_inputs)
        if not any(witnesses):
            witnesses = ((b"\x01",), *witnesses[1:])
    return Transaction(draw(uint32), tx_inputs, tuple(draw(st.lists(outputs, max_size=4))), draw(uint32), witnesses)


# Merkle


@given(hashes, st.lists(hashes, max_size=40))
@settings(max_examples=200)
def test_the_coinbases_branch_folds_to_the_merkle_root(coinbase, txids):
    assert fold_branch(coinbase, coinbase_branch(txids)) == merkle_root([coinbase, *txids])


@given(hashes, hashes, st.lists(hashes, max_size=20))
@settings(max_examples=100)
def test_the_branch_does_not_depend_on_the_coinbase_and_the_root_does(one, other, txids):
    branch = coinbase_branch(txids)
    assert (fold_branch(one, branch) == fold_branch(other, branch)) == (one == other)


class PartialTree:
    """A reader of BIP-37 proofs, after CPartialMerkleTree::ExtractMatches of Bitcoin Core."""

    def __init__(self, data: bytes) -> None:
        self.count = int.from_bytes(data[:4], "little")
        assert data[4] < 0xFD, "a proof of one leaf has few hashes"
        end = 5 + 32 * data[4]
        self.hashes = [data[at : at + 32] for at in range(5, end, 32)]
        flags = data[end + 1 :]
        assert data[end] == len(flags) < 0xFD
        self.bits = [byte >> i & 1 for byte in flags for i in range(8)]
        self.used_bits = self.used_hashes = 0
        self.matches: list[tuple[int, bytes]] = []

    def width(self, height: int) -> int:
        return (self.count + (1 << height) - 1) >> height

    def extract(self) -> bytes:
        """The merkle root; the matched leaves are in `matches` then."""
        assert self.count > 0
        assert len(self.hashes) <= self.count
        assert len(self.bits) >= len(self.hashes)
        height = 0
        while self.width(height) > 1:
            height += 1
        root = self.traverse(height, 0)
        assert (self.used_bits + 7) // 8 == len(self.bits) // 8, "flag bits are left"
        assert not any(self.bits[self.used_bits :]), "padding bits are set"
        assert self.used_hashes == len(self.hashes), "hashes are left"
        return root

    def traverse(self, height: int, position: int) -> bytes:
        is_parent = self.bits[self.used_bits]
        self.used_bits += 1
        if height == 0 or not is_parent:
            digest = self.hashes[self.used_hashes]
            self.used_hashes += 1
            if height == 0 and is_parent:
                self.matches.append((position, digest))
            return digest
        left = right = self.traverse(height - 1, 2 * position)
        if 2 * position + 1 < self.width(height - 1):
            right = self.traverse(height - 1, 2 * position + 1)
            assert right != left, "a repeated hash (CVE-2012-2459)"
        return sha256d(left + right)


@given(st.integers(1, 300))
@settings(max_examples=150)
@example(1)
@example(2)
@example(128)
@example(129)
def test_the_partial_tree_proves_the_coinbase_and_nothing_else(count):
    txids = [sha256d(i.to_bytes(4, "big")) for i in range(count)]
    proof = PartialTree(coinbase_partial_tree(txids))
    assert proof.count == count
    assert proof.extract() == merkle_root(txids)
    assert proof.matches == [(0, txids[0])]


# Transactions and blocks


@given(transactions())
@settings(max_examples=150)
def test_a_transaction_survives_the_way_to_its_bytes_and_back(tx):
    assert parse_transaction(tx.serialize()) == tx
    stripped = parse_transaction(tx.serialize(with_witness=False))
    assert stripped.witnesses == ()
    assert stripped.txid == tx.txid == sha256d(tx.serialize(with_witness=False))


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=200).map(lambda data: bytes(4) + b"\x00\x01" + data)))
@settings(max_examples=400)
def test_random_bytes_are_a_transaction_or_refused(data):
    try:
        tx = parse_transaction(data)
    except JobError:
        return
    assert tx.serialize() == data


@given(transactions(), st.data())
@settings(max_examples=200)
def test_a_transaction_with_a_byte_changed_is_another_one_or_refused(tx, data):
    raw = bytearray(tx.serialize())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = parse_transaction(bytes(raw))
    except JobError:
        return
    assert read.serialize() == raw


@given(st.binary(max_size=400))
@settings(max_examples=200)
def test_random_bytes_are_a_block_or_refused(data):
    for block in (data, bytes(80) + b"\x01" + data):
        with suppress(JobError):
            assert parse_block(block).header == block[:80]


@given(st.integers(0, 2**31), st.binary(max_size=63), st.binary(min_size=4, max_size=12), st.lists(outputs, max_size=4))
@settings(max_examples=150)
def test_a_coinbase_holds_height_tag_and_extranonces_and_pays_its_value(height, tag, extranonces, paid):
    value = sum(output.value for output in paid)
    parts = build_coinbase(height, tag, len(extranonces), paid, value)
    tx = parse_transaction(parts.coinb1 + extranonces + parts.coinb2)
    assert tx.is_coinbase
    assert tx.outputs == tuple(paid)
    assert tx.inputs[0].script.endswith(bytes((len(tag) + len(extranonces),)) + tag + extranonces)
    assert len(tx.inputs[0].script) <= 100
    with pytest.raises(JobError):
        build_coinbase(height, tag, len(extranonces), paid, value + 1)


# Targets and headers


@given(uint32)
@settings(max_examples=400)
def test_nbits_stand_for_a_target_or_are_refused(nbits):
    try:
        target = nbits_to_target(nbits)
    except TargetError:
        return
    assert 0 < target <= MAX_TARGET
    # The canonical nbits of the same target, which may be shorter, stand for it too.
    assert nbits_to_target(target_to_nbits(target)) == target


@given(st.one_of(st.integers(1, 2**24), st.integers(1, MAX_TARGET)))
@settings(max_examples=300)
def test_the_nbits_of_a_target_round_it_down_and_not_far(target):
    rounded = nbits_to_target(target_to_nbits(target))
    assert rounded <= target
    assert target - rounded < max(1, target >> 14)
    assert target_to_nbits(rounded) == target_to_nbits(target)


@given(st.fractions(min_value=Fraction(1, 2**40), max_value=2**60))
@settings(max_examples=200)
def test_the_target_of_a_share_difficulty_is_the_quotient_rounded_down(difficulty):
    target = difficulty_to_target(difficulty)
    one = 0xFFFF << 208
    if target < MAX_TARGET:
        assert target * difficulty <= one < (target + 1) * difficulty
    else:
        assert one / difficulty >= MAX_TARGET


@given(uint32, uint32, uint32)
@settings(max_examples=200)
def test_rolled_bits_are_the_miners_inside_the_mask_and_the_jobs_outside(version, mask, bits):
    if bits & ~mask:
        with pytest.raises(JobError):
            rolled_version(version, mask, bits)
    inside = bits & mask
    rolled = rolled_version(version, mask, inside)
    assert rolled & mask == inside
    assert rolled & ~mask == version & ~mask
    assert 0 <= rolled < 2**32


@given(hashes)
@settings(max_examples=50)
def test_the_word_order_of_stratum_is_its_own_inverse(digest):
    assert swap_words(swap_words(digest)) == digest


@given(
    st.builds(
        StratumJob,
        uint32,
        hashes,
        st.binary(max_size=100),
        st.binary(max_size=100),
        st.lists(hashes, max_size=12).map(tuple),
        uint32,
    )
)
@settings(max_examples=100)
def test_a_job_survives_the_way_to_the_wire_and_back(job):
    assert StratumJob.from_wire(job.to_wire()) == job
