"""Where rewards are paid: flyover.json, tbtc_deposit.json, and the addresses of BIP-173 and BIP-350."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pool_oracle.errors import JobError, PayeeError
from pool_oracle.hashes import hash160, sha256, sha256d
from pool_oracle.networks import network_named
from pool_oracle.payout.addresses import encode_base58check, encode_segwit, script_of_address
from pool_oracle.payout.commitment import epoch_commitment
from pool_oracle.work.scripts import (
    MAX_P2SH_REDEEM_SCRIPT,
    TBTC_FIRST_LOCKTIME,
    TBTC_LAST_LOCKTIME,
    DepositTerms,
    FlyoverTerms,
    TbtcTerms,
    flyover_hash,
    flyover_redeem_script,
    flyover_script,
    p2sh,
    p2wsh,
    tbtc_deposit_key,
    tbtc_deposit_script,
    tbtc_script,
)

TBTC = TbtcTerms(b"\x01" * 20, b"\x02" * 8, b"\x03" * 20, b"\x04" * 20, 1_700_000_000, witness=True)
COMMITMENT = b"\xc0" * 32


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
    script = terms.reward_script(commitment)
    assert script == flyover_script(commitment, terms) == unhex(case["outputScript"])
    assert script_of_address(case["address"], network_named(case["network"])) == script
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


# tBTC


def tbtc_terms_of(case, unhex, *, witness=True):
    return TbtcTerms(
        depositor=unhex(case["depositor"]),
        blinding_factor=unhex(case["blindingFactor"]),
        wallet_key_hash=unhex(case["walletPubKeyHash"]),
        refund_key_hash=unhex(case["refundPubKeyHash"]),
        refund_locktime=case["refundLocktimeUnix"],
        witness=witness,
    )


def tbtc_deposit_is(case, unhex):
    terms = tbtc_terms_of(case, unhex)
    script = tbtc_deposit_script(terms, unhex(case["extraData"]) if case["extraData"] else None)
    assert script == unhex(case["script"])
    assert len(script) == case["length"]
    outputs = {"p2sh": p2sh(hash160(script)), "p2wsh": p2wsh(sha256(script))}
    for form, output in outputs.items():
        assert output == unhex(case[form]["outputScript"])
        assert script_of_address(case[form]["addressMain"], network_named("main")) == output
        assert script_of_address(case[form]["addressTest"], network_named("test")) == output
        if case["extraData"]:
            its_terms = replace(terms, witness=form == "p2wsh")
            assert its_terms.reward_script(unhex(case["extraData"])) == output
            assert tbtc_script(unhex(case["extraData"]), its_terms) == output
    return outputs


@pytest.mark.cases("tbtc_deposit", "known_answers")
def test_known_tbtc_deposits_have_the_scripts_the_outputs_and_the_keys_of_the_bridge(case, unhex):
    outputs = tbtc_deposit_is(case, unhex)
    for funding in case["funding"]:
        transaction = b"".join(unhex(funding[part]) for part in ("version", "inputVector", "outputVector", "locktime"))
        txid = sha256d(transaction)
        assert txid == unhex(funding["fundingTxHash"]) == unhex(funding["txid"])[::-1]
        assert outputs[funding["form"]] in transaction
        assert tbtc_deposit_key(txid, funding["outputIndex"]) == unhex(funding["depositKey"])


@pytest.mark.cases("tbtc_deposit", "scripts")
def test_tbtc_deposits_carry_an_epochs_commitment_as_extra_data(case, unhex):
    tbtc_deposit_is(case, unhex)
    if case["extraData"]:
        parts = (int(case["chainId"]), *(unhex(case[name]) for name in ("distributor", "root", "manifestHash")))
        assert epoch_commitment(*parts) == unhex(case["extraData"])


@pytest.mark.cases("tbtc_deposit", "refused")
def test_extra_data_that_the_bridge_would_not_see_is_refused(case, unhex):
    with pytest.raises(JobError, match="extra data"):
        tbtc_deposit_script(TBTC, unhex(case["extraData"]))
    with pytest.raises(JobError, match="extra data"):
        TBTC.reward_script(unhex(case["extraData"]))


@pytest.mark.parametrize(
    ("field", "size"), [("depositor", 20), ("blinding_factor", 8), ("wallet_key_hash", 20), ("refund_key_hash", 20)]
)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_part_of_a_tbtc_deposit_of_another_length_is_refused_by_name(field, size, change):
    terms = replace(TBTC, **{field: bytes(size + change)})
    with pytest.raises(JobError, match=f"{field.replace('_', ' ')} must be {size} bytes"):
        terms.reward_script(COMMITMENT)


@pytest.mark.parametrize("locktime", [-1, 0, 850_000, 499_999_999, 0x80000000, 2**32])
def test_a_refund_locktime_that_is_no_time_or_could_never_come_is_refused(locktime):
    with pytest.raises(JobError, match="refund locktime"):
        replace(TBTC, refund_locktime=locktime).reward_script(COMMITMENT)


@pytest.mark.parametrize("locktime", [TBTC_FIRST_LOCKTIME, TBTC_LAST_LOCKTIME])
def test_the_first_and_the_last_refund_locktime_are_four_bytes_little_endian(locktime):
    script = tbtc_deposit_script(replace(TBTC, refund_locktime=locktime))
    assert script.endswith(b"\x04" + locktime.to_bytes(4, "little") + bytes.fromhex("b175ac68"))


def test_every_part_of_the_tbtc_terms_changes_the_deposit():
    others = [
        replace(TBTC, depositor=bytes(20)),
        replace(TBTC, blinding_factor=bytes(8)),
        replace(TBTC, wallet_key_hash=bytes(20)),
        replace(TBTC, refund_key_hash=bytes(20)),
        replace(TBTC, refund_locktime=TBTC.refund_locktime + 1),
        replace(TBTC, witness=False),
    ]
    scripts = {terms.reward_script(COMMITMENT) for terms in [TBTC, *others]}
    scripts.add(TBTC.reward_script(b"\x01" * 32))
    assert len(scripts) == 8


@pytest.mark.parametrize(("txid", "index"), [(bytes(31), 0), (bytes(33), 0), (bytes(32), -1), (bytes(32), 2**32)])
def test_a_deposit_key_wants_a_txid_and_a_uint32(txid, index):
    with pytest.raises(JobError, match="funding txid" if len(txid) != 32 else "output index"):
        tbtc_deposit_key(txid, index)


# Deposit to an address


def test_a_deposit_pays_its_address_whatever_the_commitment():
    terms = DepositTerms(script_of_address("bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080", network_named("regtest")))
    assert terms.reward_script(COMMITMENT) == terms.reward_script(bytes(32)) == terms.script
    assert terms.script.hex() == "0014751e76e8199196d454941c45d1b3a323f1433bd6"


# The lists of BIP-350, which take BIP-173's over: which is which network's, and what each stands for.
PAYABLE = [
    ("BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4", "main", "0014751e76e8199196d454941c45d1b3a323f1433bd6"),
    (
        "tb1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3q0sl5k7",
        "test",
        "00201863143c14c5166804bd19203356da136c985678cd4d27a1b8c6329604903262",
    ),
    (
        "tb1qqqqqp399et2xygdj5xreqhjjvcmzhxw4aywxecjdzew6hylgvsesrxh6hy",
        "test",
        "0020000000c4a5cad46221b2a187905e5266362b99d5e91c6ce24d165dab93e86433",
    ),
    (
        "tb1pqqqqp399et2xygdj5xreqhjjvcmzhxw4aywxecjdzew6hylgvsesf3hn0c",
        "signet",
        "5120000000c4a5cad46221b2a187905e5266362b99d5e91c6ce24d165dab93e86433",
    ),
    (
        "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0",
        "main",
        "512079be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
    ),
]
WITHOUT_RULES = [
    "bc1pw508d6qejxtdg4y5r3zarvary0c5xw7kw508d6qejxtdg4y5r3zarvary0c5xw7kt5nd6y",
    "BC1SW50QGDZ25J",
    "bc1zw508d6qejxtdg4y5r3zarvaryvaxxpcs",
]
INVALID = [
    ("tc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vq5zuyut", "main"),
    ("bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqh2y7hd", "main"),
    ("tb1z0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqglt7rf", "test"),
    ("BC1S0XLXVLHEMJA6C4DQV22UAPCTQUPFHLXM9H8Z3K2E72Q4K9HCZ7VQ54WELL", "main"),
    ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kemeawh", "main"),
    ("tb1q0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vq24jc47", "test"),
    ("bc1p38j9r5y49hruaue7wxjce0updqjuyyx0kh56v8s25huc6995vvpql3jow4", "main"),
    ("BC130XLXVLHEMJA6C4DQV22UAPCTQUPFHLXM9H8Z3K2E72Q4K9HCZ7VQ7ZWS8R", "main"),
    ("bc1pw5dgrnzv", "main"),
    ("bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7v8n0nx0muaewav253zgeav", "main"),
    ("BC1QR508D6QEJXTDG4Y5R3ZARVARYV98GJ9P", "main"),
    ("tb1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vq47Zagq", "test"),
    ("bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7v07qwwzcrf", "main"),
    ("tb1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vpggkg4j", "test"),
    ("bc1gmk9yu", "main"),
]


@pytest.mark.parametrize(("address", "network", "script"), PAYABLE)
def test_the_addresses_of_the_bips_have_the_scripts_of_the_bips(address, network, script):
    assert script_of_address(address, network_named(network)).hex() == script
    assert script_of_address(address.swapcase(), network_named(network)).hex() == script


@pytest.mark.parametrize("address", WITHOUT_RULES)
def test_a_witness_program_that_no_rule_protects_is_not_paid(address):
    with pytest.raises(PayeeError, match="only P2WPKH, P2WSH and P2TR"):
        script_of_address(address, network_named("main"))


def test_pay_to_anchor_which_anyone_may_spend_is_not_paid():
    with pytest.raises(PayeeError, match="witness version 1 and 2 bytes"):
        script_of_address(encode_segwit("bc", 1, b"\x4e\x73"), network_named("main"))


@pytest.mark.parametrize(("address", "network"), INVALID)
def test_what_the_bips_call_invalid_is_refused(address, network):
    with pytest.raises(PayeeError):
        script_of_address(address, network_named(network))


@pytest.mark.parametrize(
    ("address", "network", "script"),
    [
        ("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "main", "76a91462e907b15cbf27d5425399ebf6f0fb50ebb88f1888ac"),
        ("342ftSRCvFHfCeFFBuz4xwbeqnDw6BGUey", "main", "a91419a7d869032368fd1f1e26e5e73a4ad0e474960e87"),
        ("mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn", "regtest", "76a914243f1394f44554f4ce3fd68649c19adc483ce92488ac"),
        ("2MzQwSSnBHWHqSAqtTVQ6v47XtaisrJa1Vc", "test", "a9144e9f39ca4688ff102128ea4ccda34105324305b087"),
    ],
)
def test_known_base58_addresses_have_their_scripts(address, network, script):
    assert script_of_address(address, network_named(network)).hex() == script


def test_both_forms_of_a_litecoin_p2sh_address_are_one_script():
    litecoin = network_named("litecoin")
    new, old = (encode_base58check(version, b"\x07" * 20) for version in litecoin.p2sh)
    assert (new[0], old[0]) == ("M", "3")
    assert script_of_address(new, litecoin) == script_of_address(old, litecoin) == p2sh(b"\x07" * 20)


@pytest.mark.parametrize(
    ("address", "network", "reason"),
    [
        ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "test", "an address of main; this is test"),
        ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "regtest", "an address of main; this is regtest"),
        ("tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx", "main", "an address of test or signet; this is main"),
        ("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "test", "version byte 0x00, which is no address of test"),
        ("342ftSRCvFHfCeFFBuz4xwbeqnDw6BGUey", "regtest", "version byte 0x05"),
        ("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb", "main", "checksum"),
        ("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfN0", "main", "'0' at position 34 is not base58"),
        ("0x2088598360E3667da3e379c1945913b3c344c520", "main", "'0' at position 1 is not base58"),
        (encode_base58check(0x00, bytes(19)), "main", "holds 20 bytes; an address holds 21"),
        (encode_base58check(0x80, b"\x01" * 32), "main", "holds 33 bytes; an address holds 21"),
        ("", "main", "0 characters"),
        ("1" * 91, "main", "91 characters"),
        ("\uff11A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "main", "not ASCII"),
    ],
)
def test_what_is_no_address_of_the_network_is_refused_with_its_reason(address, network, reason):
    with pytest.raises(PayeeError, match=reason):
        script_of_address(address, network_named(network))


@pytest.mark.cases("payee", "valid")
def test_the_address_of_every_payee_with_a_bitcoin_key_is_payable(case, unhex):
    if not case["network"] or case["address"].startswith("0x"):
        return
    script = script_of_address(case["address"], network_named(case["network"]))
    assert unhex(case["payee"])[1:] in script
    assert len(script) in (22, 23, 25)
