"""The packed-sum tree, against sumtree.json."""

from __future__ import annotations

import random

import pytest

from pool_oracle.errors import InputError, ProofError, TreeError
from pool_oracle.formats import tree_root
from pool_oracle.payout.payee import check_payee, parse_payee
from pool_oracle.payout.sumtree import (
    MAX_SUM,
    ZERO_WORD,
    SumProof,
    SumTree,
    fold_proof,
    leaf_word,
    parent_word,
    sum_of,
    verify_proof,
)


def leaves_of(case):
    return [(parse_payee(leaf["payee"]), int(leaf["weight"])) for leaf in case["input"]]


def proof_of(case, unhex):
    siblings = tuple(unhex(word) for word in case["proof"])
    return SumProof(unhex(case["payee"]), int(case["weight"]), int(case["index"]), siblings)


def payee(number):
    return b"\x01" + number.to_bytes(20, "big")


@pytest.mark.cases("sumtree", "nodes.leaves")
def test_a_leaf_word_is_the_hash_of_its_preimage_and_its_weight(case, unhex):
    assert leaf_word(unhex(case["payee"]), int(case["weight"])) == unhex(case["word"])
    assert sum_of(unhex(case["word"])) == int(case["weight"])


@pytest.mark.cases("sumtree", "nodes.parents")
def test_a_parent_word_is_the_hash_of_its_children_and_their_sum(case, unhex):
    assert parent_word(unhex(case["left"]), unhex(case["right"])) == unhex(case["parent"])


@pytest.mark.cases("sumtree", "invalid_nodes")
def test_a_sum_above_64_bits_makes_no_parent(case, unhex):
    with pytest.raises(TreeError, match="above 2"):
        parent_word(unhex(case["left"]), unhex(case["right"]))


@pytest.mark.cases("sumtree", "trees")
def test_a_tree_has_the_root_total_and_depth_of_the_vectors(case, unhex):
    tree = SumTree(leaves_of(case))
    assert tree.root == unhex(case["root"])
    assert tree.total == int(case["total"])
    assert (len(tree), tree.depth) == (case["leaves"], case["depth"])
    assert tree.leaves == sorted(leaves_of(case))


@pytest.mark.cases("sumtree", "trees")
def test_a_tree_gives_the_proofs_of_the_vectors_and_they_verify(case, unhex):
    tree = SumTree(leaves_of(case))
    for item in case["proofs"]:
        proof = tree.proof(unhex(item["payee"]))
        assert proof == proof_of(item, unhex)
        verify_proof(tree.root, proof)


@pytest.mark.cases("sumtree", "trees")
def test_the_order_of_the_leaves_does_not_matter(case, unhex):
    leaves = leaves_of(case)
    random.Random(7).shuffle(leaves)
    assert SumTree(iter(leaves)).root == unhex(case["root"])


@pytest.mark.cases("sumtree", "invalid_trees")
def test_leaves_that_make_no_tree_are_refused(case, unhex):
    with pytest.raises(InputError):
        SumTree([(check_payee(unhex(leaf["payee"])), int(leaf["weight"])) for leaf in case["input"]])
    with pytest.raises(TreeError):
        tree_root(case["input"])


@pytest.mark.cases("sumtree", "invalid_proofs")
def test_a_wrong_proof_does_not_verify(case, unhex):
    with pytest.raises(ProofError) as caught:
        verify_proof(unhex(case["root"]), proof_of(case, unhex))
    words = {
        "root mismatch": "leads to root",
        "sum overflow": "above 2^64",
        "weight out of range": "the weight must be",
        "index out of range": "out of range for a proof",
    }
    assert words[case["error"]] in str(caught.value)


@pytest.mark.cases("sumtree", "verifies_but_not_canonical")
def test_a_proof_shows_sums_and_not_that_its_tree_is_canonical(case, unhex):
    verify_proof(unhex(case["root"]), proof_of(case, unhex))


def test_one_leaf_is_its_own_root_with_an_empty_proof():
    tree = SumTree([(payee(1), 5)])
    assert tree.root == leaf_word(payee(1), 5)
    assert tree.proof(payee(1)) == SumProof(payee(1), 5, 0, ())


def test_an_odd_level_is_completed_with_the_zero_word():
    a, b, c = (leaf_word(payee(i), i) for i in (1, 2, 3))
    tree = SumTree([(payee(i), i) for i in (1, 2, 3)])
    assert tree.root == parent_word(parent_word(a, b), parent_word(c, ZERO_WORD))
    assert tree.proof(payee(3)).siblings == (ZERO_WORD, parent_word(a, b))


@pytest.mark.parametrize("weight", [0, -1, MAX_SUM + 1])
def test_a_weight_out_of_range_is_named_with_its_payee(weight):
    with pytest.raises(TreeError, match=f"{payee(2).hex()} must be 1 to 2.64 - 1, not {weight}"):
        SumTree([(payee(1), 1), (payee(2), weight)])


def test_a_payee_that_stands_twice_is_named():
    with pytest.raises(TreeError, match=f"{payee(1).hex()} stands twice"):
        SumTree([(payee(1), 1), (payee(2), 1), (payee(1), 2)])


@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_payee_without_a_leaf_has_no_proof(number):
    tree = SumTree([(payee(1), 1), (payee(3), 1)])
    with pytest.raises(TreeError, match="has no leaf"):
        tree.proof(payee(number))


@pytest.mark.parametrize("index", [-1, 1, 1 << 300])
def test_an_index_beyond_the_proof_is_refused(index):
    with pytest.raises(ProofError, match="out of range"):
        fold_proof(payee(1), 5, index, ())


def test_an_overflow_on_the_path_names_its_level():
    heavy = bytes(24) + MAX_SUM.to_bytes(8, "big")
    with pytest.raises(ProofError, match="at level 1"):
        fold_proof(payee(1), 5, 0, (ZERO_WORD, heavy))
