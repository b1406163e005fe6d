"""From a job and a submission to the header and its hash, against stratum_share.json."""

from __future__ import annotations

import pytest

from pool_oracle.errors import InputError, JobError, TargetError
from pool_oracle.networks import network_named
from pool_oracle.work.share import (
    HEADER_SIZE,
    StratumJob,
    branch_from_display,
    check_header,
    check_share_from_wire,
    display,
    hash_to_int,
    prevhash_from_stratum,
    prevhash_to_stratum,
    rolled_version,
    swap_words,
)

ANY_TARGET = "0x" + "ff" * 32


@pytest.mark.cases("stratum_share", "shares")
def test_a_submission_gives_the_header_and_the_hash_that_the_network_saw(case):
    share = check_share_from_wire(case)
    assert f"0x{share.header.hex()}" == case["header"]
    assert len(share.header) == HEADER_SIZE
    assert f"0x{display(share.merkle_root)}" == case["merkleRoot"]
    assert f"0x{display(share.block_hash)}" == case["hash"]
    assert f"0x{display(share.pow_hash)}" == case.get("powHash", case["hash"])
    assert share.meets_share_target is case["meetsShareTarget"]
    assert share.meets_network_target is case["meetsNetworkTarget"]


@pytest.mark.cases("stratum_share", "shares")
def test_the_network_of_a_share_names_its_proof_of_work(case):
    assert network_named(case["network"]).pow_name == case["pow"]


@pytest.mark.cases("stratum_share", "shares")
def test_a_job_survives_the_way_to_the_wire_and_back(case):
    job = StratumJob.from_wire(case["job"])
    assert job.to_wire() == case["job"]
    assert StratumJob.from_wire(job.to_wire()) == job


@pytest.mark.cases("stratum_share", "invalid")
def test_a_malformed_submission_is_refused_although_its_target_is_easy(case):
    with pytest.raises((JobError, TargetError)):
        check_share_from_wire(case | {"shareTarget": ANY_TARGET})


@pytest.mark.cases("stratum_share", "prevhash")
def test_a_previous_hash_has_the_bytes_of_each_word_reversed(case, unhex):
    internal = unhex(case["display"])[::-1]
    assert prevhash_from_stratum(case["stratum"]) == internal
    assert prevhash_to_stratum(internal) == case["stratum"]


def test_swapping_words_twice_changes_nothing():
    assert swap_words(swap_words(bytes(range(32)))) == bytes(range(32))
    assert swap_words(bytes(range(32)))[:5] == bytes((3, 2, 1, 0, 7))


def test_version_bits_replace_those_of_the_mask_and_no_others():
    assert rolled_version(0x3FFFE004, 0x1FFFE000, 0x00002000) == 0x20002004


@pytest.mark.parametrize("bits", [0x20000000, 0x00000001, 0xFFFFFFFF])
def test_version_bits_outside_the_mask_are_refused(bits):
    with pytest.raises(JobError, match=f"{bits:08x}"):
        rolled_version(0x20000000, 0x1FFFE000, bits)


def test_a_hash_that_equals_the_target_meets_it():
    header = bytes(HEADER_SIZE)
    number = hash_to_int(check_header(header, bytes(32), 1, 1).pow_hash)
    assert check_header(header, bytes(32), number, number - 1).meets_share_target
    assert not check_header(header, bytes(32), number - 1, number).meets_share_target
    assert check_header(header, bytes(32), number - 1, number).meets_network_target


@pytest.mark.parametrize("field", ["job", "extranonce1", "extranonce2", "ntime", "nonce", "shareTarget"])
def test_each_missing_field_is_named(field, vectors):
    case = {k: v for k, v in vectors("stratum_share")["shares"][0].items() if k != field}
    with pytest.raises(JobError, match=f"'{field}' is missing"):
        check_share_from_wire(case)


@pytest.mark.parametrize("field", ["version", "prevhash", "coinb1", "coinb2", "merkleBranch", "nbits"])
def test_each_missing_field_of_the_job_is_named(field, vectors):
    case = vectors("stratum_share")["shares"][0]
    job = {k: v for k, v in case["job"].items() if k != field}
    with pytest.raises(JobError, match=f"'{field}' is missing"):
        check_share_from_wire(case | {"job": job})


@pytest.mark.parametrize("junk", [None, 7, 1.5, True, [], {}, "zz", "0", "é0", "\u0660" * 8, " 1234567"])
@pytest.mark.parametrize("field", ["extranonce1", "extranonce2", "ntime", "nonce", "shareTarget", "versionMask"])
def test_a_field_of_another_type_or_form_is_named(field, junk, vectors):
    case = vectors("stratum_share")["shares"][0]
    assert case["versionBits"]
    with pytest.raises(InputError, match=field):
        check_share_from_wire(case | {field: junk})


def test_version_bits_need_a_mask(vectors):
    case = dict(vectors("stratum_share")["shares"][0])
    del case["versionMask"]
    with pytest.raises(JobError, match="versionMask"):
        check_share_from_wire(case)


def test_a_share_without_version_bits_needs_no_mask(vectors):
    case = {k: v for k, v in vectors("stratum_share")["shares"][1].items() if not k.startswith("version")}
    assert check_share_from_wire(case).meets_share_target


@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_a_submission_that_is_no_object_is_refused(value):
    with pytest.raises(JobError, match="JSON object"):
        check_share_from_wire(value)


@pytest.mark.parametrize("name", ["SHA256D", "x11", None, [], {}])
def test_an_unknown_proof_of_work_is_refused_with_the_known_ones(name, vectors):
    with pytest.raises(JobError, match="sha256d, scrypt"):
        check_share_from_wire(vectors("stratum_share")["shares"][0] | {"pow": name})


def test_txids_as_people_read_them_come_back_in_internal_order():
    assert branch_from_display(["00" * 31 + "01"]) == [b"\x01" + bytes(31)]
    with pytest.raises(JobError, match="txid 1"):
        branch_from_display(["00" * 32, "00"])
