"""A distributor's payouts and claims, read from a real chain in pages."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pool_oracle.chain import logs as logs_module
from pool_oracle.chain.anvil import Anvil
from pool_oracle.chain.events import ClaimEvent, DistributorEvents, EventPage
from pool_oracle.errors import ChainError, ChainRefused
from tests.integration.distributor_history import DistributorHistory


def pages_of(events: DistributorEvents, first: int = 0) -> list[EventPage]:
    """All pages up to the tip."""
    pages: list[EventPage] = []
    while True:
        before = (pages[-1].last, pages[-1].last_hash) if pages else None
        page = events.page(first, before)
        if page is None:
            return pages
        pages.append(page)
        first = page.last + 1


def test_payouts_and_claims_are_what_the_contract_says(anvil: Anvil) -> None:
    history = DistributorHistory(anvil.url)
    for number in range(3):
        assert history.fund(10**18 + number) == number
    history.claim(history.payees[1], 0, 2)
    history.claim_many(1, history.payees[:3])
    events = history.events()
    (page,) = pages_of(events)
    assert (page.last, page.last_hash) == events.tip()
    assert [(event.number, event.amount, event.time) for event in page.payouts] == [
        (payout.id, payout.amount, payout.time) for payout in history.client.payouts()
    ]
    assert {event.epoch for event in page.payouts} == {None}
    assert [event.fee for event in page.payouts] == [10**16, 10**16, 10**16]
    assert {event.root for event in page.payouts} == {history.tree.root}
    claims = [(event.payee, event.payouts, event.recipient) for event in page.claims]
    assert claims == [
        (payee, payouts, payee[1:])
        for payee, payouts in (
            (history.payees[1], (0, 2)),
            (history.payees[0], (1,)),
            (history.payees[1], (1,)),
            (history.payees[2], (1,)),
        )
    ]
    assert [event.amount for event in page.claims[1:]] == [history.part(p) for p in history.payees[:3]]
    places = [(event.block, event.log_index) for event in page.claims]
    assert places == sorted(places)
    assert len({event.block for event in page.claims[1:]}) == 1
    for event in (*page.payouts, *page.claims):
        assert events.block_hash(event.block) == event.block_hash
        receipt = history.chain.web3.eth.get_transaction_receipt(event.transaction_hash)  # type: ignore[arg-type]
        assert receipt["blockNumber"] == event.block


def test_an_epochs_payout_names_it_and_a_claim_over_256_payouts_is_one_event_a_word(anvil: Anvil) -> None:
    history = DistributorHistory(anvil.url)
    history.sender.send(history.client.contract.functions.commit(history.tree.root, b"\x01" * 32))
    history.chain.rpc("anvil_setBalance", history.client.address, hex(10**18))
    history.sender.send(history.client.contract.functions.sync())
    for _ in range(256):
        history.fund(1000)
    history.claim(history.payees[0], 0, 255, 256)
    pages = pages_of(history.events())
    payouts = [event for page in pages for event in page.payouts]
    assert [event.number for event in payouts] == list(range(257))
    assert [event.epoch for event in payouts[:2]] == [1, None]
    assert [event.payouts for page in pages for event in page.claims] == [(0, 255), (256,)]


def test_pages_hold_every_block_once_and_grow_until_the_node_refuses(
    anvil: Anvil, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = DistributorHistory(anvil.url)
    for _ in range(5):
        history.fund()
        history.mine(40)
    asked: list[int] = []
    rpc = history.chain.rpc

    def limited(method: str, *params: Any) -> Any:
        if method == "eth_getLogs":
            asked.append(int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1)
            if asked[-1] > 60:
                raise ChainRefused("eth_getLogs: query exceeds max block range 60")
        return rpc(method, *params)

    monkeypatch.setattr(history.chain, "rpc", limited)
    monkeypatch.setattr(logs_module, "FIRST_PAGE", 10)
    pages = pages_of(history.events())
    assert [page.first for page in pages] == [0, *(page.last + 1 for page in pages[:-1])]
    assert [event.number for page in pages for event in page.payouts] == list(range(5))
    assert asked[:5] == [10, 20, 40, 80, 20]
    assert max(asked[4:]) == 20


def test_a_node_that_refuses_single_blocks_too_is_an_error(anvil: Anvil, monkeypatch: pytest.MonkeyPatch) -> None:
    history = DistributorHistory(anvil.url)
    rpc = history.chain.rpc

    def refusing(method: str, *params: Any) -> Any:
        if method == "eth_getLogs":
            raise ChainRefused("eth_getLogs: no")
        return rpc(method, *params)

    monkeypatch.setattr(history.chain, "rpc", refusing)
    with pytest.raises(ChainError, match="eth_getLogs: no"):
        history.events().page(0, None)
    assert history.events().first_block() == 0


def test_a_node_that_does_not_answer_is_an_error_that_names_it(anvil: Anvil) -> None:
    events = DistributorHistory(anvil.url).events()
    anvil.stop()
    with pytest.raises(ChainError, match=r"the chain node at http://127\.0\.0\.1:\d+ does not answer"):
        events.page(0, None)


def test_reading_begins_where_the_distributor_was_deployed(anvil: Anvil) -> None:
    first = DistributorHistory(anvil.url)
    first.mine(1000)
    second = DistributorHistory(anvil.url)
    second.mine(30)
    block = second.events().first_block()
    assert block > 1000
    (event,) = second.client.contract.events.Committed().get_logs(from_block=0)
    assert event["blockNumber"] == block
    assert first.events().first_block() < 1000


def test_a_page_is_of_one_chain(anvil: Anvil, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the moment at which a reorganisation comes, no page mixes two chains."""
    history = DistributorHistory(anvil.url)
    history.fund()
    history.mine(3)
    events = history.events()
    tip = events.tip()
    rpc = history.chain.rpc
    for moment in range(1, 8):
        left = [moment]

        def disturbed(method: str, *params: Any, left: list[int] = left) -> Any:
            left[0] -= 1
            if left[0] == 0:
                rpc("anvil_reorg", 4, [])
                rpc("anvil_mine", "0x1")
            return rpc(method, *params)

        monkeypatch.setattr(history.chain, "rpc", disturbed)
        page = events.page(tip[0] + 1, tip)
        monkeypatch.setattr(history.chain, "rpc", rpc)
        if left[0] > 0:
            break
        assert page is None
        tip = events.tip()
        history.mine(2)
        assert events.page(tip[0] + 1, tip) is not None
    assert moment > 4


def test_the_fork_is_the_last_block_that_both_chains_have(anvil: Anvil) -> None:
    history = DistributorHistory(anvil.url)
    blocks = []
    events = history.events()
    for _ in range(9):
        history.fund()
        blocks.append(events.tip())
    assert events.fork(blocks) == blocks[-1][0]
    assert events.fork([]) == -1
    history.chain.rpc("anvil_reorg", 4, [])
    assert events.fork(blocks) == blocks[4][0]
    assert events.fork([(number, b"\x01" * 32) for number, _ in blocks]) == -1


def test_thousands_of_events_are_read_in_a_moment(anvil: Anvil) -> None:
    history = DistributorHistory(anvil.url, payees=250)
    payouts = 16
    for _ in range(payouts):
        history.claim_many(history.fund(), history.payees)
    began = time.monotonic()
    pages = pages_of(history.events())
    seconds = time.monotonic() - began
    claims: list[ClaimEvent] = [event for page in pages for event in page.claims]
    assert len(claims) == 250 * payouts
    assert {event.payouts for event in claims} == {(number,) for number in range(payouts)}
    assert seconds < 5


def test_commits_amounts_and_fees_are_read_in_pages_too(anvil: Anvil, monkeypatch: pytest.MonkeyPatch) -> None:
    history = DistributorHistory(anvil.url)
    roots = [history.tree.root, b"\x07" * 32]
    for number, root in enumerate(roots, 1):
        history.sender.send(history.client.contract.functions.commit(root, bytes((number,)) * 32))
        history.mine(7)
        history.claim(history.payees[number], history.fund())
    monkeypatch.setattr(logs_module, "FIRST_PAGE", 3)
    commits = history.client.committed_epochs()
    assert [(commit.number, commit.root) for commit in commits] == [(0, roots[0]), (1, roots[0]), (2, roots[1])]
    assert [commit.manifest_hash for commit in commits] == [bytes((n,)) * 32 for n in range(3)]
    assert commits[1].block < commits[2].block
    amounts = history.client.claimed_amounts()
    assert amounts == {who: history.part(who) for who in history.payees[1:3]}
    assert history.client.fees_taken() == history.client.fee_owed() == 2 * 10**16


@pytest.mark.parametrize(
    "change", [{"data": "0x00"}, {"topics": ["0x" + "00" * 32]}, {"blockHash": None}, {"logIndex": "seven"}]
)
def test_logs_that_are_not_the_contracts_are_an_error(
    anvil: Anvil, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    history = DistributorHistory(anvil.url)
    history.claim(history.payees[0], history.fund())
    rpc = history.chain.rpc

    def changed(method: str, *params: Any) -> Any:
        answer = rpc(method, *params)
        return [log | change for log in answer] if method == "eth_getLogs" else answer

    monkeypatch.setattr(history.chain, "rpc", changed)
    with pytest.raises(ChainError, match=r"the node's log of block 0x\d+ is not one of the distributor"):
        history.events().page(0, None)
