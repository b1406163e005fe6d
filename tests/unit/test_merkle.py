"""The merkle branch of a coinbase, and the proof that the bridge takes, against stratum_share.json and real blocks."""

from __future__ import annotations

import pytest

from pool_oracle.hashes import sha256d
from pool_oracle.work.merkle import coinbase_branch, coinbase_partial_tree, fold_branch, merkle_root


def some_hashes(count: int) -> list[bytes]:
    return [sha256d(b"%d" % i) for i in range(count)]


@pytest.mark.cases("stratum_share", "merkle_branch")
def test_the_branch_of_a_template_is_what_pools_send(case, unhex):
    txids = [unhex(txid)[::-1] for txid in case["txids"]]
    assert [node.hex() for node in coinbase_branch(txids)] == case["merkleBranch"]


@pytest.mark.cases("stratum_share", "merkle_branch")
def test_the_branch_folds_to_the_merkle_root_of_the_block(case, unhex):
    txids = [unhex(txid)[::-1] for txid in case["txids"]]
    coinbase = sha256d(b"coinbase")
    assert fold_branch(coinbase, coinbase_branch(txids)) == merkle_root([coinbase, *txids])


def test_a_lone_coinbase_is_its_own_merkle_root():
    (only,) = some_hashes(1)
    assert merkle_root([only]) == only
    assert coinbase_branch([]) == []
    assert fold_branch(only, []) == only


def test_an_odd_level_repeats_its_last_hash():
    a, b, c = some_hashes(3)
    assert merkle_root([a, b, c]) == sha256d(sha256d(a + b) + sha256d(c + c))
    assert merkle_root([a, b, c]) == merkle_root([a, b, c, c])


def test_the_merkle_root_does_not_change_its_arguments():
    hashes = some_hashes(5)
    merkle_root(hashes)
    coinbase_branch(hashes)
    coinbase_partial_tree(hashes)
    assert hashes == some_hashes(5)


def test_the_partial_tree_of_a_lone_coinbase_is_its_hash_and_one_flag():
    (only,) = some_hashes(1)
    assert coinbase_partial_tree([only]) == bytes.fromhex("0100000001") + only + b"\x01\x01"


def test_the_partial_tree_of_two_transactions_has_both_hashes():
    a, b = some_hashes(2)
    # Flags from the lowest bit: root 1, coinbase 1, the other 0.
    assert coinbase_partial_tree([a, b]) == bytes.fromhex("0200000002") + a + b + b"\x01\x03"


def test_the_partial_tree_of_five_transactions_walks_the_left_edge():
    hashes = some_hashes(5)
    pair, quad = sha256d(hashes[2] + hashes[3]), None
    last = sha256d(hashes[4] + hashes[4])
    quad = sha256d(last + last)
    expected = b"".join([hashes[0], hashes[1], pair, quad])
    # Four ones down to the coinbase, three zeros on the way back.
    assert coinbase_partial_tree(hashes) == bytes.fromhex("0500000004") + expected + b"\x01\x0f"


def test_nine_flags_take_two_bytes():
    # 16 leaves: 5 nodes on the left edge and 4 siblings.
    proof = coinbase_partial_tree(some_hashes(16))
    assert proof[-3:] == b"\x02\x1f\x00"
