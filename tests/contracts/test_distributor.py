"""Distributor: epochs, arriving money, the fee, and what the operator can and cannot do."""

from __future__ import annotations

import random

import pytest

from pool_oracle.payout.sumtree import SumTree

ETHER = 10**18
DAY = 86_400
NO_EPOCH = 2**64 - 1
ZERO_ADDRESS = "0x" + "00" * 20
OTHER_MANIFEST = bytes.fromhex("c0" * 32)


@pytest.fixture
def next_tree(pool):
    """The tree of the epoch after the genesis: the same miners, other weights."""
    return SumTree(zip(pool.payees, (1, 1, 8), strict=True))


@pytest.fixture
def delayed(make_pool):
    """A pool whose roots wait a day."""
    return make_pool(activationDelay=DAY)


def epoch(pool, which):
    """Number and root of the active or the pending epoch."""
    root, _, number, _ = pool.call[which]().call()
    return number, root


def payouts(pool):
    """Root, amount and epoch of each payout."""
    return [list(pool.call.payout(i).call()[:3]) for i in range(pool.call.payoutCount().call())]


# --- the beginning ---


def test_the_genesis_root_is_active_from_the_beginning(pool):
    root, manifest, number, active_from = pool.call.activeEpoch().call()
    assert (root, manifest, number) == (pool.tree.root, pool.settings["genesisManifestHash"], 0)
    assert active_from == pool.chain.now
    assert epoch(pool, "pendingEpoch") == (0, bytes(32))
    assert pool.call.payoutCount().call() == 0


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"operator": ZERO_ADDRESS}, ("ZeroAddress",)),
        ({"feeRecipient": ZERO_ADDRESS}, ("ZeroAddress",)),
        ({"feeCapBps": 10_001}, ("FeeAboveCap", 10_001, 10_000)),
        ({"feeBps": 501}, ("FeeAboveCap", 501, 500)),
        ({"activationDelay": 30 * 86400 + 1}, ("DelayAboveMaximum", 30 * 86400 + 1, 30 * 86400)),
        ({"genesisRoot": b"\xff" * 24 + bytes(8)}, ("ZeroRootSum", b"\xff" * 24 + bytes(8))),
    ],
)
def test_settings_that_make_no_sense_are_refused(chain, pool, wrong, error):
    settings = tuple((pool.settings | wrong).values())
    assert chain.refusal_to_deploy("NativeDistributor", settings) == error


# --- money that arrives ---


def test_a_coinbase_reward_and_a_plain_transfer_wait_until_somebody_calls_sync(pool):
    pool.reward(3 * ETHER)
    pool.chain.pay(pool.address, ETHER)
    assert payouts(pool) == []
    pool.chain.send(pool.call.sync(), sender=pool.stranger)
    assert payouts(pool) == [[pool.tree.root, 4 * ETHER, 0]]
    assert pool.call.totalAccounted().call() == 4 * ETHER


def test_sync_without_money_records_nothing(pool):
    pool.chain.send(pool.call.sync())
    pool.payout(ETHER)
    pool.chain.send(pool.call.sync())
    assert len(payouts(pool)) == 1


def test_less_than_the_minimum_waits_for_more(make_pool):
    pool = make_pool(minPayout=100)
    pool.reward(99)
    pool.chain.send(pool.call.sync())
    assert payouts(pool) == []
    pool.payout(1)
    assert payouts(pool) == [[pool.tree.root, 100, 0]]


def test_an_unknown_payout_has_no_view(pool):
    assert pool.chain.refusal(pool.call.payout(0)) == ("UnknownPayout", 0)


def test_more_than_128_bits_of_money_become_several_payouts_and_stop_no_commit(pool, next_tree):
    pool.reward(2**128 + 6)
    pool.chain.send(pool.call.sync())
    pool.commit(next_tree)
    assert payouts(pool) == [[pool.tree.root, 2**128 - 1, 0], [pool.tree.root, 7, 0]]


# --- funding with a root ---


def test_funding_makes_a_payout_with_its_own_root_and_leaves_waiting_money_alone(pool, next_tree):
    pool.reward(5)
    payout_id = pool.fund(next_tree, 7)
    assert payouts(pool) == [[next_tree.root, 7, NO_EPOCH]]
    assert payout_id == 0
    assert epoch(pool, "activeEpoch") == (0, pool.tree.root)
    pool.chain.send(pool.call.sync())
    assert payouts(pool)[1] == [pool.tree.root, 5, 0]


def test_funding_refuses_a_root_without_weight_and_no_money_but_takes_less_than_the_minimum(make_pool, next_tree):
    pool = make_pool(minPayout=100)
    empty = next_tree.root[:24] + bytes(8)
    assert pool.chain.refusal(pool.call.fund(empty, OTHER_MANIFEST), value=100) == ("ZeroRootSum", empty)
    assert pool.chain.refusal(pool.call.fund(next_tree.root, OTHER_MANIFEST)) == ("NothingFunded",)
    pool.fund(next_tree, 99)
    assert payouts(pool) == [[next_tree.root, 99, NO_EPOCH]]


# --- commits without a delay ---


def test_a_commit_is_active_at_once_and_takes_nothing_that_came_before_it(pool, next_tree):
    pool.reward(10)
    pool.commit(next_tree)
    assert epoch(pool, "activeEpoch") == (1, next_tree.root)
    pool.payout(20)
    assert payouts(pool) == [[pool.tree.root, 10, 0], [next_tree.root, 20, 1]]


def test_money_that_came_before_a_commit_can_not_be_claimed_with_the_new_root(pool, next_tree):
    pool.reward(1000)
    pool.commit(next_tree)
    favoured = pool.payees[2]
    with_new_root = pool.claim(favoured, 0, tree=next_tree)
    assert pool.chain.refusal(with_new_root) == ("InvalidProof", favoured, 0)
    assert pool.claim(favoured, 0).call() == 200


def test_a_commit_attributes_even_less_than_the_minimum(make_pool, next_tree):
    pool = make_pool(minPayout=100)
    pool.reward(1)
    pool.commit(next_tree)
    assert payouts(pool) == [[pool.tree.root, 1, 0]]


def test_a_commit_with_nothing_to_attribute_makes_no_payout(pool, next_tree):
    pool.commit(next_tree)
    pool.commit(pool.tree)
    assert payouts(pool) == []
    assert epoch(pool, "activeEpoch") == (2, pool.tree.root)


def test_only_the_operator_commits_and_never_a_root_without_weight(pool, next_tree):
    call = pool.call.commit(next_tree.root, OTHER_MANIFEST)
    assert pool.chain.refusal(call, sender=pool.stranger) == ("NotOperator", pool.stranger)
    empty = b"\x01" * 24 + bytes(8)
    call = pool.call.commit(empty, OTHER_MANIFEST)
    assert pool.chain.refusal(call, sender=pool.operator) == ("ZeroRootSum", empty)


# --- commits with a delay ---


def test_a_pending_root_gets_nothing_before_its_time_and_no_other_can_push_it_aside(delayed, next_tree):
    delayed.commit(next_tree)
    active_from = delayed.chain.now + DAY
    assert epoch(delayed, "pendingEpoch") == (1, next_tree.root)
    assert epoch(delayed, "activeEpoch") == (0, delayed.tree.root)
    again = delayed.call.commit(delayed.tree.root, OTHER_MANIFEST)
    assert delayed.chain.refusal(again, sender=delayed.operator) == ("EpochPending", 1, active_from)

    delayed.reward(10)
    delayed.chain.next_block_at(active_from - 1)
    delayed.chain.send(delayed.call.sync())
    assert payouts(delayed) == [[delayed.tree.root, 10, 0]]
    assert epoch(delayed, "pendingEpoch") == (1, next_tree.root)


def test_a_due_root_becomes_active_by_sync_and_what_waited_until_then_is_the_old_roots(delayed, next_tree):
    delayed.commit(next_tree)
    delayed.reward(10)
    delayed.chain.next_block_at(delayed.chain.now + DAY)
    delayed.chain.send(delayed.call.sync(), sender=delayed.stranger)
    assert epoch(delayed, "activeEpoch") == (1, next_tree.root)
    assert epoch(delayed, "pendingEpoch") == (0, bytes(32))
    delayed.payout(20)
    assert payouts(delayed) == [[delayed.tree.root, 10, 0], [next_tree.root, 20, 1]]


def test_money_that_came_after_the_time_but_before_the_activation_is_still_the_old_roots(delayed, next_tree):
    delayed.commit(next_tree)
    delayed.chain.next_block_at(delayed.chain.now + 3 * DAY)
    delayed.chain.pay(delayed.address, 10)
    delayed.chain.send(delayed.call.sync())
    assert payouts(delayed) == [[delayed.tree.root, 10, 0]]
    assert epoch(delayed, "activeEpoch") == (1, next_tree.root)


def test_an_activation_attributes_even_less_than_the_minimum(make_pool, next_tree):
    pool = make_pool(activationDelay=DAY, minPayout=100)
    pool.commit(next_tree)
    pool.reward(1)
    pool.chain.next_block_at(pool.chain.now + DAY)
    pool.chain.send(pool.call.sync())
    assert payouts(pool) == [[pool.tree.root, 1, 0]]


def test_a_commit_activates_the_epoch_that_is_due_before_its_own_waits(delayed, next_tree):
    delayed.commit(next_tree)
    delayed.reward(10)
    delayed.chain.next_block_at(delayed.chain.now + DAY)
    third = SumTree([(delayed.payees[0], 1)])
    delayed.commit(third)
    assert epoch(delayed, "activeEpoch") == (1, next_tree.root)
    assert epoch(delayed, "pendingEpoch") == (2, third.root)
    assert payouts(delayed) == [[delayed.tree.root, 10, 0]]
    delayed.payout(20)
    assert payouts(delayed)[1] == [next_tree.root, 20, 1]


# --- the fee ---


def test_the_fee_is_taken_when_a_payout_is_recorded_and_rounded_down(make_pool):
    pool = make_pool(feeBps=250)
    pool.payout(1039)
    assert payouts(pool) == [[pool.tree.root, 1014, 0]]
    assert pool.call.feeOwed().call() == 25
    assert pool.call.totalAccounted().call() == 1039


def test_anybody_can_send_the_fee_to_the_fee_recipient_and_nowhere_else(make_pool):
    pool = make_pool(feeBps=500)
    assert pool.chain.refusal(pool.call.withdrawFee()) == ("NothingOwed", pool.fee_recipient)
    pool.payout(1000)
    pool.chain.send(pool.call.withdrawFee(), sender=pool.stranger)
    assert pool.chain.balance(pool.fee_recipient) == 50
    assert pool.call.feeOwed().call() == 0
    assert pool.call.totalAccounted().call() == pool.chain.balance(pool.address) == 950
    assert pool.chain.refusal(pool.call.withdrawFee()) == ("NothingOwed", pool.fee_recipient)


def test_a_fee_recipient_that_refuses_keeps_its_claim(make_pool):
    pool = make_pool(feeBps=500)
    pool.payout(1000)
    pool.chain.set_code(pool.fee_recipient, bytes.fromhex("5f5ffd"))
    assert pool.chain.refusal(pool.call.withdrawFee()) == ("SendFailed", pool.fee_recipient)
    assert pool.call.feeOwed().call() == 50


def test_the_fee_can_only_fall_and_never_changes_a_recorded_payout(make_pool):
    pool = make_pool(feeBps=500)
    pool.payout(1000)
    assert pool.chain.refusal(pool.call.lowerFee(1), sender=pool.stranger) == ("NotOperator", pool.stranger)
    for wanted in (500, 501, 65_535):
        assert pool.chain.refusal(pool.call.lowerFee(wanted), sender=pool.operator) == ("FeeNotLower", 500, wanted)
    pool.chain.send(pool.call.lowerFee(0), sender=pool.operator)
    pool.payout(1000)
    assert [amount for _, amount, _ in payouts(pool)] == [950, 1000]
    assert pool.call.feeOwed().call() == 50


def test_a_fee_of_everything_leaves_a_payout_of_nothing_that_can_still_be_claimed(make_pool):
    pool = make_pool(feeBps=10_000, feeCapBps=10_000)
    pool.payout(7)
    assert payouts(pool) == [[pool.tree.root, 0, 0]]
    pool.chain.send(pool.claim(pool.payees[0], 0))
    assert pool.call.isClaimed(pool.payees[0], 0).call()
    assert pool.chain.balance(pool.miners[0]) == 0


# --- the operator ---


def test_the_operator_hands_over_in_two_steps_and_can_take_a_proposal_back(pool):
    propose = pool.call.proposeOperator
    assert pool.chain.refusal(propose(pool.stranger), sender=pool.stranger) == ("NotOperator", pool.stranger)
    accept = pool.call.acceptOperator()
    pool.chain.send(propose(pool.stranger), sender=pool.operator)
    assert pool.chain.refusal(accept, sender=pool.relayer) == ("NotProposedOperator", pool.relayer)
    pool.chain.send(propose(ZERO_ADDRESS), sender=pool.operator)
    assert pool.chain.refusal(accept, sender=pool.stranger) == ("NotProposedOperator", pool.stranger)

    pool.chain.send(propose(pool.stranger), sender=pool.operator)
    pool.chain.send(accept, sender=pool.stranger)
    assert pool.call.operator().call() == pool.stranger
    assert pool.chain.refusal(pool.call.lowerFee(0), sender=pool.operator) == ("NotOperator", pool.operator)
    assert pool.chain.refusal(accept, sender=pool.stranger) == ("NotProposedOperator", pool.stranger)


def test_nothing_that_the_operator_calls_changes_what_a_recorded_payout_pays(make_pool, next_tree):
    pool = make_pool(feeBps=100)
    pool.payout(1000)
    before = pool.call.payout(0).call()
    pool.commit(next_tree)
    pool.chain.send(pool.call.lowerFee(50), sender=pool.operator)
    pool.chain.send(pool.call.proposeOperator(pool.stranger), sender=pool.operator)
    pool.chain.send(pool.call.fund(next_tree.root, OTHER_MANIFEST), sender=pool.operator, value=9)
    assert pool.call.payout(0).call() == before
    assert [pool.claim(payee, 0).call() for payee in pool.payees] == [495, 297, 198]


# --- conservation ---


def test_payouts_are_divided_as_in_the_vectors(make_pool, make_account, make_payee, vectors):
    for case in vectors("payout")["cases"]:
        amount, total, weights = int(case["amount"]), int(case["total"]), [int(w) for w in case["weights"]]
        if amount == 0:
            continue  # nothing arrives, so there is no payout
        rest = [total - sum(weights)] if total > sum(weights) else []
        leaves = {make_payee(make_account(b"leaf %d" % i)): w for i, w in enumerate(weights + rest)}
        pool = make_pool(leaves=leaves)
        pool.payout(amount)
        paid = [pool.claim(payee, 0).call() for payee in list(leaves)[: len(weights)]]
        assert paid == [int(a) for a in case["amounts"]], case["name"]
        assert amount - sum(paid) == int(case["dust"])


class History:
    """Random rewards, funds, commits, claims, refusals and withdrawals of one pool, with books of its own."""

    def __init__(self, pool, miners, payees, seed):
        self.pool, self.miners, self.payees = pool, miners, payees
        self.rng = random.Random(seed)
        self.trees = {pool.tree.root: pool.tree}
        self.came_in = self.fee_paid = 0
        self.refusing = miners[:2]
        pool.chain.set_code(miners[0], bytes.fromhex("5f5ffd"))  # reverts
        pool.chain.set_code(miners[1], bytes.fromhex("5b5f56"))  # burns all gas

    def step(self):
        """Do one thing."""
        self.rng.choice([self.reward, self.fund, self.commit, self.sync, self.claim, self.withdraw_fee])()

    def random_tree(self):
        """Some of the miners, with small and great weights."""
        some = self.rng.sample(self.payees, self.rng.randint(1, len(self.payees)))
        tree = SumTree((payee, self.rng.choice([1, 7, self.rng.getrandbits(58) + 1])) for payee in some)
        self.trees[tree.root] = tree
        return tree

    def reward(self):
        """A block reward arrives, sometimes below the minimum."""
        value = self.rng.choice([1, 49, 10**9 + 7, 3 * ETHER + 11])
        self.came_in += value
        self.pool.reward(value)

    def fund(self):
        """Somebody funds a payout with a root of its own."""
        value = self.rng.choice([50, 12_345_678_901])
        self.came_in += value
        self.pool.fund(self.random_tree(), value)

    def commit(self):
        """The operator commits."""
        self.pool.commit(self.random_tree())

    def sync(self):
        """Somebody syncs."""
        self.pool.chain.send(self.pool.call.sync())

    def claim(self):
        """A relayer claims for some payees, some of them twice."""
        known = payouts(self.pool)
        if known:
            payout_id = self.rng.randrange(len(known))
            tree = self.trees[bytes(known[payout_id][0])]
            chosen = [payee for payee, _ in tree.leaves] * 2
            self.rng.shuffle(chosen)
            self.pool.chain.send(self.pool.claim_many(payout_id, chosen[:5], tree))

    def withdraw_fee(self):
        """Somebody sends the fee, if there is one."""
        fee = self.pool.call.feeOwed().call()
        self.fee_paid += fee
        if fee:
            self.pool.chain.send(self.pool.call.withdrawFee())

    def check_books(self):
        """Money in is money out plus what the contract accounts for plus what waits, to the last wei."""
        call, balance = self.pool.call, self.pool.chain.balance
        words = {payee: call.claimedWord(payee, 0).call() for payee in self.payees + self.pool.payees}
        claimed = still_open = 0
        for i, (root, amount, _) in enumerate(payouts(self.pool)):
            tree = self.trees[bytes(root)]
            parts = {payee: amount * weight // tree.total for payee, weight in tree.leaves}
            taken = sum(part for payee, part in parts.items() if words[payee] >> i & 1)
            claimed += taken
            still_open += amount - taken
            assert 0 <= amount - sum(parts.values()) < len(tree)
        paid = sum(balance(m) for m in self.miners[2:] + self.pool.miners)
        owed = sum(call.owed(m).call() for m in self.refusing)
        accounted = call.totalAccounted().call()
        assert paid + owed == claimed
        assert accounted == still_open + owed + call.feeOwed().call()
        assert paid + self.fee_paid + accounted + self.pool.unattributed() == self.came_in
        assert self.pool.unattributed() >= 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_paid_fee_owed_and_dust_add_up_to_what_came_in_along_any_history(make_pool, make_account, make_payee, seed):
    miners = [make_account(b"history %d %d" % (seed, i)) for i in range(6)]
    history = History(make_pool(feeBps=300, minPayout=50), miners, [make_payee(m) for m in miners], seed)
    for _ in range(40):
        history.step()
        history.check_books()
    assert len(payouts(history.pool)) > 5
