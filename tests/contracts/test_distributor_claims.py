"""Distributor: claims, and the recipients that refuse, burn gas or call back."""

from __future__ import annotations

import pytest

from pool_oracle.payout.sumtree import SumTree

ETHER = 10**18
ZERO_ADDRESS = "0x" + "00" * 20
REFUSE = bytes.fromhex("5f5ffd")  # PUSH0 PUSH0 REVERT
BURN = bytes.fromhex("5b5f56")  # JUMPDEST PUSH0 JUMP
LONG_ANSWER = bytes.fromhex("6140005ffd")  # REVERT with 16,384 bytes
SEND_GAS = 50_000
FULL_WORD = 2**256 - 1  # all of 256 payouts claimed


def owed(pool, who):
    return pool.call.owed(who).call()


@pytest.fixture
def paid_by_contract(pool, chain):
    """A pool whose second miner has a TestRecipient as recipient; returns (pool, recipient)."""
    recipient = chain.deploy("TestRecipient")
    chain.raw("anvil_impersonateAccount", pool.miners[1])
    chain.credit(pool.miners[1], ETHER)
    chain.send(pool.call.setRecipient(recipient.address), sender=pool.miners[1])
    return pool, recipient


# --- one payee, many payouts ---


def test_a_claim_pays_the_part_to_the_payee_whoever_calls(pool):
    pool.payout(1009)
    receipt = pool.chain.send(pool.claim(pool.payees[0], 0), sender=pool.stranger)
    assert pool.chain.balance(pool.miners[0]) == 504
    assert pool.call.isClaimed(pool.payees[0], 0).call()
    assert not pool.call.isClaimed(pool.payees[1], 0).call()
    (event,) = pool.chain.events(pool.contract.events.Claimed, receipt)
    assert event == {
        "payee": pool.payees[0],
        "recipient": pool.miners[0],
        "word": 0,
        "bits": 1,
        "amount": 504,
    }


def test_many_payouts_of_different_roots_are_claimed_in_one_transfer(pool, make_claim):
    other = SumTree([(pool.payees[0], 1), (pool.payees[1], 3)])
    pool.payout(100)
    pool.fund(other, 1000)
    pool.payout(10)
    claims = [make_claim(pool.tree, pool.payees[0], 2), make_claim(other, pool.payees[0], 1)]
    assert pool.call.claimable(pool.payees[0], claims).call() == 255
    pool.chain.send(pool.call.claim(pool.payees[0], claims))
    assert pool.chain.balance(pool.miners[0]) == 255
    assert pool.call.claimedWord(pool.payees[0], 0).call() == 0b110
    assert pool.call.claimable(pool.payees[0], claims).call() == 0


def test_a_payout_is_claimed_once_in_one_call_and_once_in_all_calls(pool):
    pool.payout(100)
    pool.payout(100)
    payee = pool.payees[0]
    assert pool.chain.refusal(pool.claim(payee, 0, 0)) == ("AlreadyClaimed", payee, 0)
    assert pool.chain.refusal(pool.claim(payee, 0, 1, 0)) == ("AlreadyClaimed", payee, 0)
    pool.chain.send(pool.claim(payee, 0))
    assert pool.chain.refusal(pool.claim(payee, 0)) == ("AlreadyClaimed", payee, 0)
    assert pool.chain.refusal(pool.claim(payee, 1, 0)) == ("AlreadyClaimed", payee, 0)
    assert pool.chain.balance(pool.miners[0]) == 50


def test_payouts_256_apart_are_different_and_each_is_claimed_once_in_any_order_of_words(pool):
    for _ in range(258):
        pool.fund(pool.tree, 10)
    payee = pool.payees[0]
    for twice in [(0, 256, 0), (256, 0, 256), (0, 257, 1, 256, 0), (255, 256, 255)]:
        repeated = max(set(twice), key=twice.count)
        assert pool.chain.refusal(pool.claim(payee, *twice)) == ("AlreadyClaimed", payee, repeated)
    receipt = pool.chain.send(pool.claim(payee, 1, 257, 0, 256))
    events = pool.chain.events(pool.contract.events.Claimed, receipt)
    assert [(e["word"], e["bits"], e["amount"]) for e in events] == [(0, 2, 5), (1, 2, 5), (0, 1, 5), (1, 1, 5)]
    assert pool.chain.balance(pool.miners[0]) == 20
    for claimed in (0, 1, 256, 257):
        assert pool.chain.refusal(pool.claim(payee, 2, claimed)) == ("AlreadyClaimed", payee, claimed)
    assert not pool.call.isClaimed(payee, 2).call()
    assert not pool.call.isClaimed(payee, 255).call()


def test_a_whole_word_of_256_payouts_is_claimed_in_one_call_with_one_transfer_and_never_again(pool):
    for _ in range(256):
        pool.fund(pool.tree, 10)
    payee = pool.payees[0]
    receipt = pool.chain.send(pool.claim(payee, *range(256)))
    assert pool.chain.payments(receipt) == [(pool.miners[0], 1280)]
    (event,) = pool.chain.events(pool.contract.events.Claimed, receipt)
    assert (event["word"], event["bits"], event["amount"]) == (0, FULL_WORD, 1280)
    assert pool.call.claimedWord(payee, 0).call() == FULL_WORD
    assert pool.call.claimedWord(payee, 1).call() == 0
    for i in range(256):
        assert pool.call.isClaimed(payee, i).call()
        assert pool.chain.refusal(pool.claim(payee, i)) == ("AlreadyClaimed", payee, i)
    assert pool.chain.refusal(pool.claim(payee, *range(256))) == ("AlreadyClaimed", payee, 0)
    assert not any(pool.call.isClaimed(other, i).call() for other in pool.payees[1:] for i in (0, 255))
    assert pool.chain.balance(pool.miners[0]) == 1280
    assert pool.chain.balance(pool.address) == pool.call.totalAccounted().call() == 1280


def test_256_payouts_across_two_words_are_claimed_in_one_call_with_one_transfer(pool):
    for _ in range(385):
        pool.fund(pool.tree, 10)
    payee = pool.payees[0]
    receipt = pool.chain.send(pool.claim(payee, *range(128, 384)))
    assert pool.chain.payments(receipt) == [(pool.miners[0], 1280)]
    events = pool.chain.events(pool.contract.events.Claimed, receipt)
    upper_half, lower_half = FULL_WORD - (2**128 - 1), 2**128 - 1
    assert [(e["word"], e["bits"], e["amount"]) for e in events] == [(0, upper_half, 640), (1, lower_half, 640)]
    assert [pool.call.claimedWord(payee, word).call() for word in range(3)] == [upper_half, lower_half, 0]
    for unclaimed in (0, 127, 384):
        for claimed in (128, 255, 256, 383):
            again = pool.claim(payee, unclaimed, claimed)
            assert pool.chain.refusal(again) == ("AlreadyClaimed", payee, claimed)
    assert pool.chain.balance(pool.miners[0]) == 1280


def test_256_payouts_of_a_token_are_claimed_with_one_transfer(chain, pool, make_claim):
    token = chain.deploy("TestToken")
    distributor = chain.deploy("TokenDistributor", tuple(pool.settings.values()), token.address)
    payee = pool.payees[0]
    for _ in range(256):
        chain.send(token.functions.mint(distributor.address, 10))
        chain.send(distributor.functions.sync())
    claims = [make_claim(pool.tree, payee, i) for i in range(256)]
    receipt = chain.send(distributor.functions.claim(payee, claims))
    (transfer,) = chain.events(token.events.Transfer, receipt)
    assert transfer == {"from": distributor.address, "to": pool.miners[0], "value": 1280}
    assert token.functions.balanceOf(pool.miners[0]).call() == 1280
    assert distributor.functions.claimedWord(payee, 0).call() == FULL_WORD
    for i in (0, 127, 128, 255):
        assert chain.refusal(distributor.functions.claim(payee, [claims[i]])) == ("AlreadyClaimed", payee, i)


def test_one_bad_claim_undoes_the_good_ones_beside_it(pool):
    pool.payout(100)
    payee = pool.payees[0]
    unknown = pool.claim(payee, 0, 1)
    assert pool.chain.refusal(unknown) == ("UnknownPayout", 1)
    assert pool.chain.try_send(unknown)["status"] == 0
    assert not pool.call.isClaimed(payee, 0).call()
    assert pool.chain.balance(pool.miners[0]) == 0


def test_a_claim_needs_a_proof_of_the_same_payee_weight_index_and_payout(pool, make_claim):
    pool.payout(100)
    payee, other = pool.payees[:2]
    _, index, weight, proof = make_claim(pool.tree, payee, 0)
    for claim in [
        (0, index, weight + 1, proof),
        (0, index ^ 1, weight, proof),
        (0, index + 4, weight, proof),
        (0, index, weight, proof[:-1]),
        (0, index, weight + 2**64, proof),
        make_claim(pool.tree, other, 0),
    ]:
        assert pool.chain.refusal(pool.call.claim(payee, [claim])) == ("InvalidProof", payee, 0)
        assert pool.call.claimable(payee, [claim]).call() == 0
    assert pool.call.claimable(payee, [(77, index, weight, proof)]).call() == 0


def test_a_claim_of_nothing_is_refused(pool):
    assert pool.chain.refusal(pool.call.claim(pool.payees[0], [])) == ("NoClaims",)


def test_payees_that_nobody_speaks_for_keep_their_part_until_somebody_does(make_pool, pool):
    nobody = [bytes([kind]) + b"\x11" * 20 for kind in (1, 2, 3, 255)] + [bytes(21)]
    pool = make_pool(leaves=dict.fromkeys(nobody, 1))
    pool.payout(100)
    for payee in nobody:
        assert pool.chain.refusal(pool.claim(payee, 0)) == ("NoRecipient", payee)
        assert pool.call.recipientOf(payee).call() == ZERO_ADDRESS
    assert pool.claim_many(0, nobody).call() == [0, 0]


def test_a_part_of_nothing_is_claimed_without_a_transfer(pool):
    pool.payout(1)
    pool.chain.send(pool.claim(pool.payees[0], 0))
    assert pool.call.isClaimed(pool.payees[0], 0).call()
    assert pool.call.totalAccounted().call() == 1


def test_the_part_of_the_distributor_itself_goes_into_the_next_payout(make_pool, pool, make_payee):
    payee = make_payee(pool.address)
    pool.fund(SumTree([(payee, 1)]), 100)
    pool.chain.send(pool.claim(payee, 0, tree=SumTree([(payee, 1)])))
    assert pool.unattributed() == 100
    pool.chain.send(pool.call.sync())
    assert pool.call.payout(1).call()[1] == 100


# --- many payees, one payout ---


def test_a_relayer_pays_everybody_and_what_cannot_be_paid_is_skipped(pool, make_claim):
    pool.payout(1000)
    pool.chain.send(pool.claim(pool.payees[0], 0))
    good = [(payee, *make_claim(pool.tree, payee, 0)[1:]) for payee in pool.payees]
    forged = (good[1][0], good[1][1], good[1][2] + 1, good[1][3])
    call = pool.call.claimMany(0, [good[0], forged, good[1], good[1], (b"\x01" * 21, 0, 1, []), good[2]])
    assert call.call() == [2, 500]
    receipt = pool.chain.send(call, sender=pool.relayer)
    assert len(pool.chain.events(pool.contract.events.Claimed, receipt)) == 2
    assert [pool.chain.balance(m) for m in pool.miners] == [500, 300, 200]
    assert call.call() == [0, 0]


def test_a_relayer_is_told_of_an_unknown_payout(pool):
    assert pool.chain.refusal(pool.claim_many(3, pool.payees)) == ("UnknownPayout", 3)


def test_claims_by_payee_and_by_relayer_share_the_same_bits(pool):
    pool.payout(1000)
    pool.chain.send(pool.claim_many(0, pool.payees[:1]))
    payee = pool.payees[0]
    assert pool.chain.refusal(pool.claim(payee, 0)) == ("AlreadyClaimed", payee, 0)
    pool.payout(1000)
    pool.chain.send(pool.claim_many(1, pool.payees[:1]))
    assert pool.call.claimedWord(payee, 0).call() == 0b11


# --- trees that no honest builder made ---


def test_a_tree_with_forged_sums_never_pays_more_than_its_payout(pool, vectors):
    for item in vectors("sumtree")["verifies_but_not_canonical"]:
        root = bytes.fromhex(item["root"][2:])
        pool.chain.send(pool.call.fund(root, bytes(32)), value=1000)
        payout_id = pool.call.payoutCount().call() - 1
        proof = [bytes.fromhex(word[2:]) for word in item["proof"]]
        claim = (payout_id, int(item["index"]), int(item["weight"]), proof)
        assert pool.call.claimable(bytes.fromhex(item["payee"][2:]), [claim]).call() <= 1000


def test_a_payee_that_stands_twice_in_a_tree_is_paid_once(pool, harness):
    payee = pool.payees[0]
    leaves = [harness.leaf(payee, weight).call() for weight in (1, 3)]
    total = (4).to_bytes(8, "big")
    root = bytes(pool.chain.w3.keccak(leaves[0] + leaves[1]))[:24] + total
    pool.chain.send(pool.call.fund(root, bytes(32)), value=100)
    small, great = (0, 0, 1, [leaves[1]]), (0, 1, 3, [leaves[0]])
    assert pool.chain.refusal(pool.call.claim(payee, [great, small])) == ("AlreadyClaimed", payee, 0)
    pool.chain.send(pool.call.claim(payee, [great]))
    assert pool.chain.refusal(pool.call.claim(payee, [small])) == ("AlreadyClaimed", payee, 0)


# --- recipients that make trouble ---


@pytest.mark.parametrize("code", [REFUSE, BURN, LONG_ANSWER], ids=["refuses", "burns", "answers at length"])
def test_a_recipient_that_fails_is_owed_and_holds_nobody_up(pool, code):
    pool.payout(1000)
    pool.chain.set_code(pool.miners[1], code)
    receipt = pool.chain.send(pool.claim_many(0, pool.payees))
    assert receipt["gasUsed"] < 300_000
    assert [pool.chain.balance(m) for m in pool.miners] == [500, 0, 200]
    assert owed(pool, pool.miners[1]) == 300
    assert pool.call.totalAccounted().call() == pool.chain.balance(pool.address) == 300
    payee = pool.payees[1]
    assert pool.chain.refusal(pool.claim(payee, 0)) == ("AlreadyClaimed", payee, 0)


def test_what_is_owed_adds_up_and_is_withdrawn_once_to_wherever_the_creditor_says(pool, make_account):
    creditor, elsewhere = pool.miners[1], make_account(b"elsewhere")
    pool.payout(1000)
    pool.payout(500)
    pool.chain.set_code(creditor, REFUSE)
    pool.chain.send(pool.claim(pool.payees[1], 0))
    pool.chain.send(pool.claim(pool.payees[1], 1))
    assert owed(pool, creditor) == 450
    withdraw = pool.call.withdrawOwed
    for wrong in (ZERO_ADDRESS, pool.address):
        assert pool.chain.refusal(withdraw(wrong), sender=creditor) == ("InvalidRecipient", wrong)
    assert pool.chain.refusal(withdraw(creditor), sender=creditor) == ("SendFailed", creditor)
    stranger = pool.stranger
    assert pool.chain.refusal(withdraw(elsewhere), sender=stranger) == ("NothingOwed", stranger)

    pool.chain.raw("anvil_impersonateAccount", creditor)
    pool.chain.credit(creditor, ETHER)
    pool.chain.send(withdraw(elsewhere), sender=creditor)
    assert pool.chain.balance(elsewhere) == 450
    assert pool.chain.refusal(withdraw(elsewhere), sender=creditor) == ("NothingOwed", creditor)
    assert pool.call.totalAccounted().call() == pool.chain.balance(pool.address) == 1050


def test_a_recipient_that_needs_more_gas_than_a_claim_gives_and_cannot_call_gets_its_money_from_anybody(
    paid_by_contract,
):
    """A splitter or a vault: it takes money, with more than 50,000 gas, and has no way to call withdrawOwed."""
    pool, recipient = paid_by_contract
    pool.chain.send(recipient.functions.wantGas(60_000))
    pool.payout(1000)
    pool.chain.send(pool.claim(pool.payees[1], 0))
    assert owed(pool, recipient.address) == 300
    pool.chain.send(pool.call.sendOwed(recipient.address), sender=pool.stranger)
    assert pool.chain.balance(recipient.address) == 300
    assert owed(pool, recipient.address) == 0
    again = pool.call.sendOwed(recipient.address)
    assert pool.chain.refusal(again, sender=pool.stranger) == ("NothingOwed", recipient.address)
    assert pool.call.totalAccounted().call() == pool.chain.balance(pool.address) == 700


def test_sending_what_is_owed_to_one_who_still_refuses_changes_nothing(pool):
    pool.payout(1000)
    pool.chain.set_code(pool.miners[1], REFUSE)
    pool.chain.send(pool.claim(pool.payees[1], 0))
    assert pool.chain.refusal(pool.call.sendOwed(pool.miners[1])) == ("SendFailed", pool.miners[1])
    assert owed(pool, pool.miners[1]) == 300


def test_no_choice_of_gas_makes_a_payment_fail_that_fits_into_the_gas_of_a_claim(paid_by_contract):
    """The caller's gas decides whether the claim reverts, never whether the recipient is paid or owed.

    The recipient refuses early and cheaply, so that enough would be left over to record it as owed.
    """
    pool, recipient = paid_by_contract
    pool.chain.send(recipient.functions.wantGas(SEND_GAS))
    pool.payout(1000)
    call = pool.claim(pool.payees[1], 0)
    outcomes = set()
    for gas in range(60_000, 260_000, 2_500):
        snapshot = pool.chain.raw("evm_snapshot")
        status = pool.chain.try_send(call, gas=gas)["status"]
        outcomes.add((status, pool.chain.balance(recipient.address), owed(pool, recipient.address)))
        pool.chain.raw("evm_revert", snapshot)
    assert outcomes == {(0, 0, 0), (1, 300, 0)}


def test_too_little_gas_for_a_payment_is_named(pool):
    pool.payout(1000)
    data = pool.contract.encode_abi("claimMany", args=pool.claim_many(0, pool.payees).args)
    for gas in range(100_000, 130_000, 5_000):
        error, left, needed = pool.chain.refusal_of_raw(to=pool.address, data=data, gas=hex(gas))
        assert (error, needed) == ("NotEnoughGas", SEND_GAS * 64 // 63 + 40_000)
        assert left < needed


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("claim", lambda pool, _: (pool.payees[0], [])),
        ("claimMany", lambda *_: (0, [])),
        ("sync", lambda *_: ()),
        ("withdrawOwed", lambda pool, _: (pool.stranger,)),
        ("sendOwed", lambda _, recipient: (recipient.address,)),
        ("withdrawFee", lambda *_: ()),
        ("fund", lambda pool, _: (pool.tree.root, bytes(32))),
    ],
)
def test_a_recipient_that_calls_back_is_turned_away_and_paid_once(paid_by_contract, function, arguments):
    pool, recipient = paid_by_contract
    data = pool.contract.encode_abi(function, args=arguments(pool, recipient))
    pool.chain.send(recipient.functions.callBack(pool.address, data))
    pool.payout(1000)
    pool.chain.send(pool.claim_many(0, pool.payees))
    assert recipient.functions.answer().call() == pool.chain.selector("ReentrancyGuardReentrantCall")
    assert [pool.chain.balance(a) for a in (pool.miners[0], recipient.address, pool.miners[2])] == [500, 300, 200]
    assert pool.chain.balance(pool.address) == pool.call.totalAccounted().call() == 0


def test_a_recipient_that_sends_its_money_back_makes_it_arrive_again(paid_by_contract):
    pool, recipient = paid_by_contract
    # CALL(gas, distributor, callvalue, 0, 0, 0, 0)
    code = bytes.fromhex("5f5f5f5f34" + "73" + pool.address[2:] + "5af100")
    pool.chain.set_code(recipient.address, code)
    pool.payout(1000)
    pool.chain.send(pool.claim_many(0, pool.payees))
    assert pool.unattributed() == 300
    assert pool.call.totalAccounted().call() == 0
