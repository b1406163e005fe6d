"""The epoch's commitment and the output that carries it, against commitment.json."""

from __future__ import annotations

import pytest

from pool_oracle.errors import InputError
from pool_oracle.hashes import keccak256
from pool_oracle.payout.commitment import (
    SCRIPT_SIZE,
    commitment_script,
    epoch_commitment,
    find_commitment,
    parse_commitment_script,
)


@pytest.mark.cases("commitment", "commitments")
def test_a_commitment_is_the_hash_of_chain_contract_root_and_manifest(case, unhex):
    commitment = epoch_commitment(
        int(case["chainId"]), unhex(case["distributor"]), unhex(case["root"]), unhex(case["manifestHash"])
    )
    assert commitment == unhex(case["commitment"]) == keccak256(unhex(case["encoded"]))
    assert commitment_script(commitment) == unhex(case["coinbaseScript"])
    assert parse_commitment_script(unhex(case["coinbaseScript"])) == commitment


@pytest.mark.cases("commitment", "scripts")
def test_only_the_exact_script_carries_a_commitment(case, unhex):
    expected = None if case["commitment"] is None else unhex(case["commitment"])
    assert parse_commitment_script(unhex(case["script"])) == expected


@pytest.mark.cases("commitment", "coinbases")
def test_a_coinbases_commitment_is_found_by_its_output(case, unhex):
    scripts = [unhex(output["script"]) for output in case["outputs"]]
    expected = None if case["commitment"] is None else (case["outputIndex"], unhex(case["commitment"]))
    assert find_commitment(scripts) == expected


def test_two_commitments_are_as_good_as_none():
    one, other = commitment_script(b"\x01" * 32), commitment_script(b"\x02" * 32)
    assert find_commitment([one]) == (0, b"\x01" * 32)
    assert find_commitment([b"\x51", other]) == (1, b"\x02" * 32)
    assert find_commitment([one, other]) is None
    assert find_commitment([one, one]) is None
    assert find_commitment([]) is None


def test_every_changed_byte_of_the_head_makes_another_script():
    script = commitment_script(bytes(32))
    assert len(script) == SCRIPT_SIZE == 38
    for place in range(6):
        changed = bytearray(script)
        changed[place] ^= 1
        assert parse_commitment_script(bytes(changed)) is None


@pytest.mark.parametrize("chain_id", [-1, 1 << 256])
def test_a_chain_id_outside_256_bits_is_refused(chain_id):
    with pytest.raises(InputError, match="chain id"):
        epoch_commitment(chain_id, bytes(20), bytes(32), bytes(32))


def test_the_greatest_chain_id_is_one():
    assert len(epoch_commitment((1 << 256) - 1, bytes(20), bytes(32), bytes(32))) == 32


@pytest.mark.parametrize("sizes", [(19, 32, 32), (32, 32, 32), (20, 31, 32), (20, 32, 33)])
def test_parts_of_another_length_are_refused(sizes):
    with pytest.raises(InputError, match="20 bytes of address"):
        epoch_commitment(1, *(bytes(size) for size in sizes))


def test_every_part_changes_the_commitment():
    plain = (1, bytes(20), bytes(32), bytes(32))
    others = [
        (2, bytes(20), bytes(32), bytes(32)),
        (1, b"\x01" + bytes(19), bytes(32), bytes(32)),
        (1, bytes(20), b"\x01" + bytes(31), bytes(32)),
        (1, bytes(20), bytes(32), b"\x01" + bytes(31)),
    ]
    assert len({epoch_commitment(*parts) for parts in [plain, *others]}) == 5
