"""Output scripts and the flyover deposit, against flyover.json."""

from __future__ import annotations

import pytest

from pool_oracle.errors import JobError
from pool_oracle.hashes import hash160, sha256
from pool_oracle.networks import network_named
from pool_oracle.payout.addresses import encode_base58check
from pool_oracle.payout.commitment import epoch_commitment
from pool_oracle.work.scripts import (
    MAX_P2SH_REDEEM_SCRIPT,
    FlyoverTerms,
    flyover_hash,
    flyover_redeem_script,
    flyover_script,
    p2sh,
    p2wsh,
)


def terms_of(case, unhex, *, nested):
    return FlyoverTerms(
        user_refund=unhex(case["userRefund"]),
        lbc=unhex(case["lbc"]),
        lp=unhex(case["lp"]),
        powpeg_redeem_script=unhex(case["powpegRedeem"]),
        nested=nested,
    )


def p2sh_address(script, network):
    assert script[:2] == b"\xa9\x14"
    assert script[22:] == b"\x87"
    return encode_base58check(network_named(network).p2sh[0], script[2:22])


@pytest.mark.cases("flyover", "derivation")
def test_the_derivation_hash_is_the_bridges(case, unhex):
    parts = [unhex(case[name]) for name in ("args", "userRefund", "lbc", "lp")]
    assert flyover_hash(*parts) == unhex(case["hash"])


@pytest.mark.cases("flyover", "wrong_layouts")
def test_no_other_layout_gives_the_derivation_hash(case, unhex):
    parts = [unhex(case[name]) for name in ("args", "userRefund", "lbc", "lp")]
    assert flyover_hash(*parts) == unhex(case["hash"])
    assert flyover_hash(*parts) != unhex(case["wrongHash"])


@pytest.mark.cases("flyover", "known_answers")
def test_known_deposits_have_the_redeem_script_and_the_output_that_the_chain_saw(case, unhex):
    redeem = flyover_redeem_script(unhex(case["hash"]), unhex(case["powpegRedeem"]))
    assert redeem == unhex(case["redeem"])
    plain = p2sh(hash160(redeem))
    program = p2wsh(sha256(redeem))
    nested = p2sh(hash160(program))
    if case["type"] == "both":
        assert (plain, nested) == (unhex(case["p2shOutputScript"]), unhex(case["p2shP2wshOutputScript"]))
        assert p2sh_address(plain, case["network"]) == case["p2shAddress"]
        assert p2sh_address(nested, case["network"]) == case["p2shP2wshAddress"]
        return
    script = nested if case["type"] == "p2sh-p2wsh" else plain
    assert script == unhex(case["outputScript"])
    assert p2sh_address(script, case["network"]) == case["address"]
    if "witnessProgram" in case:
        assert program == unhex(case["witnessProgram"])


@pytest.mark.cases("flyover", "addresses")
def test_an_epochs_commitment_leads_to_its_deposit_address(case, unhex):
    commitment = epoch_commitment(
        int(case["chainId"]), unhex(case["distributor"]), unhex(case["root"]), unhex(case["manifestHash"])
    )
    assert commitment == unhex(case["args"])
    terms = terms_of(case, unhex, nested=case["type"] == "p2sh-p2wsh")
    derivation = flyover_hash(commitment, terms.user_refund, terms.lbc, terms.lp)
    assert derivation == unhex(case["hash"])
    assert len(flyover_redeem_script(derivation, terms.powpeg_redeem_script)) == case["redeemLength"]
    script = flyover_script(commitment, terms)
    assert script == unhex(case["outputScript"])
    assert p2sh_address(script, case["network"]) == case["address"]


def test_a_derivation_hash_of_zero_is_refused(vectors, unhex):
    zero = vectors("flyover")["refused"][0]
    with pytest.raises(JobError, match="zero"):
        flyover_redeem_script(unhex(zero["hash"]), b"\x51")


def test_a_p2sh_redeem_script_above_520_bytes_is_refused(vectors, unhex):
    refused = vectors("flyover")["refused"][1]
    powpeg = unhex(refused["powpegRedeem"])
    redeem = flyover_redeem_script(unhex(refused["hash"]), powpeg)
    assert len(redeem) == refused["redeemLength"] > MAX_P2SH_REDEEM_SCRIPT
    terms = FlyoverTerms(bytes(21), bytes(20), bytes(21), powpeg, nested=False)
    with pytest.raises(JobError, match="P2SH-P2WSH"):
        flyover_script(bytes(32), terms)


@pytest.mark.parametrize(("size", "fits"), [(486, True), (487, False)])
def test_the_longest_p2sh_redeem_script_has_520_bytes(size, fits):
    terms = FlyoverTerms(bytes(21), bytes(20), bytes(21), b"\x51" * size, nested=False)
    if fits:
        assert len(flyover_script(bytes(32), terms)) == 23
        return
    with pytest.raises(JobError):
        flyover_script(bytes(32), terms)


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("change", [-1, 1])
def test_a_part_of_another_length_is_refused_by_name(which, change):
    sizes = [32, 21, 20, 21]
    sizes[which] += change
    with pytest.raises(JobError, match=("args", "userRefund", "lbc", "lp")[which]):
        flyover_hash(*(bytes(size) for size in sizes))


def test_every_part_of_the_terms_changes_the_deposit():
    plain = FlyoverTerms(bytes(21), bytes(20), bytes(21), b"\x51", nested=True)
    others = [
        FlyoverTerms(b"\x01" + bytes(20), bytes(20), bytes(21), b"\x51", nested=True),
        FlyoverTerms(bytes(21), b"\x01" + bytes(19), bytes(21), b"\x51", nested=True),
        FlyoverTerms(bytes(21), bytes(20), b"\x01" + bytes(20), b"\x51", nested=True),
        FlyoverTerms(bytes(21), bytes(20), bytes(21), b"\x52", nested=True),
        FlyoverTerms(bytes(21), bytes(20), bytes(21), b"\x51", nested=False),
    ]
    scripts = {flyover_script(bytes(32), terms) for terms in [plain, *others]}
    scripts.add(flyover_script(b"\x01" + bytes(31), plain))
    assert len(scripts) == 7
