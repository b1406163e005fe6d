"""Distributor: where a payee's money goes, and who can say so: the payee, by call or by signature, once each."""

from __future__ import annotations

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from pool_oracle.hashes import keccak256

ETHER = 10**18
NEVER = 2**256 - 1
ZERO_ADDRESS = "0x" + "00" * 20
FORMS = ["uncompressed", "compressed", "nested", "segwit"]
SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SET_RECIPIENT = [
    {"name": "account", "type": "address"},
    {"name": "recipient", "type": "address"},
    {"name": "nonce", "type": "uint256"},
    {"name": "deadline", "type": "uint256"},
]


@pytest.fixture
def signer():
    """An account that signs, and sends nothing."""
    return Account.from_key(keccak256(b"a miner who only signs"))


@pytest.fixture
def wallet(make_account):
    """Where the money is to go."""
    return make_account(b"cold wallet")


@pytest.fixture
def typed(pool):
    """The typed message of setRecipientBySig; keywords change parts of message and domain."""

    def build(account, recipient, *, nonce=0, deadline=NEVER, chain_id=31_337, contract=None, version="1"):
        return encode_typed_data(
            {
                "name": "pool_oracle Distributor",
                "version": version,
                "chainId": chain_id,
                "verifyingContract": contract or pool.address,
            },
            {"SetRecipient": SET_RECIPIENT},
            {"account": account, "recipient": recipient, "nonce": nonce, "deadline": deadline},
        )

    return build


# --- by the payee's own call ---


def test_an_account_is_its_own_recipient_until_it_names_another_and_again_after_naming_zero(pool, wallet, make_payee):
    payee = make_payee(pool.stranger)
    assert pool.call.recipientOf(payee).call() == pool.stranger
    receipt = pool.chain.send(pool.call.setRecipient(wallet), sender=pool.stranger)
    (event,) = pool.chain.events(pool.contract.events.RecipientSet, receipt)
    assert event == {"payee": payee, "recipient": wallet, "nonce": 0}
    assert pool.call.recipientOf(payee).call() == wallet
    pool.chain.send(pool.call.setRecipient(ZERO_ADDRESS), sender=pool.stranger)
    assert pool.call.recipientOf(payee).call() == pool.stranger
    assert pool.call.nonceOf(payee).call() == 2


def test_money_can_not_be_sent_to_the_distributor_itself(pool):
    call = pool.call.setRecipient(pool.address)
    assert pool.chain.refusal(call, sender=pool.stranger) == ("InvalidRecipient", pool.address)


def test_a_new_recipient_gets_what_is_claimed_from_then_on(pool, wallet):
    pool.payout(1000)
    pool.payout(1000)
    pool.chain.send(pool.claim(pool.payees[0], 0))
    pool.chain.raw("anvil_impersonateAccount", pool.miners[0])
    pool.chain.credit(pool.miners[0], ETHER)
    pool.chain.send(pool.call.setRecipient(wallet), sender=pool.miners[0])
    before = pool.chain.balance(pool.miners[0])
    pool.chain.send(pool.claim(pool.payees[0], 1), sender=pool.stranger)
    assert (pool.chain.balance(wallet), pool.chain.balance(pool.miners[0])) == (500, before)


def test_only_an_account_itself_is_changed_by_its_call(pool, wallet, make_payee):
    pool.chain.send(pool.call.setRecipient(wallet), sender=pool.stranger)
    same_id_other_kind = b"\x01" + make_payee(pool.stranger)[1:]
    assert pool.call.recipientOf(same_id_other_kind).call() == ZERO_ADDRESS
    assert pool.call.recipientOf(pool.payees[0]).call() == pool.miners[0]


# --- by an account's signature ---


def test_anybody_can_hand_in_an_accounts_signature_once(pool, signer, wallet, typed, make_payee):
    signature = signer.sign_message(typed(signer.address, wallet)).signature
    call = pool.call.setRecipientBySig(signer.address, wallet, NEVER, signature)
    pool.chain.send(call, sender=pool.relayer)
    assert pool.call.recipientOf(make_payee(signer.address)).call() == wallet
    assert pool.chain.refusal(call, sender=pool.relayer) == ("InvalidSignature", signer.address)


@pytest.mark.parametrize(
    "other",
    [
        {"nonce": 1},
        {"deadline": NEVER - 1},
        {"chain_id": 30},
        {"contract": "0x" + "11" * 20},
        {"version": "2"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_signature_for_something_else_is_refused(pool, signer, wallet, typed, other):
    signature = signer.sign_message(typed(signer.address, wallet, **other)).signature
    call = pool.call.setRecipientBySig(signer.address, wallet, NEVER, signature)
    assert pool.chain.refusal(call) == ("InvalidSignature", signer.address)


def test_a_signature_names_one_account_and_one_recipient(pool, signer, wallet, typed):
    signature = signer.sign_message(typed(signer.address, wallet)).signature
    thief = pool.stranger
    set_by_sig = pool.call.setRecipientBySig
    assert pool.chain.refusal(set_by_sig(signer.address, thief, NEVER, signature)) == (
        "InvalidSignature",
        signer.address,
    )
    assert pool.chain.refusal(set_by_sig(thief, wallet, NEVER, signature)) == ("InvalidSignature", thief)
    assert pool.chain.refusal(set_by_sig(ZERO_ADDRESS, wallet, NEVER, bytes(65))) == ("InvalidSignature", ZERO_ADDRESS)
    itself = signer.sign_message(typed(signer.address, pool.address)).signature
    to_itself = set_by_sig(signer.address, pool.address, NEVER, itself)
    assert pool.chain.refusal(to_itself) == ("InvalidRecipient", pool.address)


def test_the_other_form_of_a_signature_is_refused(pool, signer, wallet, typed):
    signed = signer.sign_message(typed(signer.address, wallet))
    high_s = signed.r.to_bytes(32, "big") + (SECP256K1_ORDER - signed.s).to_bytes(32, "big") + bytes([55 - signed.v])
    call = pool.call.setRecipientBySig(signer.address, wallet, NEVER, high_s)
    assert pool.chain.refusal(call) == ("InvalidSignature", signer.address)


def test_a_signature_counts_up_to_its_deadline_and_not_a_second_longer(pool, signer, wallet, typed):
    deadline = pool.chain.now + 1000
    signature = signer.sign_message(typed(signer.address, wallet, deadline=deadline)).signature
    call = pool.call.setRecipientBySig(signer.address, wallet, deadline, signature)
    snapshot = pool.chain.raw("evm_snapshot")
    pool.chain.next_block_at(deadline)
    pool.chain.send(call)
    pool.chain.raw("evm_revert", snapshot)
    pool.chain.next_block_at(deadline + 1)
    pool.chain.pay(wallet, 1)
    assert pool.chain.refusal(call) == ("Expired", deadline)


def test_a_newer_wish_kills_an_older_signature(pool, signer, wallet, typed):
    signature = signer.sign_message(typed(signer.address, wallet)).signature
    pool.chain.raw("anvil_impersonateAccount", signer.address)
    pool.chain.credit(signer.address, ETHER)
    pool.chain.send(pool.call.setRecipient(pool.stranger), sender=signer.address)
    call = pool.call.setRecipientBySig(signer.address, wallet, NEVER, signature)
    assert pool.chain.refusal(call) == ("InvalidSignature", signer.address)


def test_a_contract_wallet_answers_for_its_own_signatures(pool, chain, wallet, typed, make_payee):
    owner = chain.deploy("TestRecipient")
    call = pool.call.setRecipientBySig(owner.address, wallet, NEVER, b"")
    assert chain.refusal(call) == ("InvalidSignature", owner.address)
    message = typed(owner.address, wallet)
    chain.send(owner.functions.approve(keccak256(b"\x19" + message.version + message.header + message.body)))
    chain.send(call)
    assert pool.call.recipientOf(make_payee(owner.address)).call() == wallet
    assert chain.refusal(call) == ("InvalidSignature", owner.address)


# --- by a Bitcoin key ---


def link(pool, key, form, recipient, deadline=NEVER, message=None):
    """The call that links a key's payee by a signature of its present message, or of another one."""
    payee = key.payees[form]
    text = message or pool.call.linkMessage(payee, recipient, deadline).call()
    return pool.call.linkBitcoinKey(payee, recipient, deadline, key.sign(text, form))


@pytest.mark.parametrize("form", FORMS)
def test_a_bitcoin_key_in_any_form_links_a_recipient_and_is_paid_there(make_pool, make_key, wallet, form):
    key = make_key(b"miner")
    payee = key.payees[form]
    pool = make_pool(leaves={payee: 3, key.payees["nested" if form != "nested" else "segwit"]: 1})
    pool.payout(1000)
    assert pool.chain.refusal(pool.claim(payee, 0)) == ("NoRecipient", payee)
    pool.chain.send(link(pool, key, form, wallet), sender=pool.relayer)
    assert pool.call.recipientOf(payee).call() == wallet
    pool.chain.send(pool.claim(payee, 0), sender=pool.stranger)
    assert pool.chain.balance(wallet) == 750


def test_the_message_is_the_documented_text(pool, make_key, wallet):
    payee = make_key(b"miner").payees["segwit"]
    assert pool.call.linkMessage(payee, wallet, 1_900_000_000).call() == (
        f"pool_oracle: pay my mining rewards to {wallet.lower()}, chain 31337, "
        f"distributor {pool.address.lower()}, nonce 0, deadline 1900000000"
    )


def test_a_link_works_once_and_the_other_form_of_its_signature_not_at_all_after_it(pool, make_key, other_form, wallet):
    key = make_key(b"miner")
    payee = key.payees["segwit"]
    signature = key.sign(pool.call.linkMessage(payee, wallet, NEVER).call())
    call = pool.call.linkBitcoinKey(payee, wallet, NEVER, signature)
    malleated = pool.call.linkBitcoinKey(payee, wallet, NEVER, other_form(signature))
    malleated.call()  # old wallets make high s: it is as good as the first, before either is used
    pool.chain.send(call)
    assert pool.call.nonceOf(payee).call() == 1
    assert pool.chain.refusal(call) == ("WrongSigner",)
    assert pool.chain.refusal(malleated) == ("WrongSigner",)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("chain 31337", "chain 30"),
        ("nonce 0", "nonce 1"),
        ("deadline " + str(NEVER), "deadline " + str(NEVER - 1)),
        ("pool_oracle", "Pool_oracle"),
    ],
)
def test_a_link_for_another_chain_nonce_deadline_or_text_is_refused(pool, make_key, wallet, part, other):
    key = make_key(b"miner")
    text = pool.call.linkMessage(key.payees["segwit"], wallet, NEVER).call()
    assert part in text
    call = link(pool, key, "segwit", wallet, message=text.replace(part, other))
    assert pool.chain.refusal(call) == ("WrongSigner",)


def test_a_link_for_another_distributor_or_recipient_is_refused(pool, make_pool, make_key, wallet):
    key = make_key(b"miner")
    payee = key.payees["segwit"]
    theirs = make_pool().call.linkMessage(payee, wallet, NEVER).call()
    assert pool.chain.refusal(link(pool, key, "segwit", wallet, message=theirs)) == ("WrongSigner",)
    signature = key.sign(pool.call.linkMessage(payee, wallet, NEVER).call())
    stolen = pool.call.linkBitcoinKey(payee, pool.stranger, NEVER, signature)
    assert pool.chain.refusal(stolen) == ("WrongSigner",)


def test_a_link_counts_up_to_its_deadline_and_not_a_second_longer(pool, make_key, wallet):
    deadline = pool.chain.now + 1000
    call = link(pool, make_key(b"miner"), "segwit", wallet, deadline)
    snapshot = pool.chain.raw("evm_snapshot")
    pool.chain.next_block_at(deadline)
    pool.chain.send(call)
    pool.chain.raw("evm_revert", snapshot)
    pool.chain.next_block_at(deadline + 1)
    pool.chain.pay(wallet, 1)
    assert pool.chain.refusal(call) == ("Expired", deadline)


def test_a_key_links_only_its_own_payees(pool, make_key, wallet):
    victim, thief = make_key(b"victim"), make_key(b"thief")
    for form in FORMS:
        payee = victim.payees[form]
        text = pool.call.linkMessage(payee, wallet, NEVER).call()
        call = pool.call.linkBitcoinKey(payee, wallet, NEVER, thief.sign(text, form))
        assert pool.chain.refusal(call) == ("KeyNotOfPayee", payee)


def test_one_keys_payees_have_recipients_and_nonces_of_their_own(pool, make_key, wallet):
    key = make_key(b"miner")
    pool.chain.send(link(pool, key, "segwit", wallet))
    for form in ("uncompressed", "nested"):
        assert pool.call.recipientOf(key.payees[form]).call() == ZERO_ADDRESS
        assert pool.call.nonceOf(key.payees[form]).call() == 0


def test_only_bitcoin_payees_are_linked(pool, make_key, wallet):
    key = make_key(b"miner")
    for kind in (0, 3, 255):
        payee = bytes([kind]) + key.payees["segwit"][1:]
        call = pool.call.linkBitcoinKey(payee, wallet, NEVER, key.sign("anything"))
        assert pool.chain.refusal(call) == ("NotABitcoinPayee", payee)


def test_a_link_to_nobody_or_to_the_distributor_is_refused(pool, make_key):
    key = make_key(b"miner")
    for nowhere in (ZERO_ADDRESS, pool.address):
        assert pool.chain.refusal(link(pool, key, "segwit", nowhere)) == ("InvalidRecipient", nowhere)


def test_a_linked_key_links_again_with_the_next_nonce(pool, make_key, make_account, wallet):
    key, newer = make_key(b"miner"), make_account(b"newer wallet")
    pool.chain.send(link(pool, key, "nested", wallet))
    pool.chain.send(link(pool, key, "nested", newer))
    assert pool.call.recipientOf(key.payees["nested"]).call() == newer
    assert pool.call.nonceOf(key.payees["nested"]).call() == 2
