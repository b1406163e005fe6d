"""`relay`: everybody who can be paid is paid, once, at a price that the relayer likes, however often it is killed."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pool_oracle.chain.anvil import Anvil, find_project_root
from pool_oracle.chain.keys import LocalSigner
from pool_oracle.chain.outbox import Outbox, SendSettings
from pool_oracle.chain.quorum import QuorumChain
from pool_oracle.claims.proofs import BundleProofs
from pool_oracle.claims.reading import read_payouts
from pool_oracle.claims.relay_run import relay_once
from pool_oracle.claims.relaying import Relay, RelayPolicy, plan_relay
from pool_oracle.demo.scenario import STRANGER
from pool_oracle.errors import InputError, OutboxError
from pool_oracle.ledger.bundle import bundle_folder
from pool_oracle.payout.manifest import canonical_json
from pool_oracle.payout.payee import format_payee, payee_of_key
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.units import Payee, Wei
from tests.integration.claim_world import CLI, World, quiet, stranger_payee

GWEI = 10**9
PAYEES = [stranger_payee(number) for number in range(1, 26)]
UNLINKED = payee_of_key(b"\x02" + b"\x07" * 32)


@pytest.fixture
def world(anvil: Anvil, tmp_path: Path) -> World:
    return make_world(anvil.url, tmp_path)


def make_world(url: str, folder: Path) -> World:
    made = World(url, folder)
    made.epoch([(payee, number) for number, payee in enumerate(PAYEES, 1)] + [(UNLINKED, 5)])
    return made


def policy(**changes: Any) -> RelayPolicy:
    return RelayPolicy(**{"max_gas_price": 100 * GWEI, "min_amount": Wei(1), "batch": 10} | changes)


def relay(world: World, **changes: Any) -> dict[str, Any]:
    signer = LocalSigner(world.accounts[STRANGER])
    return relay_once(
        world.client, None, world.bundles, policy(**changes), signer, world.folder / "ledger", lambda _: None
    )


def claims_of(world: World) -> Counter[tuple[Payee, int]]:
    """How often each part was paid, by the contract's events."""
    _, claims = world.client.events().all()
    return Counter((claim.payee, number) for claim in claims for number in claim.payouts)


def sent_pairs(world: World) -> Counter[tuple[Payee, int]]:
    """How often each part stands in a transaction of the relayer's that was mined."""
    pairs: Counter[tuple[Payee, int]] = Counter()
    eth = world.chain.web3.eth
    for number in range(eth.block_number + 1):
        for transaction in eth.get_block(number, full_transactions=True)["transactions"]:
            assert not isinstance(transaction, bytes)
            if transaction["from"] == world.account() and transaction.get("to") == world.client.address:
                _, arguments = world.client.contract.decode_function_input(transaction["input"])
                pairs.update((Payee(bytes(i["payee"])), arguments["payoutId"]) for i in arguments["claims"])
    return pairs


def test_everybody_with_a_recipient_is_paid_and_a_second_run_sends_nothing(world: World) -> None:
    world.fund(1, times=2)
    first = relay(world)
    assert [sent["paid"] for sent in first["sent"]] == [10, 10, 5] * 2
    assert first["withoutRecipient"] == [format_payee(UNLINKED)]
    assert claims_of(world) == Counter((payee, number) for payee in PAYEES for number in (0, 1))
    for again in (relay(world), _without_ledger(world)):
        assert again["sent"] == again["planned"] == []
    assert sent_pairs(world) == claims_of(world)


def _without_ledger(world: World) -> dict[str, Any]:
    shutil.rmtree(world.folder / "ledger")
    return relay(world)


def test_a_user_relays_with_the_pools_api_for_the_payees_of_a_file(world: World) -> None:
    world.fund(1)
    names = "\n".join([f"{format_payee(PAYEES[0])}  # the first", "", f"0x{PAYEES[1][1:].hex()}", "# nobody"])
    (world.folder / "payees").write_text(names)
    rest = ["--distributor", world.client.address, "--max-gas-price", "100", "--payees", "payees"]
    with world.api() as pool:
        shown = world.run("relay", *rest, "--pool", pool)
        assert "2 parts can be claimed" in shown.stdout
        assert claims_of(world) == Counter()
        key = ["--key-file", str(world.key_file()), "--ledger", "ledger", "--yes", "--json"]
        done = world.run("relay", *rest, "--pool", pool, *key)
    (sent,) = json.loads(done.stdout)["sent"]
    assert (sent["paid"], sent["payout"]) == (2, 0)
    assert claims_of(world) == Counter([(PAYEES[0], 0), (PAYEES[1], 0)])


def test_gas_above_the_limit_and_parts_below_the_least_amount_are_left(world: World) -> None:
    world.fund(1, value=3_300)
    dear = relay(world, max_gas_price=1)
    assert "above the limit of 1 wei" in dear["stopped"]
    assert dear["sent"] == []
    tree = world.trees[1]
    amounts = {payee: 3_267 * weight // tree.total for payee, weight in tree.leaves}
    done = relay(world, min_amount=Wei(100))
    assert done["tooSmall"] == sum(amount < 100 for amount in amounts.values()) > 0
    assert set(claims_of(world)) == {(p, 0) for p in PAYEES if amounts[p] >= 100}


def test_a_price_that_rises_meanwhile_ends_the_run_and_the_next_one_goes_on(world: World) -> None:
    world.fund(1)
    plan, epochs = _plan(world)
    outbox = _outbox(world)
    worker = Relay(world.client, outbox, policy(), lambda _: None)
    prices = iter(["", "", "the gas price is too high"])
    worker.too_expensive = lambda: next(prices)  # type: ignore[method-assign]
    result = worker.run(plan, epochs)
    outbox.close()
    assert (len(result.sent), result.stopped) == (2, "the gas price is too high")
    assert len(relay(world)["sent"]) == 1
    assert sent_pairs(world) == claims_of(world) == Counter((payee, 0) for payee in PAYEES)


def _plan(world: World) -> tuple[Any, BundleProofs]:
    epochs = BundleProofs(world.bundles, world.chain.chain_id, world.client.address_bytes, quiet)
    return plan_relay(world.client, epochs, read_payouts(world.client, quiet), policy(), quiet), epochs


def _outbox(world: World) -> Outbox:
    signer = LocalSigner(world.accounts[STRANGER])
    return Outbox(QuorumChain([world.url]), signer, world.folder / "ledger", SendSettings())


def test_a_payee_that_claims_meanwhile_is_left_out_and_one_that_burns_gas_does_no_harm(world: World) -> None:
    world.fund(1)
    world.chain.rpc("anvil_setCode", f"0x{PAYEES[2][1:].hex()}", "0x5b600056")  # for ever in a circle
    plan, epochs = _plan(world)
    for payee in [*PAYEES[:2], *PAYEES[10:20]]:
        world.client.claim(world.sender, payee, [(0, world.trees[1].proof(payee))])
    outbox = _outbox(world)
    result = Relay(world.client, outbox, policy(), lambda _: None).run(plan, epochs)
    outbox.close()
    assert [sent.paid for sent in result.sent] == [8, 5]
    assert set(claims_of(world).values()) == {1}
    assert len(claims_of(world)) == len(PAYEES)


def test_payouts_of_unknown_roots_are_named_and_the_others_paid(world: World) -> None:
    world.sender.send(world.client.contract.functions.fund(SumTree([(PAYEES[0], 7)]).root, bytes(32)), value=1000)
    world.fund(1)
    done = relay(world)
    assert done["unknownPayouts"] == [0]
    assert {number for _, number in claims_of(world)} == {1}


def test_a_pool_that_hands_out_forged_leaves_is_refused_and_nothing_is_sent(world: World) -> None:
    world.fund(1)
    leaves = bundle_folder(world.bundles, 1) / "leaves.json"
    leaves.write_bytes(canonical_json([[format_payee(PAYEES[0]), str(world.trees[1].total)]]))
    rest = ["--distributor", world.client.address, "--max-gas-price", "100", "--ledger", "ledger", "--yes"]
    with world.api() as pool:
        done = world.run("relay", *rest, "--pool", pool, "--key-file", str(world.key_file()), wanted=2)
    assert "the leaves of epoch 1 make root" in done.stderr.splitlines()[-1]
    assert sent_pairs(world) == Counter()


def test_one_relay_at_a_time_uses_a_ledger(world: World) -> None:
    world.fund(1)
    outbox = _outbox(world)
    with pytest.raises(OutboxError):
        relay(world)
    outbox.close()
    assert len(relay(world)["sent"]) == 3


def test_wrong_options_say_what_would_be_right(world: World) -> None:
    (world.folder / "payees").write_text("0x12\n")
    rest = ["--distributor", world.client.address, "--bundle", "bundles"]
    for arguments, words in (
        (["--max-gas-price", "much"], "must be gwei"),
        (["--max-gas-price", "-1"], "must be gwei"),
        (["--max-gas-price", "9" * 5000], "must be gwei"),
        (["--max-gas-price", "1.0000000001"], "must be gwei"),
        (["--max-gas-price", "1", "--batch", "101"], "1 to 100"),
        (["--max-gas-price", "1", "--payees", "payees"], "payees, line 1: '0x12' is no EVM address"),
        (["--max-gas-price", "1", "--payees", "nowhere"], "nowhere cannot be read"),
        (["--max-gas-price", "1", "--key-file", str(world.key_file()), "--yes"], "--ledger FOLDER is needed"),
    ):
        done = world.run("relay", *arguments, *rest, wanted=2)
        assert words in done.stderr, done.stderr
    with pytest.raises(InputError, match="1 wei or more"):
        policy(max_gas_price=0)


def test_a_relay_that_runs_on_pays_what_comes_later_and_ends_when_it_is_told(world: World) -> None:
    command = [*CLI, "relay", "--rpc", world.url, "--distributor", world.client.address, "--bundle", "bundles"]
    command += ["--max-gas-price", "100", "--key-file", str(world.key_file()), "--ledger", "ledger", "--every", "1"]
    process = subprocess.Popen([*command, "--yes"], cwd=world.folder, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "there is no payout yet\n"
        world.fund(1)
        for line in process.stdout:
            if line.startswith("payout 0: 25 payees"):
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.communicate()
    assert claims_of(world) == Counter((payee, 0) for payee in PAYEES)


@pytest.mark.parametrize("loses_its_ledger", [False, True], ids=["keeps its ledger", "loses its ledger"])
def test_a_relay_that_is_killed_anywhere_pays_everybody_once(tmp_path: Path, loses_its_ledger: bool) -> None:
    dice = random.Random(7 + loses_its_ledger)
    with Anvil(find_project_root()) as anvil:
        world = make_world(anvil.url, tmp_path)
        world.fund(1, times=3)
        world.chain.rpc("anvil_setAutomine", False)
        world.chain.rpc("anvil_setIntervalMining", 1)
        kills = 0
        while not _runs_until(world, lambda: dice.uniform(1.5, 6)):
            kills += 1
            if loses_its_ledger and dice.random() < 0.5:
                shutil.rmtree(world.folder / "ledger", ignore_errors=True)
            assert kills < 40
        assert kills > 1
        assert claims_of(world) == Counter((payee, number) for payee in PAYEES for number in range(3))
        assert sent_pairs(world) == claims_of(world)


def _runs_until(world: World, patience: Callable[[], float]) -> bool:
    """Run a relay and kill it after a while; whether it came to its end."""
    command = [*CLI, "relay", "--rpc", world.url, "--distributor", world.client.address, "--bundle", "bundles"]
    command += ["--max-gas-price", "100", "--batch", "7", "--key-file", str(world.key_file()), "--ledger", "ledger"]
    process = subprocess.Popen([*command, "--yes"], cwd=world.folder, stdout=subprocess.DEVNULL)
    killer = threading.Timer(patience(), process.kill)
    killer.start()
    try:
        status = process.wait(timeout=120)
    finally:
        killer.cancel()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert status in (0, -9), status
    return status == 0
