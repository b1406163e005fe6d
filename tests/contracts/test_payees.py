"""Payees: 21 bytes of kind and id, as Solidity and Python write them."""

from __future__ import annotations

import pytest


def test_the_payees_of_the_vectors_are_kind_and_id(harness, vectors):
    for item in vectors("payee")["valid"]:
        payee = bytes.fromhex(item["payee"][2:])
        assert harness.kindOf(payee).call() == payee[0]
        assert harness.payeeOfId(payee[0], payee[1:]).call() == payee


def test_the_account_of_a_key_is_its_payee_and_comes_back_from_it(harness, vectors):
    for key in vectors("payee")["keys"]:
        payee = bytes.fromhex(key["payeeEvm"][2:])
        assert harness.payeeOfAccount(key["evmAddress"]).call() == payee
        assert harness.accountOf(payee).call() == key["evmAddress"]


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 127, 128, 255])
def test_the_kind_is_the_first_byte_whatever_it_is(harness, kind):
    payee = bytes([kind]) + bytes(range(20))
    assert harness.kindOf(payee).call() == kind
    assert harness.payeeOfId(kind, payee[1:]).call() == payee
    assert bytes.fromhex(harness.accountOf(payee).call()[2:]) == payee[1:]
