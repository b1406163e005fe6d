"""BitcoinKeys: BIP-137 signatures, against vectors and against the attacks that the library names."""

from __future__ import annotations

import pytest
from coincurve import PublicKey

from pool_oracle.hashes import keccak256, sha256d
from pool_oracle.work.serialize import compact_size

FIELD_PRIME = 2**256 - 2**32 - 977
LONGEST_MESSAGE = 65_535


def unhex(text):
    """Bytes of 0x hex."""
    return bytes.fromhex(text.removeprefix("0x"))


def message_of(item):
    """The signed bytes of a vector."""
    if "messageHex" in item:
        return unhex(item["messageHex"])
    if "messageRepeat" in item:
        return unhex(item["messageRepeat"]["bytes"]) * item["messageRepeat"]["times"]
    return item["message"].encode()


def point_of(public_key):
    """The coordinates of a serialized key."""
    point = PublicKey(unhex(public_key)).format(compressed=False)
    return int.from_bytes(point[1:33], "big"), int.from_bytes(point[33:], "big")


def signature_of(item, point):
    """A vector's signature as the contract takes it."""
    raw = unhex(item["signatureHex"])
    return raw[0], raw[1:33], raw[33:], *point


def signer_of(item):
    """The point that a vector's signature recovers to, or None."""
    raw, message = unhex(item["signatureHex"]), message_of(item)
    digest = sha256d(b"\x18Bitcoin Signed Message:\n" + compact_size(len(message)) + message)
    try:
        key = PublicKey.from_signature_and_message(raw[1:] + bytes([(raw[0] - 27) & 3]), digest, hasher=None)
    except Exception:  # coincurve raises several kinds of error
        return None
    return point_of(key.format().hex())


@pytest.fixture
def refusal(chain, harness):
    """What `checkKey` refuses a payee, message and signature with."""
    return lambda *args: chain.refusal(harness.checkKey(*args))


def test_digests_are_those_of_the_vectors(harness, vectors):
    cases = vectors("bip137")
    for item in [*cases["digests"], *cases["valid"]]:
        message = message_of(item)
        if len(message) <= LONGEST_MESSAGE:
            assert "0x" + harness.messageDigest(message).call().hex() == item["digest"]


def test_every_valid_signature_that_an_evm_can_recover_is_accepted(harness, vectors):
    for item in vectors("bip137")["valid"]:
        if item.get("evmVerifiable", True) and len(message_of(item)) <= LONGEST_MESSAGE:
            signature = signature_of(item, point_of(item["publicKey"]))
            harness.checkKey(unhex(item["payee"]), message_of(item), signature).call()


def test_recovery_ids_2_and_3_are_refused_by_name(refusal, vectors):
    items = [item for item in vectors("bip137")["valid"] if not item.get("evmVerifiable", True)]
    assert {item["recoveryId"] for item in items} == {2, 3}
    for item in items:
        signature = signature_of(item, point_of(item["publicKey"]))
        expected = ("UnsupportedRecoveryId", item["recoveryId"])
        assert refusal(unhex(item["payee"]), message_of(item), signature) == expected


def test_a_message_above_65535_bytes_is_no_message_of_ours_and_is_refused(refusal, vectors):
    item = next(i for i in vectors("bip137")["valid"] if len(message_of(i)) > LONGEST_MESSAGE)
    signature = signature_of(item, point_of(item["publicKey"]))
    assert refusal(unhex(item["payee"]), message_of(item), signature) == ("WrongSigner",)


def test_a_signature_links_only_the_payee_that_its_header_names(refusal, vectors):
    """The owner of a key controls more payees than the one of this header; a nested payee is the exception."""
    for item in vectors("bip137")["valid"]:
        if not item.get("evmVerifiable", True) or len(message_of(item)) > LONGEST_MESSAGE:
            continue
        signature = signature_of(item, point_of(item["publicKey"]))
        for other in item["keyControls"]:
            is_nested_exception = other.startswith("0x02") and item["header"] >= 31
            if other != item["payee"] and not is_nested_exception:
                refused = refusal(unhex(other), message_of(item), signature)
                assert refused == ("KeyNotOfPayee", unhex(other)), item["name"]


def test_invalid_signatures_are_refused_with_the_payees_key_and_with_the_signers(refusal, vectors):
    cases = vectors("bip137")
    keys = {item["payee"]: point_of(item["publicKey"]) for item in cases["valid"]}
    keys["0x00e871a29782bab69ca0d013ceacc6f4bec802b215"] = keys["0x013e529dac8b0baa0efb03b2bb2bf25830af9f9b07"]
    for item in cases["invalid"]:
        if len(unhex(item["signatureHex"])) != 65:
            continue  # the contract's type has no room for another length
        payee, signer = unhex(item["payee"]), signer_of(item)
        for point in [keys[item["payee"]], signer] if signer else [keys[item["payee"]]]:
            error = refusal(payee, message_of(item), signature_of(item, point))[0]
            if item["reason"] == "header byte":
                assert error == "InvalidHeader"
            else:
                assert error == ("KeyNotOfPayee" if point == signer else "WrongSigner"), item["name"]


def test_a_nested_payee_takes_any_header_of_a_compressed_key_and_a_key_payee_no_nested_header(
    harness, refusal, vectors
):
    for item in vectors("bip137")["wrong_header_for_payee"]:
        payee, signature = unhex(item["payee"]), signature_of(item, point_of(item["publicKey"]))
        if payee[0] == 2:
            harness.checkKey(payee, message_of(item), signature).call()
        else:
            assert refusal(payee, message_of(item), signature) == ("KeyNotOfPayee", payee)


def test_points_off_the_curve_are_refused_before_anything_is_recovered(refusal, vectors):
    cases = vectors("bip137")
    for item in cases["invalid_public_keys"]:
        point = int(item["publicKeyX"], 16), int(item["publicKeyY"], 16)
        refused = refusal(unhex(cases["valid"][0]["payee"]), b"", signature_of(cases["valid"][0], point))
        assert refused == ("PointNotOnCurve", *point), item["name"]


def test_coordinates_above_the_field_are_refused_although_they_are_on_the_curve_when_reduced(refusal, vectors):
    item = vectors("bip137")["valid"][0]
    x, y = point_of("02" + (1).to_bytes(32, "big").hex())
    point = x + FIELD_PRIME, y
    assert refusal(unhex(item["payee"]), b"", signature_of(item, point)) == ("PointNotOnCurve", *point)


def test_a_signature_that_recovers_to_nobody_is_not_the_key_whose_address_is_zero(refusal, vectors):
    item = vectors("bip137")["valid"][0]
    signature = (27, bytes(32), bytes(32), *point_of(item["publicKey"]))
    assert refusal(unhex(item["payee"]), message_of(item), signature) == ("WrongSigner",)


def test_the_key_of_somebody_else_does_not_make_their_signature_ours(refusal, make_key):
    victim, thief = make_key(b"victim"), make_key(b"thief")
    header, r, s, _, _ = thief.sign("mine")
    assert refusal(victim.payees["segwit"], b"mine", (header, r, s, victim.x, victim.y)) == ("WrongSigner",)
    theirs = thief.sign("mine")
    assert refusal(victim.payees["segwit"], b"mine", theirs) == ("KeyNotOfPayee", victim.payees["segwit"])


def test_kinds_without_owner_are_never_a_keys(refusal, make_key):
    key = make_key(b"any")
    for form, payee in key.payees.items():
        for kind in (0, 3, 255):
            other = bytes([kind]) + payee[1:]
            assert refusal(other, b"mine", key.sign("mine", form)) == ("KeyNotOfPayee", other)
    own_account = b"\x00" + keccak256(key.x.to_bytes(32, "big") + key.y.to_bytes(32, "big"))[12:]
    assert refusal(own_account, b"mine", key.sign("mine")) == ("KeyNotOfPayee", own_account)
