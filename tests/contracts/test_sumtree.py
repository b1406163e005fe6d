"""SumTree.verify, in assembly, does what its plain version, the vectors and the Python tree say."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pool_oracle.payout.sumtree import SumTree

BOTH = pytest.mark.parametrize("name", ["verify", "verifyPlain"])

payees = st.builds(lambda kind, i: bytes([kind]) + i, st.integers(0, 2), st.binary(min_size=20, max_size=20))
trees = st.dictionaries(payees, st.integers(1, 2**56), min_size=1, max_size=12).map(lambda d: SumTree(d.items()))


def arguments(root, item):
    """The arguments of `verify` from an item of the vectors."""
    proof = [bytes.fromhex(word[2:]) for word in item["proof"]]
    return bytes.fromhex(root[2:]), bytes.fromhex(item["payee"][2:]), int(item["weight"]), int(item["index"]), proof


def test_leaves_are_those_of_the_vectors(harness, vectors):
    for item in vectors("sumtree")["nodes"]["leaves"]:
        leaf = harness.leaf(bytes.fromhex(item["payee"][2:]), int(item["weight"])).call()
        assert "0x" + leaf.hex() == item["word"]


@BOTH
def test_every_proof_of_the_vectors_verifies(harness, vectors, name):
    for tree in vectors("sumtree")["trees"]:
        for item in tree["proofs"]:
            assert harness[name](*arguments(tree["root"], item)).call(), tree["name"]


@BOTH
def test_no_invalid_proof_of_the_vectors_verifies(harness, vectors, name):
    for item in vectors("sumtree")["invalid_proofs"]:
        assert not harness[name](*arguments(item["root"], item)).call(), item["name"]


@BOTH
def test_proofs_of_trees_that_are_not_canonical_verify_because_only_auditors_can_tell(harness, vectors, name):
    for item in vectors("sumtree")["verifies_but_not_canonical"]:
        assert harness[name](*arguments(item["root"], item)).call(), item["name"]


@BOTH
def test_a_proof_longer_than_256_words_is_judged_without_a_revert(harness, name):
    """Bits of the index above 255 do not exist: those levels count as left."""
    tree = SumTree([(bytes([1]) * 21, 7)])
    assert not harness[name](tree.root, bytes([1]) * 21, 7, 2**256 - 1, [bytes(32)] * 300).call()


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=HealthCheck.all())
@given(tree=trees, data=st.data())
def test_assembly_and_plain_version_agree_on_right_and_wrong_proofs(harness, tree, data):
    payee, weight = data.draw(st.sampled_from(tree.leaves))
    proof = tree.proof(payee)
    siblings = list(proof.siblings)
    right = (tree.root, payee, weight, proof.index, siblings)
    assert harness.verify(*right).call()
    assert harness.verifyPlain(*right).call()

    wrong_root = bytes(a ^ b for a, b in zip(tree.root, data.draw(st.binary(min_size=32, max_size=32)), strict=True))
    wrong = data.draw(
        st.sampled_from(
            [
                (wrong_root, payee, weight, proof.index, siblings),
                (tree.root, payee, data.draw(st.integers(0, 2**256 - 1)), proof.index, siblings),
                (tree.root, payee, weight, data.draw(st.integers(0, 2**256 - 1)), siblings),
                (tree.root, data.draw(payees), weight, proof.index, siblings),
                (tree.root, payee, weight, proof.index, [*siblings, data.draw(st.binary(min_size=32, max_size=32))]),
                (tree.root, payee, weight, proof.index, siblings[1:]),
            ]
        )
    )
    assert harness.verify(*wrong).call() == harness.verifyPlain(*wrong).call() == (wrong == right)


@pytest.mark.parametrize("leaves", [2, 3, 1000, 4095, 4096])
def test_proofs_of_pythons_tree_verify_in_solidity_up_to_4096_leaves(harness, leaves):
    rng = random.Random(leaves)
    weights = {bytes([rng.randrange(3)]) + rng.randbytes(20): rng.randrange(1, 2**50) for _ in range(leaves)}
    tree = SumTree(weights.items())
    assert (len(tree), tree.total) == (leaves, sum(weights.values()))
    payees = [payee for payee, _ in tree.leaves]
    for payee in {payees[0], payees[-1], *rng.sample(payees, min(10, leaves))}:
        proof = tree.proof(payee)
        arguments = [tree.root, payee, proof.weight, proof.index, list(proof.siblings)]
        assert harness.verify(*arguments).call() is True
        assert harness.verifyPlain(*arguments).call() is True
        arguments[2] += 1
        assert harness.verify(*arguments).call() is False
