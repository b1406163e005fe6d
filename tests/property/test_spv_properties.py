"""Rewards on Bitcoin, whatever the block and the address: merkle proofs, and scripts with bitcoinlib's opinion."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pool_oracle.errors import JobError, PayeeError
from pool_oracle.hashes import sha256d
from pool_oracle.networks import NETWORKS
from pool_oracle.payout.addresses import encode_base58check, encode_segwit, script_of_address
from pool_oracle.work.merkle import CoinbaseTree, coinbase_branch, coinbase_partial_tree, fold_branch
from pool_oracle.work.spv import CoinbaseProof

counts = st.integers(1, 3000)
hashes = st.binary(min_size=32, max_size=32)
networks = st.sampled_from(list(NETWORKS.values()))


def txids_of(count: int, seed: bytes) -> list[bytes]:
    return [sha256d(seed + i.to_bytes(4, "big")) for i in range(count)]


def plain_root(txids: list[bytes]) -> bytes:
    """The merkle root from its definition."""
    if len(txids) == 1:
        return txids[0]
    pairs = zip(txids[::2], [*txids[1::2], *txids[-1:]], strict=False)
    return plain_root([sha256d(left + right) for left, right in pairs])


@st.composite
def proofs(draw):
    """A well-formed proof, true or not."""
    transactions = draw(st.integers(1, 16_666))
    levels = (transactions - 1).bit_length()
    branch = tuple(draw(st.lists(hashes, min_size=levels, max_size=levels)))
    header = st.binary(min_size=80, max_size=80)
    headers = tuple(draw(st.lists(header, max_size=3)))
    coinbase, height = draw(st.binary(max_size=200)), draw(st.integers(0, 2**31))
    return CoinbaseProof(coinbase, draw(header), height, branch, transactions, headers)


# Merkle


@given(counts, st.binary(max_size=4))
@settings(max_examples=60)
@example(1, b"")
@example(2, b"")
@example(3, b"")
@example(2048, b"")
@example(2049, b"")
def test_branch_and_partial_tree_lead_from_the_coinbase_to_the_merkle_root(count, seed):
    txids = txids_of(count, seed)
    root = plain_root(txids)
    branch = coinbase_branch(txids[1:])
    assert fold_branch(txids[0], branch) == root
    tree = CoinbaseTree.parse(coinbase_partial_tree(txids))
    assert (tree.transactions, tree.txid, tree.branch, tree.root) == (count, txids[0], tuple(branch), root)


@given(counts, st.data())
@settings(max_examples=300)
def test_a_flipped_byte_of_a_partial_tree_is_noticed(count, data):
    tree = CoinbaseTree(count, sha256d(b"coinbase"), tuple(txids_of((count - 1).bit_length(), b"")))
    spoilt = bytearray(tree.serialize())
    at = data.draw(st.integers(0, len(spoilt) - 1))
    spoilt[at] ^= data.draw(st.integers(1, 255))
    try:
        other = CoinbaseTree.parse(bytes(spoilt))
    except JobError:
        return
    assert other != tree
    # Only the count may change and leave the root, within the same number of levels: a header does not fix it closer.
    if other.root == tree.root:
        assert at < 4
        assert (other.txid, other.branch) == (tree.txid, tree.branch)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=70).map(lambda data: b"\x02\x00\x00\x00\x02" + data)))
@settings(max_examples=300)
@example(b"\x02\x00\x00\x00\x02" + b"\x01" * 32 + b"\x02" * 32 + b"\x01\x03")
def test_random_bytes_are_a_partial_tree_or_refused(data):
    try:
        tree = CoinbaseTree.parse(data)
    except JobError:
        return
    assert tree.serialize() == data


@given(proofs())
@settings(max_examples=100)
def test_a_proof_survives_the_way_to_the_wire_and_back(proof):
    assert CoinbaseProof.from_wire(proof.to_wire()) == proof
    assert CoinbaseTree.parse(proof.partial_tree()) == proof.tree


# Addresses


def addresses_and_scripts(network, digest, program):
    """Every form of address that a network has, with its script."""
    key, script = digest.hex(), program.hex()
    return [
        *((encode_base58check(version, digest), f"76a914{key}88ac") for version in network.p2pkh),
        *((encode_base58check(version, digest), f"a914{key}87") for version in network.p2sh),
        (encode_segwit(network.hrp, 0, digest), f"0014{key}"),
        (encode_segwit(network.hrp, 0, program), f"0020{script}"),
        (encode_segwit(network.hrp, 1, program), f"5120{script}"),
    ]


@given(networks, networks, st.binary(min_size=20, max_size=20), hashes)
@settings(max_examples=200)
def test_every_address_of_a_network_has_its_script_there_and_on_no_network_with_other_prefixes(
    network, other, digest, program
):
    shared = {address for address, _ in addresses_and_scripts(other, digest, program)}
    for address, script in addresses_and_scripts(network, digest, program):
        assert script_of_address(address, network).hex() == script
        if address in shared:
            assert script_of_address(address, other).hex() == script
        else:
            with pytest.raises(PayeeError):
                script_of_address(address, other)


@given(networks, st.binary(min_size=20, max_size=20), hashes, st.data())
@settings(max_examples=300)
def test_an_address_with_one_character_changed_has_no_other_script(network, digest, program, data):
    address, script = data.draw(st.sampled_from(addresses_and_scripts(network, digest, program)))
    place = data.draw(st.integers(0, len(address) - 1))
    character = data.draw(st.characters(min_codepoint=33, max_codepoint=126))
    try:
        found = script_of_address(address[:place] + character + address[place + 1 :], network)
    except PayeeError:
        return
    assert found.hex() == script


@given(networks, st.integers(0, 16), st.binary(min_size=2, max_size=40))
@settings(max_examples=200)
def test_a_witness_program_is_paid_where_it_has_rules_and_refused_elsewhere(network, version, program):
    address = encode_segwit(network.hrp, version, program)
    if (version, len(program)) in [(0, 20), (0, 32), (1, 32)]:
        assert script_of_address(address, network).endswith(program)
    else:
        with pytest.raises(PayeeError, match="only P2WPKH, P2WSH and P2TR"):
            script_of_address(address, network)


# Its regtest has the main network's base58 prefixes, and one version byte for P2SH on each network.
BITCOINLIB = {
    "main": ("bitcoin", None),
    "test": ("testnet", None),
    "signet": ("signet", None),
    "regtest": ("regtest", "bcrt1"),
    "litecoin": ("litecoin", None),
    "litecoin-test": ("litecoin_testnet", None),
}


@pytest.mark.usefixtures("bitcoinlib_encoding")
@pytest.mark.parametrize("name", BITCOINLIB)
@given(digest=st.binary(min_size=20, max_size=20), program=hashes)
@settings(max_examples=10)
def test_bitcoinlib_pays_the_same_scripts(name, digest, program):
    from bitcoinlib.transactions import Output

    theirs, only = BITCOINLIB[name]
    ours = NETWORKS[name]
    old_p2sh = {encode_base58check(version, digest) for version in ours.p2sh[1:]}
    for address, _ in addresses_and_scripts(ours, digest, program):
        if address in old_p2sh or not address.startswith(only or ""):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            script = Output(1000, address=address, network=theirs).lock_script
        assert script_of_address(address, ours) == script
