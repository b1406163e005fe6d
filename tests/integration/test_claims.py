"""`claim`: everything that is a payee's, nothing that is not proven, and never more gas than it brings unasked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from pool_oracle.chain.anvil import Anvil, find_project_root
from pool_oracle.chain.client import Sender
from pool_oracle.chain.deploy import deploy, load_artifact
from pool_oracle.chain.distributor import DistributorClient, Payout, part_of
from pool_oracle.chain.keys import LocalSigner
from pool_oracle.claims import claiming
from pool_oracle.claims.claiming import plan_claim, send_claims, survey_claims
from pool_oracle.claims.proofs import Answer, BundleProofs, PoolProofs
from pool_oracle.claims.reading import Asset, call_many
from pool_oracle.claims.sending import Wallet
from pool_oracle.config import Config
from pool_oracle.demo.scenario import STRANGER
from pool_oracle.errors import InputError, ManifestError, ProofError, SourceError
from pool_oracle.ledger.bundle import bundle_folder
from pool_oracle.payout.manifest import canonical_json
from pool_oracle.payout.payee import format_payee
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.units import Payee
from tests.integration.claim_world import World, quiet, stranger_payee
from tests.integration.test_oracle import mine, running

ALICE, BOB, CAROL = (stranger_payee(number) for number in (1, 2, 3))


@pytest.fixture
def world(anvil: Anvil, tmp_path: Path) -> World:
    made = World(anvil.url, tmp_path)
    made.epoch([(ALICE, 3), (BOB, 1)])
    return made


def bundles(world: World) -> BundleProofs:
    return BundleProofs(world.bundles, world.chain.chain_id, world.client.address_bytes, quiet)


def wallet(world: World) -> Wallet:
    return Wallet(world.chain, LocalSigner(world.accounts[STRANGER]))


def balance(world: World, payee: bytes) -> int:
    return world.chain.balance(f"0x{payee[1:].hex()}")


def options(world: World) -> list[str]:
    return ["--distributor", world.client.address]


def test_a_table_tells_what_is_claimable_what_is_claimed_and_what_it_costs(world: World) -> None:
    world.fund(1, times=3)
    world.client.claim(world.sender, ALICE, [(1, world.trees[1].proof(ALICE))])
    done = world.run("claim", format_payee(ALICE), "--bundle", "bundles", *options(world))
    assert [line.split()[-1] for line in done.stdout.splitlines() if "RBTC  " in line] == [
        "claimable",
        "claimed",
        "claimable",
    ]
    assert "claimable: 1.48500000 RBTC in 2 of 3 payouts" in done.stdout
    assert "% of it" in done.stdout
    shown = json.loads(world.run("claim", format_payee(ALICE), "--bundle", "bundles", "--json", *options(world)).stdout)
    assert [(row["payout"], row["epochs"], row["state"]) for row in shown["payouts"]] == [
        (0, [1], "claimable"),
        (1, [1], "claimed"),
        (2, [1], "claimable"),
    ]
    assert shown["claimable"] == str(2 * 99 * 10**16 * 3 // 4)
    assert int(shown["plan"]["cost"]) == shown["plan"]["gas"] * int(shown["plan"]["gasPrice"])
    assert shown["transactions"] == []
    assert balance(world, ALICE) == 99 * 10**16 * 3 // 4


def test_a_user_claims_with_a_key_file_and_with_a_keystore_and_a_second_time_there_is_nothing(world: World) -> None:
    world.fund(1, times=2)
    key = str(world.key_file())
    by_key = world.run("claim", format_payee(ALICE), "--bundle", "bundles", "--key-file", key, "--yes", *options(world))
    assert "claimed 1.48500000 RBTC of payouts 0-1: 0x" in by_key.stdout
    assert balance(world, ALICE) == 2 * (99 * 10**16 * 3 // 4)
    again = world.run("claim", format_payee(ALICE), "--bundle", "bundles", "--key-file", key, "--yes", *options(world))
    assert "claimable: 0.00000000 RBTC in 0 of 2 payouts" in again.stdout
    keystore, password = world.folder / "keystore.json", world.folder / "password"
    for path in (keystore, password):
        path.touch(mode=0o600)
    keystore.write_text(json.dumps(Account.encrypt(world.accounts[STRANGER].key, "secret word", iterations=2)))
    password.write_text("secret word\n")
    secrets = ["--keystore", str(keystore), "--password-file", str(password)]
    with world.api() as pool:
        done = world.run("claim", format_payee(BOB), "--pool", pool, *secrets, "--yes", "--json", *options(world))
    (sent,) = json.loads(done.stdout)["transactions"]
    assert sent["payouts"] == [0, 1]
    assert balance(world, BOB) == int(sent["amount"])


def test_more_than_256_payouts_are_claimed_in_as_many_transactions_as_it_takes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.epoch([(stranger_payee(number), number) for number in range(1, 40)])
    world.fund(1, value=10**15, times=130)
    world.fund(2, value=10**15, times=150)
    assert len({tree.root for tree in world.trees}) == 3
    survey = survey_claims(world.client, bundles(world), ALICE, quiet)
    assert len(survey.claimable) == 280
    plan = plan_claim(world.client, survey, wallet(world).address)
    assert [len(batch.parts) for batch in plan.batches][-1] == 24
    assert all(len(batch.parts) <= 256 and len(batch.call.data) // 2 <= 120_000 for batch in plan.batches)
    with monkeypatch.context() as patch:
        patch.setattr(claiming, "MAX_CALL_BYTES", 20_000)
        smaller = plan_claim(world.client, survey, wallet(world).address)
        assert len(smaller.batches) > len(plan.batches)
        assert sorted(p.payout.id for b in smaller.batches for p in b.parts) == list(range(280))
        receipts = send_claims(world.client, smaller, wallet(world), lambda _: None)
    assert sorted(number for receipt in receipts for number in receipt.payouts) == list(range(280))
    assert balance(world, ALICE) == sum(receipt.amount for receipt in receipts) == plan.amount
    assert survey_claims(world.client, bundles(world), ALICE, quiet).claimable == []


def _lies(answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "more weight": answer | {"weight": str(int(answer["weight"]) + 1)},
        "another index": answer | {"index": answer["index"] ^ 1},
        "another tree": answer | {"proof": ["0x" + "11" * 32]},
        "a longer proof": answer | {"proof": answer["proof"] * 3},
        "no proof": {"payout": 0},
        "a list": [],
        "weight of text": answer | {"weight": "much"},
        "half a word": answer | {"proof": ["0x11"]},
        "65 words": answer | {"proof": answer["proof"] * 65},
        "HTML": (200, "text/html", b"<html>welcome</html>"),
        "HTML that is not there": (404, "text/html", b"<html>not found</html>"),
        "an error": (500, "text/plain", b"Internal Server Error"),
        "a problem": (503, "application/problem+json", b'{"detail": "the chain is away"}'),
        "a redirect": (302, "text/plain", b""),
        "too much": (200, "application/json", b'"' + b"x" * 100_000 + b'"'),
        "not UTF-8": (200, "application/json", b"\xff\xfe"),
        "deep": (200, "application/json", b"[" * 60_000),
    }


LIES = {
    "more weight": ProofError,
    "another index": ProofError,
    "another tree": ProofError,
    "a longer proof": ProofError,
} | {
    name: SourceError
    for name in _lies({"weight": "1", "index": 0, "proof": []})
    if name not in ("more weight", "another index", "another tree", "a longer proof")
}


def test_nothing_that_a_lying_pool_says_is_believed(world: World) -> None:
    world.fund(1)
    for name, kind in LIES.items():
        with world.api(lambda answer, name=name: _lies(answer)[name]) as pool:
            with pytest.raises(kind) as refusal:
                survey_claims(world.client, PoolProofs(pool), ALICE, quiet)
            assert type(refusal.value) is kind, name
            assert "\n" not in str(refusal.value), name
    assert balance(world, ALICE) == 0


def test_a_user_of_a_lying_pool_is_told_in_one_line_and_nothing_is_sent(world: World) -> None:
    world.fund(1)
    before = world.chain.balance(world.account())
    rest = ["--key-file", str(world.key_file()), "--yes", *options(world)]
    for lie, code, words in (
        ("more weight", 1, "proof for payout 0 is wrong"),
        ("HTML", 3, "not JSON"),
        ("an error", 3, "status 500"),
    ):
        with world.api(lambda answer, lie=lie: _lies(answer)[lie]) as pool:
            done = world.run("claim", format_payee(ALICE), "--pool", pool, *rest, wanted=code)
        assert words in done.stderr.splitlines()[-1]
    done = world.run("claim", format_payee(ALICE), "--pool", "http://127.0.0.1:1", *rest, wanted=3)
    assert "does not answer" in done.stderr.splitlines()[-1]
    assert world.chain.balance(world.account()) == before


def test_bundles_alone_are_not_believed_either(world: World) -> None:
    world.epoch([(ALICE, 3), (BOB, 1)])  # another epoch with the same root
    world.fund(1)
    assert bundles(world).find(world.client.payout(0), ALICE).epochs == (1, 2)
    forged = canonical_json([[format_payee(ALICE), "4"]])
    (bundle_folder(world.bundles, 1) / "leaves.json").write_bytes(forged)
    assert bundles(world).find(world.client.payout(0), ALICE).proof == world.trees[1].proof(ALICE)
    (bundle_folder(world.bundles, 2) / "leaves.json").write_bytes(forged)
    with pytest.raises(ManifestError, match="the leaves of epoch 1 make root"):
        bundles(world).find(world.client.payout(0), ALICE)
    with pytest.raises(InputError, match="not of 0x1111"):
        BundleProofs(world.bundles, world.chain.chain_id, b"\x11" * 20, quiet)
    done = world.run("claim", format_payee(ALICE), "--bundle", "nowhere", *options(world), wanted=2)
    assert "holds no bundle" in done.stderr


def test_payouts_without_a_part_or_with_a_strangers_root_are_named_and_left(world: World) -> None:
    own_root = SumTree([(CAROL, 7)]).root
    world.sender.send(world.client.contract.functions.fund(own_root, bytes(32)), value=1000)
    world.fund(1)
    done = world.run("claim", format_payee(ALICE), "--bundle", "bundles", *options(world))
    assert "no part of payout 0: its root is not that of a bundle here" in done.stdout
    assert "in 1 of 1 payout" in done.stdout
    with world.api() as pool:
        done = world.run("claim", format_payee(CAROL), "--pool", pool, *options(world))
    assert "has no leaf in this tree" in done.stdout
    assert "claimable: 0.00000000 RBTC in 0 of 0 payouts" in done.stdout


def test_gas_that_costs_more_than_it_brings_is_refused_unless_forced(world: World) -> None:
    world.fund(1, value=1000)
    rest = ["--bundle", "bundles", "--key-file", str(world.key_file()), "--yes", *options(world)]
    done = world.run("claim", format_payee(ALICE), *rest, wanted=2)
    assert "and brings 742 wei" in done.stderr
    assert balance(world, ALICE) == 0
    world.run("claim", format_payee(ALICE), *rest, "--force")
    assert balance(world, ALICE) == 742


def test_without_a_terminal_nothing_is_sent_unless_yes_was_said(world: World) -> None:
    world.fund(1)
    rest = ["--bundle", "bundles", "--key-file", str(world.key_file()), *options(world)]
    done = world.run("claim", format_payee(ALICE), *rest, text="y\n", wanted=2)
    assert "--yes" in done.stderr.splitlines()[-1]
    assert balance(world, ALICE) == 0


def test_unsigned_transactions_work_when_they_are_signed_elsewhere(world: World) -> None:
    world.fund(1, times=3)
    account = world.accounts[STRANGER]
    rest = ["--bundle", "bundles", "--batch", "2", "--unsigned", "tx.json", "--from", world.account()]
    done = world.run("claim", format_payee(ALICE), *rest, *options(world))
    assert "to be signed: 2, in tx.json" in done.stdout
    transactions = json.loads((world.folder / "tx.json").read_text())
    for transaction in transactions:
        assert set(transaction) == {"to", "data", "value", "chainId", "gas", "nonce"}
        signed = Account.sign_transaction(transaction | {"gasPrice": 10**10}, account.key)
        sent = world.chain.web3.eth.send_raw_transaction(signed.raw_transaction)
        assert world.chain.web3.eth.wait_for_transaction_receipt(sent)["status"] == 1
    assert balance(world, ALICE) == 3 * (99 * 10**16 * 3 // 4)
    again = world.run("claim", format_payee(ALICE), *rest, *options(world), wanted=2)
    assert "exists already" in again.stderr


def test_what_somebody_else_claims_meanwhile_is_left_out(world: World) -> None:
    world.fund(1, times=4)
    survey = survey_claims(world.client, bundles(world), ALICE, quiet)
    plan = plan_claim(world.client, survey, None, 3)
    world.client.claim(world.sender, ALICE, [(n, world.trees[1].proof(ALICE)) for n in (1, 3)])
    (receipt,) = send_claims(world.client, plan, wallet(world), lambda _: None)
    assert receipt.payouts == [0, 2]
    assert send_claims(world.client, plan, wallet(world), lambda _: None) == []


def test_a_recipient_that_refuses_is_owed_and_that_is_said(world: World) -> None:
    world.fund(1)
    world.chain.rpc("anvil_setCode", f"0x{ALICE[1:].hex()}", "0x60006000fd")
    done = world.run(
        "claim",
        format_payee(ALICE),
        "--bundle",
        "bundles",
        "--key-file",
        str(world.key_file()),
        "--yes",
        *options(world),
    )
    assert "was refused by the recipient and waits for its withdrawOwed" in done.stdout


def test_a_node_that_takes_one_call_at_a_time_is_asked_one_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fund(1, times=3)
    calls = [world.client.contract.functions.payout(number) for number in range(3)]
    together = call_many(world.chain, calls)
    monkeypatch.setattr(type(world.chain.web3.provider), "make_batch_request", _refuses)
    assert call_many(world.chain, calls) == together


def test_tokens_are_claimed_in_their_own_unit_and_gas_is_not_compared_with_them(world: World) -> None:
    root = find_project_root()
    token = deploy(world.sender, load_artifact(root, "TestToken"))
    settings = (world.sender.address, world.account(1), 0, 0, 0, 0, world.trees[1].root, bytes(32))
    address = deploy(world.sender, load_artifact(root, "TokenDistributor"), settings, token)
    distributor = DistributorClient(world.chain, address)
    coins = world.chain.web3.eth.contract(address=token, abi=load_artifact(root, "TestToken")["abi"])  # type: ignore[call-overload]
    world.sender.send(coins.functions.mint(address, 1_000))
    world.sender.send(distributor.contract.functions.sync())
    source = _Tree(world.trees[1])
    survey = survey_claims(distributor, source, ALICE, quiet)
    assert survey.asset == Asset("TEST", 18, is_coin=False)
    assert survey.asset.show(3 * 10**17) == "0.3 TEST"
    plan = plan_claim(distributor, survey, wallet(world).address)
    assert (plan.amount, plan.share_bps, plan.is_worth_it) == (750, None, True)
    (receipt,) = send_claims(distributor, plan, wallet(world), lambda _: None)
    assert receipt.amount == coins.functions.balanceOf(survey.recipient).call() == 750


class _Tree:
    """A source of proofs that has one tree."""

    def __init__(self, tree: SumTree) -> None:
        self._tree = tree

    def find(self, _payout: Payout, payee: Payee) -> Answer:
        return Answer((1,), self._tree.proof(payee))


def _refuses(*_: Any) -> None:
    raise ValueError("batches are not offered here")


def test_wrong_options_say_what_would_be_right(world: World) -> None:
    name = format_payee(ALICE)
    for arguments, words in (
        (["claim", name, *options(world)], "--pool URL or from --bundle"),
        (["claim", name, "--bundle", "bundles"], "--distributor 0x... are needed"),
        (["claim", name, "--bundle", "bundles", "--distributor", "0x12"], "--distributor: '0x12' is no EVM address"),
        (["claim", name, "--pool", "pool.example", *options(world)], "--pool must be"),
        (["claim", "--bundle", "bundles", *options(world)], "say whose parts"),
        (["claim", name, "--bundle", "bundles", "--payout", "5", *options(world)], "has no payout 5"),
        (["claim", name, "--bundle", "bundles", "--batch", "257", *options(world)], "1 to 256"),
        (["claim", name, "--bundle", "bundles", "--keystore", "x", *options(world)], "belong together"),
        (["claim", name, "--bundle", "bundles", "--from", "me", *options(world)], "--from must be an EVM address"),
        (["claim", name, "--bundle", "bundles", "--from", world.account(), *options(world)], "give --unsigned FILE"),
    ):
        if "--batch" in arguments:
            world.fund(1)
        done = world.run(*arguments, wanted=2)
        assert words in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    other = deploy(world.sender, load_artifact(find_project_root(), "TestToken"))
    for address, words in ((other, "is no distributor"), ("0x" + "11" * 20, "there is no contract")):
        for command in (["claim", name, "--bundle", "bundles"], ["reward", "sync"]):
            assert words in world.run(*command, "--distributor", address, wanted=3).stderr
    wrong = world.run("reward", "register", "5", "--bundle", "bundles", "--route", world.client.address, wanted=3)
    assert "is no flyover route" in wrong.stderr
    exposed = world.key_file()
    exposed.chmod(0o644)
    done = world.run("claim", name, "--bundle", "bundles", "--key-file", str(exposed), *options(world), wanted=3)
    assert "chmod 600" in done.stderr


def test_a_miner_claims_from_a_running_pools_api(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            await mine(app, ALICE, 3)
            await mine(app, BOB, 1)
            epoch = await app.keeper.close()
            assert epoch is not None
            funded = app.distributor.contract.functions.fund(epoch.root, epoch.manifest_hash)
            await asyncio.to_thread(app.operator.send, funded, value=10**18)
            source = PoolProofs(f"http://127.0.0.1:{app.api_port}")
            survey = await asyncio.to_thread(survey_claims, app.distributor, source, ALICE, quiet)
            (part,) = survey.claimable
            assert (part.epochs, part.amount) == ((1,), part_of(part.payout, part.proof.weight))
            nobody = await asyncio.to_thread(survey_claims, app.distributor, source, CAROL, quiet)
            assert nobody.without[0][1].endswith("has no leaf in this tree")
            source.close()

    asyncio.run(work())


def test_a_sender_of_the_pool_and_a_wallet_count_nonces_alike(world: World) -> None:
    world.fund(1, times=2)
    sender = Sender(world.chain, world.accounts[STRANGER])
    world.client.claim(sender, ALICE, [(0, world.trees[1].proof(ALICE))])
    survey = survey_claims(world.client, bundles(world), ALICE, quiet)
    plan = plan_claim(world.client, survey, sender.address)
    assert len(send_claims(world.client, plan, wallet(world), lambda _: None)) == 1
    assert world.chain.web3.eth.get_transaction_count(world.account()) == 2  # type: ignore[arg-type]
