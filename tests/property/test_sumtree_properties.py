"""The sum tree, whatever the leaves: every proof holds, and no other one does."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pool_oracle.errors import ProofError, TreeError
from pool_oracle.hashes import keccak256
from pool_oracle.payout.sumtree import MAX_SUM, SumProof, SumTree, divide, sum_of, verify_proof

payees = st.tuples(st.sampled_from([b"\x00", b"\x01", b"\x02"]), st.binary(min_size=20, max_size=20)).map(b"".join)
weights = st.one_of(st.integers(1, 10), st.integers(1, MAX_SUM // 64))
leaf_sets = st.dictionaries(payees, weights, min_size=1, max_size=33)


def slow_root(leaves: dict[bytes, int]) -> tuple[bytes, int]:
    """(hash, sum) of the root, by the words of protocol.md and no others."""
    level = []
    for payee in sorted(leaves):
        preimage = b"\x00" + payee + leaves[payee].to_bytes(8, "big")
        level.append(keccak256(preimage)[:24] + preimage[-8:])
    while len(level) > 1:
        if len(level) % 2:
            level.append(bytes(32))
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [
            keccak256(left + right)[:24]
            + (int.from_bytes(left[24:], "big") + int.from_bytes(right[24:], "big")).to_bytes(8, "big")
            for left, right in pairs
        ]
    return level[0], sum(leaves.values())


@given(leaf_sets)
@settings(max_examples=80)
def test_the_root_is_that_of_the_protocols_own_words(leaves):
    tree = SumTree(leaves.items())
    root, total = slow_root(leaves)
    assert (tree.root, tree.total) == (root, total)
    assert sum_of(tree.root) == total
    assert 1 << tree.depth >= len(leaves) > (1 << tree.depth) // 2


@given(leaf_sets)
@settings(max_examples=60)
def test_the_proof_of_every_leaf_verifies(leaves):
    tree = SumTree(leaves.items())
    for index, payee in enumerate(sorted(leaves)):
        proof = tree.proof(payee)
        assert (proof.payee, proof.weight, proof.index, len(proof.siblings)) == (
            payee,
            leaves[payee],
            index,
            tree.depth,
        )
        verify_proof(tree.root, proof)
        # The sums on the path add up to the root's.
        assert leaves[payee] + sum(map(sum_of, proof.siblings)) == tree.total


@given(leaf_sets, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_the_root_does_not_depend_on_the_order_of_the_leaves(leaves, random):
    items = list(leaves.items())
    random.shuffle(items)
    assert SumTree(items).root == SumTree(leaves.items()).root


@given(leaf_sets, st.data())
@settings(max_examples=150)
def test_a_proof_with_one_bit_changed_does_not_verify(leaves, data):
    tree = SumTree(leaves.items())
    proof = tree.proof(data.draw(st.sampled_from(sorted(leaves))))
    words = b"".join([tree.root, *proof.siblings])
    bit = data.draw(st.integers(0, 8 * len(words) - 1))
    changed = bytearray(words)
    changed[bit // 8] ^= 1 << bit % 8
    root, *siblings = (bytes(changed[at : at + 32]) for at in range(0, len(changed), 32))
    with pytest.raises(ProofError):
        verify_proof(root, SumProof(proof.payee, proof.weight, proof.index, tuple(siblings)))


@given(leaf_sets, st.data())
@settings(max_examples=150)
def test_a_proof_of_another_weight_index_or_payee_does_not_verify(leaves, data):
    tree = SumTree(leaves.items())
    proof = tree.proof(data.draw(st.sampled_from(sorted(leaves))))
    weight = data.draw(st.one_of(st.just(proof.weight), st.integers(-(1 << 65), 1 << 65)))
    index = data.draw(st.one_of(st.just(proof.index), st.integers(-2, 70), st.integers(-(1 << 70), 1 << 70)))
    payee = data.draw(st.one_of(st.just(proof.payee), payees))
    assume((payee, weight, index) != (proof.payee, proof.weight, proof.index))
    with pytest.raises(ProofError):
        verify_proof(tree.root, SumProof(payee, weight, index, proof.siblings))


@given(leaf_sets, st.data())
@settings(max_examples=100)
def test_a_proof_cut_or_lengthened_does_not_verify(leaves, data):
    tree = SumTree(leaves.items())
    proof = tree.proof(data.draw(st.sampled_from(sorted(leaves))))
    siblings = list(proof.siblings)
    if siblings and data.draw(st.booleans()):
        siblings.pop(data.draw(st.integers(0, len(siblings) - 1)))
    else:
        word = data.draw(st.sampled_from([bytes(32), tree.root, *siblings]))
        siblings.insert(data.draw(st.integers(0, len(siblings))), word)
    for index in range(1 << len(siblings)):
        with pytest.raises(ProofError):
            verify_proof(tree.root, SumProof(proof.payee, proof.weight, index, tuple(siblings)))


@given(st.lists(st.tuples(payees, st.integers(-3, MAX_SUM + 3)), max_size=6))
@settings(max_examples=150)
def test_leaves_either_make_a_tree_or_are_refused_for_a_reason(leaves):
    total = sum(weight for _, weight in leaves)
    good = (
        len(leaves) > 0
        and all(0 < weight <= MAX_SUM for _, weight in leaves)
        and len({payee for payee, _ in leaves}) == len(leaves)
        and total <= MAX_SUM
    )
    if good:
        assert SumTree(leaves).total == total
    else:
        with pytest.raises(TreeError):
            SumTree(leaves)


@given(leaf_sets, st.integers(0, (1 << 128) - 1))
@settings(max_examples=150)
def test_a_payout_never_pays_more_than_it_has_and_leaves_less_dust_than_payees(leaves, amount):
    tree = SumTree(leaves.items())
    parts = [divide(amount, weight, tree.total) for _, weight in tree.leaves]
    assert 0 <= amount - sum(parts) < len(leaves)
    for part, (_, weight) in zip(parts, tree.leaves, strict=True):
        assert part * tree.total <= amount * weight < (part + 1) * tree.total
