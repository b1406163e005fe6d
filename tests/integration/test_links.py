"""`link`: a Bitcoin key gets a recipient by one signed message, and by nothing else."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from pool_oracle.bitcoin_wallet import BitcoinWallet
from pool_oracle.chain.anvil import Anvil
from pool_oracle.claims.linking import prepare_link, read_signature
from pool_oracle.demo.scenario import STRANGER
from pool_oracle.errors import InputError, SignatureError
from pool_oracle.networks import network_named
from pool_oracle.payout.payee import format_payee
from tests.integration.claim_world import World, stranger_payee

RECIPIENT = "0x" + "aB" * 20
REGTEST = network_named("regtest")


@pytest.fixture
def world(anvil: Anvil, tmp_path: Path) -> World:
    return World(anvil.url, tmp_path)


@pytest.fixture(params=[False, True], ids=["P2WPKH", "nested"])
def bitcoin(request: pytest.FixtureRequest, bitcoinlib_encoding: Any) -> BitcoinWallet:
    assert bitcoinlib_encoding  # imported without its warnings
    return BitcoinWallet(b"\x07" * 32, nested=request.param)


def recipient(world: World) -> str:
    return world.account(7)


def test_a_user_signs_the_printed_text_and_a_stranger_submits_it(world: World, bitcoin: BitcoinWallet) -> None:
    address = bitcoin.address(REGTEST)
    rest = ["--recipient", recipient(world), "--distributor", world.client.address, "--network", "regtest"]
    shown = world.run("link", address, *rest)
    message = next(line for line in shown.stdout.splitlines() if line.startswith("pool_oracle: pay"))
    assert address in shown.stdout
    assert ("signmessage" in shown.stdout) == (bitcoin.payee[0] == 1)
    value = json.loads(world.run("link", address, *rest, "--json").stdout)
    deadline = str(value["deadline"])
    assert message == world.client.link_message(bitcoin.payee, recipient(world), int(message.rsplit(" ", 1)[1]))
    (world.folder / "signature").write_text(bitcoin.sign_message(value["message"]) + "\n")
    signed = [*rest, "--deadline", deadline, "--signature-file"]
    checked = world.run("link", address, *signed, "signature")
    assert "the signature is right" in checked.stdout
    assert "now it goes to nobody" in checked.stdout
    assert world.client.recipient_of(bitcoin.payee) is None
    done = world.run(
        "link",
        address,
        *signed,
        "-",
        "--key-file",
        str(world.key_file()),
        "--yes",
        "--json",
        text=bitcoin.sign_message(value["message"]),
    )
    assert json.loads(done.stdout)["transaction"].startswith("0x")
    assert world.client.recipient_of(bitcoin.payee) == recipient(world)
    used = world.run("link", address, *signed, "signature", "--key-file", str(world.key_file()), "--yes", wanted=2)
    assert "another text" in used.stderr  # the nonce is another one now


def test_a_payee_without_a_link_is_told_so_and_is_paid_after_it(world: World, bitcoin: BitcoinWallet) -> None:
    world.epoch([(bitcoin.payee, 1)])
    world.fund(1)
    rest = ["--bundle", "bundles", "--distributor", world.client.address, "--key-file", str(world.key_file()), "--yes"]
    done = world.run("claim", format_payee(bitcoin.payee), *rest, wanted=2)
    assert "'pool-oracle link' links its key" in done.stderr
    deadline = world.chain.time() + 1000
    wish = prepare_link(world.client, bitcoin.payee, recipient(world), deadline)
    signed = read_signature(wish, bitcoin.sign_message(wish.message))
    world.client.link_bitcoin_key(world.sender, bitcoin.payee, recipient(world), deadline, signed)
    before = world.chain.balance(recipient(world))
    world.run("claim", format_payee(bitcoin.payee), *rest)
    assert world.chain.balance(recipient(world)) == before + 99 * 10**16


def test_an_unsigned_link_works_when_it_is_signed_elsewhere(world: World, bitcoin: BitcoinWallet) -> None:
    deadline = world.chain.time() + 1000
    wish = prepare_link(world.client, bitcoin.payee, recipient(world), deadline)
    world.run(
        "link",
        format_payee(bitcoin.payee),
        "--recipient",
        recipient(world),
        "--deadline",
        str(deadline),
        "--signature",
        bitcoin.sign_message(wish.message),
        "--unsigned",
        "tx.json",
        "--from",
        world.account(),
        "--distributor",
        world.client.address,
    )
    (transaction,) = json.loads((world.folder / "tx.json").read_text())
    signed = Account.sign_transaction(transaction | {"gasPrice": 10**10}, world.accounts[STRANGER].key)
    sent = world.chain.web3.eth.send_raw_transaction(signed.raw_transaction)
    assert world.chain.web3.eth.wait_for_transaction_receipt(sent)["status"] == 1
    assert world.client.recipient_of(bitcoin.payee) == recipient(world)


def test_signatures_that_do_not_link_are_refused_with_the_reason(world: World, bitcoin: BitcoinWallet) -> None:
    deadline = world.chain.time() + 1000
    wish = prepare_link(world.client, bitcoin.payee, recipient(world), deadline)
    right = bitcoin.sign_message(wish.message)
    raw = base64.b64decode(right)
    other = BitcoinWallet(b"\x08" * 32)

    def changed(header: int) -> str:
        return base64.b64encode(bytes((header,)) + raw[1:]).decode()

    low = (raw[0] - 27) & 3
    for text, words in (
        ("", "65 bytes"),
        ("not base64!", "not base64"),
        (right[:-4], "65 bytes"),
        (changed(26), "BIP-137 has 27 to 42"),
        (changed(43), "BIP-137 has 27 to 42"),
        (changed(33), "sign again"),
        (other.sign_message(wish.message), "another key"),
        (bitcoin.sign_message(wish.message.replace("chain 31337", "chain 1")), "over another text"),
        (bitcoin.sign_message(wish.message + " "), "over another text"),
        (changed(27 + low), "the key is right, but the signature says uncompressed"),
    ):
        with pytest.raises(SignatureError, match=words):
            read_signature(wish, text)
    assert read_signature(wish, f" {right[:40]}\n{right[40:]}\n").header == raw[0]


def test_what_cannot_be_linked_is_refused_before_anything_is_signed(world: World, bitcoin: BitcoinWallet) -> None:
    later = world.chain.time() + 1000
    with pytest.raises(InputError, match="is paid without a link"):
        prepare_link(world.client, stranger_payee(1), recipient(world), later)
    with pytest.raises(InputError, match="is the distributor itself"):
        prepare_link(world.client, bitcoin.payee, world.client.address, later)
    with pytest.raises(InputError, match="has passed"):
        prepare_link(world.client, bitcoin.payee, recipient(world), 1)
    with pytest.raises(InputError, match="must be Unix seconds"):
        prepare_link(world.client, bitcoin.payee, recipient(world), 1 << 300)
    name, rest = format_payee(bitcoin.payee), ["--distributor", world.client.address]
    for arguments, words in (
        (["--recipient", RECIPIENT], "wrong EIP-55 checksum"),
        (["--recipient", "0x" + "00" * 20], "zero address"),
        (["--recipient", recipient(world), "--signature", "AA=="], "--deadline is missing"),
        (["--recipient", recipient(world), "--signature-file", "nowhere", "--deadline", "9"], "nowhere cannot be read"),
    ):
        done = world.run("link", name, *arguments, *rest, wanted=2)
        assert words in done.stderr
