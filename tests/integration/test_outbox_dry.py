"""What would be sent, shown without a key; and what a Safe's owners are given to sign."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pool_oracle.chain.anvil import Anvil
from pool_oracle.chain.fees import FeeSettings
from pool_oracle.chain.safe import batch_checksum
from pool_oracle.chain.sending import DrySender, SafeProposer
from pool_oracle.errors import AlreadyDone, ChainError, NotSent, TransactionReverted
from tests.integration.outbox_rig import OutboxRig, root_of


@pytest.fixture
def rig(anvil: Anvil, tmp_path: Path) -> OutboxRig:
    return OutboxRig(anvil.url, tmp_path)


def test_a_dry_run_shows_gas_fees_and_cost_and_sends_nothing(rig: OutboxRig) -> None:
    before = rig.nonce()
    sender = DrySender(rig.chain, rig.account.address, FeeSettings())
    call = rig.contract.functions.commit(root_of(1), bytes(32))
    with (
        capture_logs() as logs,
        pytest.raises(NotSent, match=r"^dry run: commit would be sent with \d+ gas at [\d.]+ gwei"),
    ):
        sender.send(call, intent="commit:1", done=lambda: False)
    (planned,) = sender.planned
    assert planned.request.to == rig.address
    assert planned.cost == planned.gas * planned.fees.max_fee > 0
    (shown,) = [entry for entry in logs if entry["event"] == "would send"]
    assert (shown["gas"], shown["cost_wei"], shown["intent"]) == (planned.gas, planned.cost, "commit:1")
    assert shown["data"] == planned.request.data
    assert rig.nonce() == before
    rig.expect(0)


def test_a_dry_run_says_what_would_fail_and_what_is_done(rig: OutboxRig) -> None:
    call = rig.contract.functions.commit(root_of(1), bytes(32))
    with pytest.raises(TransactionReverted, match="NotOperator"):
        DrySender(rig.chain, rig.stranger.address).send(call)
    with pytest.raises(AlreadyDone, match="commit:1 was done by somebody else"):
        DrySender(rig.chain, rig.account.address).send(call, intent="commit:1", done=lambda: True)


def test_a_proposal_is_written_once_and_what_it_says_can_be_executed(rig: OutboxRig) -> None:
    sender = SafeProposer(rig.chain, rig.account.address, rig.folder / "proposals")
    call = rig.contract.functions.commit(root_of(1), bytes(32))
    for _ in range(2):
        with pytest.raises(NotSent, match=r"commit is proposed in .*commit-1-[0-9a-f]{8}\.json; load it in the Safe's"):
            sender.send(call, intent="commit:1", done=lambda: rig.latest() >= 1)
    (path,) = (rig.folder / "proposals").iterdir()
    batch = json.loads(path.read_text())
    assert batch["chainId"] == "31337"
    assert batch["meta"]["description"] == f"commit:1: commit(0x{root_of(1).hex()}, 0x{bytes(32).hex()})"
    assert batch["meta"].pop("checksum") == batch_checksum(batch)
    (transaction,) = batch["transactions"]
    sent = {"from": rig.account.address, "to": transaction["to"], "data": transaction["data"], "value": "0x0"}
    rig.chain.rpc("eth_sendTransaction", sent)
    rig.expect(1)
    with pytest.raises(AlreadyDone):
        sender.send(call, intent="commit:1", done=lambda: rig.latest() >= 1)


def test_a_proposal_that_would_fail_is_not_written(rig: OutboxRig) -> None:
    sender = SafeProposer(rig.chain, rig.stranger.address, rig.folder / "proposals")
    with pytest.raises(TransactionReverted, match="NotOperator"):
        sender.send(rig.contract.functions.commit(root_of(1), bytes(32)))
    assert not (rig.folder / "proposals").exists()
    factory = rig.chain.web3.eth.contract(abi=[], bytecode="0x00")
    with pytest.raises(ChainError, match="a deployment cannot be proposed to a Safe"):
        sender.send(factory.constructor())
