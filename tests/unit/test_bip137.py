"""Signed messages and the link of a Bitcoin payee to a recipient, against bip137.json."""

from __future__ import annotations

import base64

import pytest

from pool_oracle.bitcoin_wallet import BitcoinWallet
from pool_oracle.errors import SignatureError
from pool_oracle.hashes import sha256d
from pool_oracle.networks import NETWORKS
from pool_oracle.payout.bip137 import check_signer, decode_signature, link_message, message_digest, recover
from pool_oracle.payout.payee import parse_address


@pytest.fixture(params=["CoinCurveECCBackend", "NativeECCBackend"], autouse=True)
def backend(request, monkeypatch):
    """Both libraries that may stand behind eth_keys: which one is installed must not decide who is paid."""
    monkeypatch.setenv("ECC_BACKEND_CLASS", f"eth_keys.backends.{request.param}")


def message_of(case, unhex):
    if "messageHex" in case:
        return unhex(case["messageHex"])
    if "messageRepeat" in case:
        return unhex(case["messageRepeat"]["bytes"]) * case["messageRepeat"]["times"]
    return case["message"].encode()


@pytest.mark.cases("bip137", "digests")
def test_the_digest_is_that_of_the_prefixed_message(case, unhex):
    assert message_digest(case["message"].encode()) == sha256d(unhex(case["preimage"])) == unhex(case["digest"])


@pytest.mark.cases("bip137", "valid")
def test_a_signature_recovers_its_key_where_an_evm_can(case, unhex):
    message = message_of(case, unhex)
    signature = decode_signature(case["signature"])
    assert signature == unhex(case["signatureHex"])
    assert message_digest(message) == unhex(case["digest"])
    if case.get("evmVerifiable") is False:
        with pytest.raises(SignatureError, match=f"recovery id {case['recoveryId']}"):
            recover(message, signature)
        return
    signed = recover(message, signature)
    assert (signed.header, signed.recovery_id) == (case["header"], case["recoveryId"])
    assert signed.x == int(case["publicKeyX"], 16)
    assert signed.y == int(case["publicKeyY"], 16)
    check_signer(unhex(case["payee"]), signed)


@pytest.mark.cases("bip137", "valid")
def test_the_address_that_a_wallet_shows_is_the_payee_that_may_sign(case):
    assert f"0x{parse_address(case['addressMain'], NETWORKS['main']).hex()}" == case["payee"]


@pytest.mark.cases("bip137", "valid")
def test_a_header_names_one_form_except_for_the_nested_payee(case, unhex):
    if case.get("evmVerifiable") is False:
        return
    signed = recover(message_of(case, unhex), unhex(case["signatureHex"]))
    for payee in map(unhex, case["keyControls"]):
        accepted = payee == unhex(case["payee"]) or (payee[0] == 2 and case["header"] >= 31)
        if accepted:
            check_signer(payee, signed)
        else:
            with pytest.raises(SignatureError, match=payee.hex()):
                check_signer(payee, signed)


@pytest.mark.cases("bip137", "invalid")
def test_a_signature_that_shows_nothing_is_refused(case, unhex):
    def link():
        check_signer(unhex(case["payee"]), recover(message_of(case, unhex), unhex(case["signatureHex"])))

    with pytest.raises(SignatureError):
        link()


@pytest.mark.cases("bip137", "wrong_header_for_payee")
def test_a_nested_payee_takes_the_headers_that_wallets_write_and_a_key_does_not_take_the_nested_one(case, unhex):
    signed = recover(message_of(case, unhex), unhex(case["signatureHex"]))
    payee = unhex(case["payee"])
    if payee[0] == 2:
        check_signer(payee, signed)
    else:
        with pytest.raises(SignatureError, match="another form"):
            check_signer(payee, signed)


@pytest.mark.parametrize("text", ["", "!", "é", "AAAA", "A" * 87, "AB==CD", base64.b64encode(bytes(64)).decode()])
def test_a_text_that_is_not_65_bytes_of_base64_is_refused(text):
    with pytest.raises(SignatureError):
        decode_signature(text)


def test_spaces_and_line_ends_around_a_pasted_signature_do_not_matter(vectors, unhex):
    case = vectors("bip137")["valid"][0]
    assert decode_signature(f"  {case['signature']}\n") == unhex(case["signatureHex"])


def test_the_link_message_names_everything_that_it_is_good_for():
    text = link_message(bytes(19) + b"\x01", 30, b"\xab" * 20, 4, 1_700_000_000)
    assert text == (
        "pool_oracle: pay my mining rewards to 0x0000000000000000000000000000000000000001, chain 30, "
        "distributor 0xabababababababababababababababababababab, nonce 4, deadline 1700000000"
    )


@pytest.mark.usefixtures("bitcoinlib_encoding")
@pytest.mark.parametrize("nested", [False, True])
def test_what_a_wallet_signs_links_its_own_payee_and_no_other(nested, vectors, unhex):
    key = vectors("payee")["keys"][1]
    wallet = BitcoinWallet(unhex(key["privateKey"]), nested=nested)
    other = BitcoinWallet(unhex(vectors("payee")["keys"][2]["privateKey"]), nested=nested)
    assert f"0x{wallet.payee.hex()}" == key["payeeNested" if nested else "payeeKey"]
    text = link_message(b"\x01" * 20, 31337, b"\x02" * 20, 0, 1_700_000_000)
    signed = recover(text.encode(), decode_signature(wallet.sign_message(text)))
    check_signer(wallet.payee, signed)
    with pytest.raises(SignatureError):
        check_signer(other.payee, signed)


@pytest.mark.usefixtures("bitcoinlib_encoding")
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_wallets_address_names_its_payee_on_every_network(nested, network):
    wallet = BitcoinWallet(b"\x07" * 32, nested=nested)
    assert parse_address(wallet.address(NETWORKS[network]), NETWORKS[network]) == wallet.payee
