"""The outbox on a real chain: once, in order, whatever happens to fees, pools, nonces and blocks."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pool_oracle.chain.anvil import Anvil
from pool_oracle.chain.fees import GWEI, FeeSettings
from pool_oracle.chain.keys import RemoteSigner
from pool_oracle.errors import (
    AlreadyDone,
    ChainError,
    InsufficientFunds,
    OutboxError,
    SigningFailed,
    TransactionReverted,
)
from tests.integration.chain_relay import ChainRelay, Rule, lags, refuses, says, times
from tests.integration.outbox_rig import OutboxRig, close, root_of

HOLDER = """
import sys
from pathlib import Path
from pool_oracle.chain.journal import Journal
journal = Journal(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def rig(anvil: Anvil, tmp_path: Path) -> OutboxRig:
    return OutboxRig(anvil.url, tmp_path)


@pytest.fixture
def relay(anvil: Anvil) -> Iterator[ChainRelay]:
    with ChainRelay(anvil.url) as running:
        yield running


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[Any]]]:
    """Runs what blocks while the test does something else."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def journal(rig: OutboxRig, kind: str) -> list[dict[str, Any]]:
    """The journal's entries of a kind, as they are on the disk now."""
    lines = (rig.folder / "outbox" / "outbox.jsonl").read_text().splitlines()
    return [entry for entry in (json.loads(line)["entry"] for line in lines) if entry["kind"] == kind]


# What is sent


def test_commits_go_out_once_each_however_often_they_are_asked_for(rig: OutboxRig) -> None:
    before = rig.nonce()
    sender = rig.open()
    receipts = [rig.commit(sender, number) for number in (1, 2, 3)]
    assert [receipt["status"] for receipt in receipts] == [1, 1, 1]
    assert rig.commit(sender, 2) == receipts[1]
    close(sender)
    sender = rig.open()
    assert rig.commit(sender, 3) == receipts[2]
    close(sender)
    rig.expect(3)
    assert rig.nonce() == before + 3


def test_a_transaction_is_on_the_disk_before_the_node_sees_it(rig: OutboxRig, relay: ChainRelay) -> None:
    on_disk = []

    def look(call: dict[str, Any], forward: Callable[[Any], Any]) -> dict[str, Any]:
        on_disk.append(call["params"][0] in [attempt["raw"] for attempt in journal(rig, "attempt")])
        return {"result": forward(call)}

    relay.rules["eth_sendRawTransaction"] = look
    sender = rig.open(relay.url)
    rig.commit(sender, 1)
    close(sender)
    assert on_disk == [True]


def test_calls_without_a_key_are_one_transaction_each(rig: OutboxRig) -> None:
    sender = rig.open()
    fund = rig.contract.functions.fund(root_of(1), bytes(32))
    sender.send(fund, value=5)
    sender.send(fund, value=5)
    close(sender)
    assert rig.contract.functions.payoutCount().call() == 2


def test_a_revert_is_found_before_anything_is_signed_and_named(rig: OutboxRig) -> None:
    sender = rig.open()
    before = rig.nonce()
    with pytest.raises(TransactionReverted, match=r"^commit reverted: ZeroRootSum\(0x0{64}\)$"):
        sender.send(rig.contract.functions.commit(bytes(32), bytes(32)), intent="commit:1")
    close(sender)
    assert rig.nonce() == before
    assert not journal(rig, "attempt")
    stranger = OutboxRig(rig.url, rig.folder / "stranger", rig.stranger, rig.address)
    sender = stranger.open()
    with pytest.raises(TransactionReverted, match="NotOperator"):
        stranger.commit(sender, 1)
    close(sender)


def test_what_somebody_else_has_done_is_not_sent(rig: OutboxRig) -> None:
    sender = rig.open()
    rig.contract.functions.commit(root_of(1), bytes(32)).transact({"from": rig.account.address})
    before = rig.nonce()
    with pytest.raises(AlreadyDone, match=r"commit \(commit:1\) was done by somebody else"):
        rig.commit(sender, 1)
    close(sender)
    assert rig.nonce() == before


def test_a_receipt_comes_back_at_its_depth(rig: OutboxRig, aside: Callable[..., Future[Any]]) -> None:
    sender = rig.open(confirmations=4)
    receipt = aside(rig.commit, sender, 1)
    until(lambda: rig.latest() == 1)
    rig.mine(2)
    time.sleep(0.3)
    assert not receipt.done()
    rig.mine(1)
    assert receipt.result(timeout=5)["status"] == 1
    close(sender)


def test_a_send_that_waits_ends_when_it_is_stopped_and_is_gone_on_with(
    rig: OutboxRig, aside: Callable[..., Future[Any]]
) -> None:
    rig.hold()
    sender = rig.open()
    receipt = aside(rig.commit, sender, 1)
    until(lambda: len(journal(rig, "attempt")) == 1)
    close(sender)
    with pytest.raises(ChainError, match="stopped before it was confirmed"):
        receipt.result(timeout=5)
    rig.mine()
    sender = rig.open()
    assert rig.commit(sender, 1)["status"] == 1
    close(sender)
    rig.expect(1)
    assert len(journal(rig, "attempt")) == 1


def test_patience_ends_with_a_word_on_what_is_missing(rig: OutboxRig) -> None:
    rig.hold()
    sender = rig.open(patience_seconds=0.3)
    with pytest.raises(ChainError, match=r"commit has not its 1 confirmations after 0.3 s \(not mined yet\); it stays"):
        rig.commit(sender, 1)
    rig.mine()
    rig.commit(sender, 1)
    close(sender)
    rig.expect(1)


# Fees


def test_a_stuck_transaction_is_replaced_when_gas_costs_ten_times_as_much(
    rig: OutboxRig, aside: Callable[..., Future[Any]]
) -> None:
    rig.hold()
    sender = rig.open()
    receipt = aside(rig.commit, sender, 1)
    until(lambda: len(journal(rig, "attempt")) == 1)
    (first,) = journal(rig, "attempt")
    for _ in range(6):
        rig.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(10 * first["max_fee"]))
        rig.mine()
        time.sleep(0.1)
    until(lambda: len(journal(rig, "attempt")) > 1)
    until(lambda: rig.mine() or receipt.done())
    close(sender)
    attempts = journal(rig, "attempt")
    assert {attempt["nonce"] for attempt in attempts} == {first["nonce"]}
    fees = [(attempt["max_fee"], attempt["tip"]) for attempt in attempts]
    for (fee, tip), (more, more_tip) in itertools.pairwise(fees):
        assert more * 1000 >= fee * 1125
        assert more_tip * 1000 >= tip * 1125
    assert receipt.result()["transactionHash"].to_0x_hex() == attempts[-1]["hash"]
    rig.expect(1)


def test_fees_stop_at_the_cap_and_say_so(rig: OutboxRig) -> None:
    sender = rig.open(patience_seconds=0.3, fees=FeeSettings(max_fee=GWEI // 10))
    with pytest.raises(ChainError, match=r"the base fee is [0-9.]+ gwei per gas, the settings allow 0\.1 with the tip"):
        rig.commit(sender, 1)
    close(sender)
    assert not journal(rig, "attempt")


def test_replacements_stop_at_the_cap_and_the_transaction_stays(rig: OutboxRig) -> None:
    rig.hold()
    sender = rig.open(patience_seconds=1, fees=FeeSettings(max_fee=3 * GWEI))
    for _ in range(5):
        with pytest.raises(ChainError, match="has not its 1 confirmations"):
            rig.commit(sender, 1)
        rig.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(9 * GWEI))
        rig.mine(4)
    with pytest.raises(ChainError, match="gwei"):
        rig.commit(sender, 1)
    assert max(attempt["max_fee"] for attempt in journal(rig, "attempt")) <= 3 * GWEI
    rig.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    rig.mine()
    rig.chain.rpc("evm_setAutomine", True)
    rig.commit(sender, 1)
    close(sender)
    rig.expect(1)


def test_a_chain_without_a_base_fee_gets_a_gas_price(rig: OutboxRig, relay: ChainRelay) -> None:
    def plain(call: dict[str, Any], forward: Callable[[Any], Any]) -> dict[str, Any]:
        block = forward(call)
        return {"result": {name: value for name, value in block.items() if name != "baseFeePerGas"}}

    relay.rules["eth_getBlockByNumber"] = plain
    relay.rules["eth_feeHistory"] = refuses(-32601, "the method eth_feeHistory does not exist")
    sender = rig.open(relay.url)
    receipt = rig.commit(sender, 1)
    close(sender)
    assert receipt["type"] == 0
    assert journal(rig, "attempt")[0]["tip"] is None


def test_a_node_that_wants_more_for_a_replacement_gets_more(
    rig: OutboxRig, relay: ChainRelay, aside: Callable[..., Future[Any]]
) -> None:
    """Rootstock's wants 40 %."""
    rig.hold()
    sender = rig.open(relay.url)
    receipt = aside(rig.commit, sender, 1)
    until(lambda: len(journal(rig, "attempt")) == 1)
    first = journal(rig, "attempt")[0]["max_fee"]

    def wants_more(call: dict[str, Any], forward: Callable[[Any], Any]) -> dict[str, Any]:
        offered = {attempt["raw"]: attempt["max_fee"] for attempt in journal(rig, "attempt")}
        if offered[call["params"][0]] * 100 < first * 140:
            return {"error": {"code": -32010, "message": "gas price not enough to bump transaction"}}
        return {"result": forward(call)}

    relay.rules["eth_sendRawTransaction"] = wants_more
    rig.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(first + 1))
    rig.mine(1)
    rig.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(first + 1))
    rig.mine(2)
    until(lambda: any(attempt["max_fee"] * 100 >= first * 140 for attempt in journal(rig, "attempt")))
    until(lambda: rig.mine() or receipt.done())
    close(sender)
    assert len({attempt["nonce"] for attempt in journal(rig, "attempt")}) == 1
    rig.expect(1)


def test_a_key_without_money_is_named_with_what_it_needs(rig: OutboxRig) -> None:
    sender = rig.open()
    rig.chain.rpc("anvil_setBalance", sender.address, hex(1000))
    with pytest.raises(InsufficientFunds, match=rf"{sender.address} has 1000 wei and needs \d+ for commit") as told:
        rig.commit(sender, 1)
    assert not journal(rig, "attempt")
    missing = int(str(told.value).split("send it ")[1].split()[0])
    rig.chain.rpc("anvil_setBalance", sender.address, hex(1000 + missing))
    rig.commit(sender, 1)
    close(sender)
    rig.expect(1)


# Reorganisations


@pytest.mark.parametrize("depth", range(1, 13))
def test_a_commit_that_a_reorganisation_drops_is_sent_again_as_it_was(rig: OutboxRig, depth: int) -> None:
    sender = rig.open()
    before = rig.nonce()
    receipt = rig.commit(sender, 1)
    rig.mine(depth - 1) if depth > 1 else None
    rig.reorganise(depth)
    assert rig.committed() == []
    until(lambda: sender._outbox.tend() or rig.committed() != [])
    rig.expect(1)
    assert rig.nonce() == before + 1
    assert len(journal(rig, "attempt")) == 1
    assert rig.commit(sender, 1)["transactionHash"] == receipt["transactionHash"]
    assert len(journal(rig, "dropped")) == 1
    close(sender)


def test_commits_that_are_dropped_together_keep_their_order(rig: OutboxRig) -> None:
    sender = rig.open()
    for number in (1, 2, 3):
        rig.commit(sender, number)
    rig.reorganise(3)
    until(lambda: sender._outbox.tend() or len(rig.committed()) == 3)
    rig.expect(3)
    assert len(journal(rig, "attempt")) == 3
    close(sender)


def test_a_node_that_was_set_back_gets_the_commit_again(rig: OutboxRig) -> None:
    snapshot = rig.chain.rpc("evm_snapshot")
    sender = rig.open()
    rig.commit(sender, 1)
    rig.chain.rpc("evm_revert", snapshot)
    assert rig.committed() == []
    rig.commit(sender, 1)
    close(sender)
    rig.expect(1)


def test_a_reorganisation_is_noticed_after_a_restart(rig: OutboxRig) -> None:
    sender = rig.open()
    rig.commit(sender, 1)
    close(sender)
    rig.reorganise(1)
    sender = rig.open()
    rig.commit(sender, 1)
    rig.commit(sender, 2)
    close(sender)
    rig.expect(2)
    assert len(journal(rig, "attempt")) == 2


def test_a_dropped_commit_whose_nonce_somebody_used_takes_the_next_one(rig: OutboxRig) -> None:
    """The operator's key in a second program."""
    sender = rig.open()
    rig.commit(sender, 1)
    rig.commit(sender, 2)
    nonce = rig.nonce()
    rig.reorganise(2)
    rig.chain.rpc("eth_sendTransaction", {"from": sender.address, "to": sender.address, "value": "0x1"})
    until(lambda: sender._outbox.tend() or len(rig.committed()) == 2)
    rig.expect(2)
    assert rig.nonce() == nonce + 1
    close(sender)


def test_a_dropped_commit_that_somebody_else_made_is_left_alone(rig: OutboxRig) -> None:
    sender = rig.open()
    rig.commit(sender, 1)
    rig.reorganise(1)
    rig.contract.functions.commit(root_of(1), bytes(32)).transact({"from": sender.address, "gas": 400_000})
    until(lambda: sender._outbox.tend() or not sender._outbox.open_intents())
    rig.expect(1)
    assert [entry["outcome"] for entry in journal(rig, "final")] == ["elsewhere"]
    close(sender)


def test_what_is_deep_enough_is_final(rig: OutboxRig) -> None:
    sender = rig.open(final_depth=3)
    rig.commit(sender, 1)
    assert [intent.key for intent in sender._outbox.open_intents()] == ["commit:1"]
    rig.mine(2)
    sender._outbox.tend()
    assert sender._outbox.open_intents() == []
    close(sender)


def test_a_commit_whose_predecessor_was_dropped_waits_for_it_also_after_a_restart(rig: OutboxRig) -> None:
    """Its nonce is never made valid before it is its turn."""
    sender = rig.open()
    rig.commit(sender, 1)
    rig.commit(sender, 2)
    close(sender)
    rig.reorganise(2)
    sender = rig.open()
    for _ in range(3):
        with pytest.raises(ChainError, match="epoch 1 is not there any more"):
            rig.commit(sender, 2)
        rig.mine(4)
        with pytest.raises(ChainError, match="epoch 1 is not there any more"):
            sender._outbox.tend()
    rig.commit(sender, 1)
    rig.commit(sender, 2)
    close(sender)
    rig.expect(2)


def test_a_reorganisation_deeper_than_final_is_made_good_when_the_caller_asks_again(rig: OutboxRig) -> None:
    rig.mine(10)
    sender = rig.open(final_depth=2)
    rig.commit(sender, 1)
    rig.commit(sender, 2)
    rig.mine(3)
    sender._outbox.tend()
    assert sender._outbox.open_intents() == []
    rig.reorganise(6)
    assert rig.committed() == []
    rig.commit(sender, 1)
    rig.commit(sender, 2)
    close(sender)
    rig.expect(2)
    assert len(journal(rig, "attempt")) == 2


def test_a_transaction_that_fails_when_it_is_mined_is_named_and_can_be_tried_again(
    rig: OutboxRig, aside: Callable[..., Future[Any]]
) -> None:
    rig.hold()
    sender = rig.open()
    receipt = aside(rig.commit, sender, 1)
    until(lambda: len(journal(rig, "attempt")) == 1)
    code = rig.chain.rpc("eth_getCode", rig.address, "latest")
    rig.chain.rpc("anvil_setCode", rig.address, "0xfe")
    rig.mine()
    with pytest.raises(TransactionReverted, match=r"commit reverted: transaction 0x[0-9a-f]{64} failed when it was"):
        receipt.result(timeout=10)
    rig.chain.rpc("anvil_setCode", rig.address, code)
    rig.chain.rpc("evm_setAutomine", True)
    rig.commit(sender, 1)
    close(sender)
    rig.expect(1)
    assert len(journal(rig, "attempt")) == 2


# Pools and nonces


def test_a_transaction_that_the_node_forgets_is_given_to_it_again(
    rig: OutboxRig, aside: Callable[..., Future[Any]]
) -> None:
    rig.hold()
    sender = rig.open()
    receipt = aside(rig.commit, sender, 1)
    until(lambda: len(journal(rig, "attempt")) == 1)
    (attempt,) = journal(rig, "attempt")
    for _ in range(3):
        until(lambda: rig.chain.ask("eth_getTransactionByHash", attempt["hash"]) is not None)
        rig.chain.rpc("anvil_dropTransaction", attempt["hash"])
    until(lambda: rig.chain.ask("eth_getTransactionByHash", attempt["hash"]) is not None)
    rig.mine()
    receipt.result(timeout=5)
    close(sender)
    assert len(journal(rig, "attempt")) == 1
    rig.expect(1)


@pytest.mark.parametrize("lie", [-1, 1, 3, 1000])
def test_a_node_that_lies_about_the_nonce_for_a_while_delays_and_breaks_nothing(
    rig: OutboxRig, relay: ChainRelay, lie: int
) -> None:
    true = rig.nonce()
    relay.rules["eth_getTransactionCount"] = times(1, says(hex(true + lie)))
    sender = rig.open(relay.url, patience_seconds=2)
    for _ in range(40):
        try:
            rig.commit(sender, 1)
            break
        except ChainError:
            rig.mine(3)
    rig.commit(sender, 2)
    for _ in range(5):
        rig.mine(3)
        sender._outbox.tend()
    close(sender)
    rig.expect(2)
    filled = lie if 0 < lie < 1000 else 0
    assert rig.nonce() == true + 2 + filled


def test_a_nonce_that_goes_back_is_not_believed(rig: OutboxRig, relay: ChainRelay) -> None:
    sender = rig.open(relay.url, patience_seconds=2)
    rig.commit(sender, 1)
    nonce = rig.nonce()
    relay.rules["eth_getTransactionCount"] = says(hex(nonce - 1))
    with pytest.raises(ChainError, match=f"the node says that the next nonce is {nonce - 1}, and {nonce - 1} is used"):
        rig.commit(sender, 2)
    relay.rules.clear()
    rig.commit(sender, 2)
    close(sender)
    rig.expect(2)


def test_a_single_node_that_falls_behind_and_comes_back_does_no_harm(rig: OutboxRig, relay: ChainRelay) -> None:
    sender = rig.open(relay.url, patience_seconds=2)
    rig.mine(30)
    rig.commit(sender, 1)
    relay.rules["*"] = lags(20)
    for _ in range(10):
        sender._outbox.tend()
    with pytest.raises(ChainError):
        rig.commit(sender, 1)
    relay.rules.clear()
    rig.commit(sender, 2)
    close(sender)
    rig.expect(2)
    assert len(journal(rig, "attempt")) == 2


def test_an_intent_whose_caller_does_not_come_back_keeps_nobody_waiting(rig: OutboxRig) -> None:
    """Its transaction may be outbid by the next one; when the caller comes back, it is decided anew."""
    rig.hold()
    sender = rig.open(patience_seconds=0.3)
    with pytest.raises(ChainError):
        rig.commit(sender, 1)
    close(sender)
    nonce = rig.nonce()
    sender = rig.open(patience_seconds=0.3)
    fund = rig.contract.functions.fund(root_of(1), bytes(32))
    with pytest.raises(ChainError):
        sender.send(fund, value=5, intent="fund")
    rig.mine()
    rig.chain.rpc("evm_setAutomine", True)
    close(sender)
    sender = rig.open()
    sender.send(fund, value=5, intent="fund")
    rig.commit(sender, 1)
    close(sender)
    rig.expect(1)
    assert rig.contract.functions.payoutCount().call() == 1
    assert rig.nonce() == nonce + 2


def test_two_outboxes_of_one_key_in_two_places_commit_each_epoch_once(
    rig: OutboxRig, aside: Callable[..., Future[Any]]
) -> None:
    """No lock is between them, only the nonce and the question."""
    second = OutboxRig(rig.url, rig.folder / "second", rig.account, rig.address)

    def work(mine: OutboxRig) -> None:
        sender = mine.open()
        for number in range(1, 9):
            with contextlib.suppress(AlreadyDone):
                mine.commit(sender, number)
        close(sender)

    for done in [aside(work, rig), aside(work, second)]:
        done.result(timeout=60)
    rig.expect(8)


GARBAGE = (None, "0xzz", [], {"hash": 1, "number": "x", "status": None})


@pytest.mark.parametrize(
    "method",
    [
        "eth_blockNumber",
        "eth_call",
        "eth_chainId",
        "eth_estimateGas",
        "eth_feeHistory",
        "eth_gasPrice",
        "eth_getBalance",
        "eth_getBlockByNumber",
        "eth_getTransactionByHash",
        "eth_getTransactionCount",
        "eth_getTransactionReceipt",
        "eth_sendRawTransaction",
    ],
)
def test_garbage_from_the_node_is_an_error_of_ours_and_over_when_it_is(
    rig: OutboxRig, relay: ChainRelay, method: str
) -> None:
    sender = rig.open(relay.url, patience_seconds=0.2)
    for number, garbage in enumerate(GARBAGE, 1):
        relay.rules[method] = says(garbage)
        with contextlib.suppress(ChainError):
            sender.send(rig.contract.functions.commit(root_of(number), bytes(32)), intent=f"commit:{number}")
        relay.rules.clear()
        for _ in range(20):
            with contextlib.suppress(ChainError):
                rig.commit(sender, number, asks=False)
                break
    close(sender)
    rig.expect(len(GARBAGE))


# Clocks, keys and a second oracle


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_off_by_an_hour_changes_nothing(
    rig: OutboxRig, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    true = time.time
    sender = rig.open()
    rig.commit(sender, 1)
    monkeypatch.setattr(time, "time", lambda: true() + 3600 * hours)
    rig.commit(sender, 2)
    rig.reorganise(1)
    until(lambda: sender._outbox.tend() or len(rig.committed()) == 2)
    close(sender)
    sender = rig.open()
    rig.chain.rpc("evm_increaseTime", 3600)
    rig.commit(sender, 3)
    close(sender)
    rig.expect(3)
    assert len(journal(rig, "attempt")) == 3


def test_a_second_oracle_on_the_same_state_is_refused_and_told_who_has_it(rig: OutboxRig) -> None:
    folder = rig.folder / "outbox"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OutboxError) as refusal:
            rig.open()
        holder.stdin.close()
    assert f"is in use by process {holder.pid} on host " in str(refusal.value)
    assert " since 20" in str(refusal.value)
    close(rig.open())  # the lock went with its holder


def test_an_outbox_of_another_account_or_chain_is_refused(rig: OutboxRig, relay: ChainRelay) -> None:
    close(rig.open())
    stranger = OutboxRig(rig.url, rig.folder, rig.stranger, rig.address)
    with pytest.raises(OutboxError, match=f"is not of {stranger.account.address} on chain 31337"):
        stranger.open()
    relay.rules["eth_chainId"] = says("0x1")
    with pytest.raises(OutboxError, match=f"is not of {rig.account.address} on chain 1"):
        rig.open(relay.url)


def test_a_remote_signer_signs_and_is_checked(rig: OutboxRig, relay: ChainRelay) -> None:
    """A node's own accounts answer eth_signTransaction as Web3Signer does."""
    sender = rig.open(signer=RemoteSigner(relay.url, rig.account.address))
    rig.commit(sender, 1)

    def signs(change: dict[str, str]) -> Rule:
        return lambda call, forward: {"result": forward({**call, "params": [call["params"][0] | change]})}

    for rule, problem in (
        (signs({"to": rig.stranger.address}), "its to is not the one that was asked for"),
        (signs({"value": "0x1"}), "its value is not"),
        (signs({"nonce": "0x99"}), "its nonce is not"),
        (signs({"from": rig.stranger.address}), f"the key is {rig.stranger.address}'s, not {rig.account.address}'s"),
        (says("0x1234"), "answers with no signed transaction"),
        (refuses(-32000, "no such key"), "refuses: no such key"),
    ):
        relay.rules["eth_signTransaction"] = rule
        with pytest.raises(SigningFailed, match=problem):
            rig.commit(sender, 2)
    relay.rules.clear()
    rig.commit(sender, 2)
    close(sender)
    rig.expect(2)
