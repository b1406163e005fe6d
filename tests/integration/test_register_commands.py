"""`reward register`, `fund` and `sync`, by a stranger who has nothing but what is public."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from structlog.testing import capture_logs

from pool_oracle.app import PoolApp
from pool_oracle.chain.anvil import Anvil
from pool_oracle.claims.proofs import BundleProofs
from pool_oracle.claims.registering import FlyoverRegistration, find_reward, height_of
from pool_oracle.config import Config
from pool_oracle.demo.scenario import STRANGER, demo_accounts, network_block
from pool_oracle.errors import InputError, JobError, ProofError
from pool_oracle.networks import network_named
from pool_oracle.payout.addresses import encode_segwit
from pool_oracle.payout.commitment import commitment_script
from pool_oracle.payout.payee import format_payee
from pool_oracle.units import WEI_PER_SATOSHI
from pool_oracle.work.block import Block, parse_block
from pool_oracle.work.share import display
from pool_oracle.work.template import assemble_block, make_job
from tests.integration.claim_world import CLI, World, quiet, stranger_payee
from tests.integration.test_oracle import ALICE, BOB, mine, running


@contextlib.contextmanager
def node_of(blocks: dict[int, bytes], *, depth: int = 100) -> Iterator[str]:
    """A Bitcoin node's RPC that knows some blocks, by height."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            by_hash = {display(parse_block(raw).hash): raw for raw in blocks.values()}
            argument = call["params"][0]
            answer: dict[str, Any] = {"id": call["id"], "error": None}
            try:
                if call["method"] == "getblockhash":
                    answer["result"] = display(parse_block(blocks[argument]).hash)
                else:
                    raw = by_hash[argument]
                    answer["result"] = raw.hex() if call["method"] == "getblock" else {"confirmations": depth}
            except KeyError:
                answer = {"id": call["id"], "result": None, "error": {"code": -5, "message": "Block not found"}}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run(folder: Path, *arguments: str, wanted: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*CLI, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False, input=""
    )
    assert done.returncode == wanted, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def stranger_key(folder: Path) -> str:
    path = folder / "stranger.key"
    path.touch(mode=0o600)
    path.write_text(f"0x{bytes(demo_accounts()[STRANGER].key).hex()}")
    return str(path)


async def find_block(app: PoolApp, depth: int) -> bytes:
    """A block of the pool that is so deep; returns its bytes."""
    await mine(app, ALICE, 3)
    await mine(app, BOB, 2)
    assert await app.keeper.close() is not None
    await mine(app, ALICE, 1, block=True)
    (block,) = app.pool.blocks
    await bury(app, block.height + depth - 1)
    return await app.node.block(block.height)


async def bury(app: PoolApp, height: int) -> None:
    while (await app.node.tip()).height < height:
        await app.node.submit(network_block(await app.node.template()))
    await app.header_relay.relay()


def test_a_stranger_registers_a_block_from_public_data_alone_and_only_when_it_is_deep_enough(
    deployed: Config, tmp_path: Path
) -> None:
    folder = tmp_path / "stranger"
    folder.mkdir()
    route = ["--route", deployed.chain.flyover_route, "--rpc", str(deployed.chain.rpc)]
    key = ["--key-file", stranger_key(tmp_path), "--yes"]

    async def work() -> None:
        async with running(deployed) as app:
            raw = await find_block(app, 98)
            (found,) = app.pool.blocks
            (folder / "block.hex").write_text(raw.hex() + "\n")
            (folder / "block.raw").write_bytes(raw)
            bundle = ["--bundle", str(deployed.bundles)]
            api = ["--pool", f"http://127.0.0.1:{app.api_port}"]
            early = await asyncio.to_thread(
                run, folder, "reward", "register", "block.raw", *bundle, *route, *key, wanted=3
            )
            assert "has 98 confirmations at the bridge, which wants 100; try again in 2 blocks" in early.stderr
            await bury(app, found.height + 99)
            shown = await asyncio.to_thread(run, folder, "reward", "register", "block.hex", *api, *route)
            assert "is not registered yet" in shown.stdout
            assert "gas: " in shown.stdout
            assert app.distributor.payouts() == []
            with node_of({found.height: raw}) as node:
                for reference in (str(found.height), display(found.hash)):
                    done = await asyncio.to_thread(
                        run, folder, "reward", "register", reference, "--node", node, *api, *route, *key, "--json"
                    )
                    value = json.loads(done.stdout)
                    assert (value["payout"], value["epoch"], value["height"]) == (0, 1, found.height)
            (payout,) = app.distributor.payouts()
            assert payout.root == app.keeper.epochs[1].root
            assert int(value["amount"]) == found_value(raw)
            # The pool finds what a stranger did.
            (reward,) = await app.rewards.register_due()
            assert reward.registration.payout_id == 0

    asyncio.run(work())


def found_value(raw: bytes) -> int:
    return sum(output.value for output in parse_block(raw).coinbase.outputs) * WEI_PER_SATOSHI


def test_an_unsigned_registration_works_when_it_is_signed_elsewhere(deployed: Config, tmp_path: Path) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            (tmp_path / "block").write_bytes(await find_block(app, 100))
            account = demo_accounts()[STRANGER]
            rest = ["--bundle", str(deployed.bundles), "--route", deployed.chain.flyover_route]
            rest += ["--rpc", str(deployed.chain.rpc), "--unsigned", "tx.json", "--from", str(account.address)]
            await asyncio.to_thread(run, tmp_path, "reward", "register", "block", *rest)
            (transaction,) = json.loads((tmp_path / "tx.json").read_text())
            signed = Account.sign_transaction(transaction | {"gasPrice": 10**10}, account.key)
            sent = app.chain.web3.eth.send_raw_transaction(signed.raw_transaction)
            assert app.chain.web3.eth.wait_for_transaction_receipt(sent)["status"] == 1
            assert len(app.distributor.payouts()) == 1

    asyncio.run(work())


def test_what_is_no_block_of_the_pool_is_refused_and_another_amount_is_an_alarm(
    deployed: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            raw = await find_block(app, 100)
            await app.rewards.register_due()
            epochs = BundleProofs(deployed.bundles, app.chain.chain_id, app.distributor.address_bytes, quiet)
            block = parse_block(raw)
            reward = find_reward(block, epochs)
            registration = FlyoverRegistration(app.route, reward)  # type: ignore[arg-type]
            made = registration.done()
            assert made is not None
            app.rewards.rewards.clear()
            wrong = {reward.proof.txid: replace(made, amount=made.amount - 1)}
            monkeypatch.setattr(app.route, "registrations", lambda: wrong)
            with capture_logs() as logs:
                await app.rewards.register_due()
            (alarm,) = [line for line in logs if line["event"].startswith("ALARM")]
            assert (alarm["paid"], alarm["came"]) == (made.amount, made.amount - 1)
            monkeypatch.undo()
            registration.check(made)
            for amount in (made.amount - 1, made.amount + 1, 0):
                with pytest.raises(ProofError, match=r"ALARM: block .* paid 5000000000000000000.* wei to the route"):
                    registration.check(replace(made, amount=amount))
            theirs = parse_block(await app.node.block(1 if app.pool.blocks[0].height != 1 else 2))
            with pytest.raises(InputError, match="no commitment in its coinbase"):
                find_reward(theirs, epochs)
            with pytest.raises(InputError, match="none of the 2 published epochs"):
                find_reward(with_outputs(block, commitment_script(b"\x01" * 32)), epochs)
            with pytest.raises(InputError, match="or several"):
                both = with_outputs(block, block.coinbase.outputs[-1].script, commitment_script(b"\x01" * 32))
                find_reward(both, epochs)
            poor = find_reward(with_outputs(block, commitment_script(reward.epoch.commitment)), epochs)
            with pytest.raises(InputError, match="pays nothing to the deposit address"):
                _ = FlyoverRegistration(app.route, poor).expected  # type: ignore[arg-type]

    asyncio.run(work())


def with_outputs(block: Block, *scripts: bytes) -> Block:
    """The block with other outputs."""
    output = block.coinbase.outputs[0]
    outputs = tuple(replace(output, value=0, script=script) for script in scripts)
    return replace(block, coinbase=replace(block.coinbase, outputs=outputs))


def test_a_blocks_name_or_bytes_that_are_wrong_are_refused_in_one_line(deployed: Config, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"\x00" * 300)
    rest = ["--route", deployed.chain.flyover_route, "--rpc", str(deployed.chain.rpc), "--bundle", "nowhere"]
    with node_of({}) as node:
        for arguments, code, words in (
            (["5"], 2, "give --node URL, or a file"),
            (["9" * 5000], 2, "File name too long"),
            (["nothing"], 2, "nothing is no height, no hash, and no file"),
            (["garbage"], 2, "the block announces 0 transactions"),
            (["5", "--node", node], 3, "Block not found"),
            (["5", "--node", "http://127.0.0.1:1"], 3, "no connection"),
            (["5", "--node", "127.0.0.1"], 2, "--node must be http://HOST:PORT"),
        ):
            done = run(tmp_path, "reward", "register", *arguments, *rest, wanted=code)
            assert words in done.stderr, done.stderr
            assert done.stderr.count("\n") == 1


def test_a_height_is_read_from_the_coinbase_and_nothing_else(deployed: Config) -> None:
    async def work() -> None:
        async with running(deployed) as app:
            await app.node.submit(network_block(await app.node.template()))
            block = parse_block(await app.node.block(1))
            assert height_of(block) == 1
            (first,) = block.coinbase.inputs
            for height, script in ((17, b"\x01\x11"), (800_000, b"\x03\x00\x35\x0c"), (16, b"\x60")):
                changed = replace(block.coinbase, inputs=(replace(first, script=script + b"\x00"),))
                assert height_of(replace(block, coinbase=changed)) == height
            for script in (b"", b"\x04\x01\x00\x00\x00", b"\x4c\x01\x11"):
                changed = replace(block.coinbase, inputs=(replace(first, script=script),))
                with pytest.raises(JobError, match="BIP-34"):
                    height_of(replace(block, coinbase=changed))

    asyncio.run(work())


@pytest.fixture
def world(anvil: Anvil, tmp_path: Path) -> World:
    made = World(anvil.url, tmp_path)
    made.epoch([(stranger_payee(1), 3), (stranger_payee(2), 1)])
    return made


def test_a_deposits_holder_funds_a_blocks_reward_once(world: World, deployed: Config) -> None:
    async def block() -> bytes:
        async with running(deployed) as app:
            template = await app.node.template()
            job = make_job(
                0,
                template,
                reward_script=bytes.fromhex("0014" + "11" * 20),
                commitment_script=commitment_script(world.commitment(1)),
                commitment=world.commitment(1),
                epoch=1,
                tag=b"/test/",
                extranonce_size=1,
            )
            coinbase = job.stratum.coinbase(b"", b"\x00")
            return assemble_block(bytes(80), coinbase, template)

    raw = asyncio.run(block())
    (world.folder / "block").write_bytes(raw)
    address = encode_segwit(network_named("regtest").hrp, 0, b"\x11" * 20)
    rest = ["--bundle", "bundles", "--distributor", world.client.address, "--network", "regtest"]
    rest += ["--deposit-address", address]
    shown = world.run("reward", "fund", "block", *rest)
    owed = found_value(raw)
    assert f"it owes {owed} wei; 0 wei were funded" in shown.stdout
    key = ["--key-file", str(world.key_file()), "--yes"]
    world.run("reward", "fund", "block", *rest, *key)
    (payout,) = world.client.payouts()
    assert (payout.root, payout.amount) == (world.trees[1].root, owed * 99 // 100)
    again = world.run("reward", "fund", "block", *rest, *key, wanted=2)
    assert f"{owed} wei were funded with this root already" in again.stderr
    other = encode_segwit(network_named("regtest").hrp, 0, b"\x12" * 20)
    wrong = world.run("reward", "fund", "block", *rest[:-1], other, *key, wanted=2)
    assert "pays nothing to the deposit address" in wrong.stderr


def test_sync_makes_a_payout_of_what_has_arrived(world: World) -> None:
    rest = ["--distributor", world.client.address]
    assert "0.00000000 RBTC wait" in world.run("reward", "sync", *rest).stdout
    transfer = {"from": world.sender.address, "to": world.client.address, "value": hex(10**18)}
    world.chain.rpc("eth_sendTransaction", transfer)
    done = world.run("reward", "sync", *rest, "--key-file", str(world.key_file()), "--yes", "--json")
    value = json.loads(done.stdout)
    assert value["waiting"] == str(10**18)
    assert value["transaction"].startswith("0x")
    (payout,) = world.client.payouts()
    assert payout.epoch == 0
    genesis = world.run("claim", format_payee(stranger_payee(0xFFFF)), "--bundle", "bundles", *rest)
    assert "claimable: 0.99000000 RBTC" in genesis.stdout
