"""The whole pool by its configuration on Litecoin: two real nodes, the deposit route, stratum, commits, the auditor."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from pool_oracle.app import PoolApp
from pool_oracle.audit.bundles import BundleAudit
from pool_oracle.chain.anvil import Anvil, find_project_root
from pool_oracle.chain.client import Chain, Sender
from pool_oracle.chain.deploy import DistributorSettings, deploy, load_artifact, next_contract_address
from pool_oracle.check import run_checks
from pool_oracle.config import Config, load_config
from pool_oracle.demo.scenario import FEE_RECIPIENT, OPERATOR, demo_accounts
from pool_oracle.epoch.keeper import Identity, genesis_manifest
from pool_oracle.hashes import scrypt_pow
from pool_oracle.logbook import BlockState
from pool_oracle.payout.addresses import encode_segwit
from pool_oracle.payout.commitment import find_commitment
from pool_oracle.work.block import parse_block
from pool_oracle.work.share import StratumJob, hash_to_int, pack_header
from tests.integration.litecoin import NO_MWEB, LitecoinNetwork

ADDRESS = encode_segwit("rltc", 0, b"\x21" * 20)
DEPOSIT = encode_segwit("rltc", 0, b"\x22" * 20)


@pytest.fixture(scope="module")
def litecoin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LitecoinNetwork]:
    with LitecoinNetwork(tmp_path_factory.mktemp("litecoin"), 2, NO_MWEB, "-disablewallet") as network:
        yield network


@pytest.fixture
def configured(litecoin: LitecoinNetwork, anvil: Anvil, tmp_path: Path) -> Config:
    """A pool's configuration file as an operator would write it, with the contract that it names."""
    nodes = "".join(f'[[node]]\nurl = "{node.url}"\ncookie_file = "{node.cookie_file}"\n' for node in litecoin.nodes)
    chain, account = Chain(anvil.url), demo_accounts()[OPERATOR]
    operator = Sender(chain, account)
    key_file = tmp_path / "operator.key"
    key_file.touch(mode=0o600)
    key_file.write_text(f"0x{bytes(account.key).hex()}")
    address = next_contract_address(chain, operator.address)
    path = tmp_path / "pool-oracle.toml"
    path.write_text(f"""
[pool]
name = "litecoin pool"
network = "litecoin-regtest"
data = "{tmp_path}/data"
[stratum]
share_difficulty = "0.00001"
shares_per_minute = 0
host = "127.0.0.1"
port = 0
[policy]
genesis_payee = "{ADDRESS}"
epoch_seconds = 100000
[chain]
rpc = "{anvil.url}"
distributor = "0x{address.hex()}"
route = "deposit"
deposit_address = "{DEPOSIT}"
operator_key_file = "{key_file}"
[api]
port = 0
{nodes}
""")
    config = load_config(path)
    identity = Identity(
        config.pool.name, config.pool.network, chain.chain_id, address, "deposit", config.manifest_policy
    )
    manifest, tree = genesis_manifest(identity, config.genesis_payee)
    settings = DistributorSettings(
        operator=operator.address,
        fee_recipient=str(demo_accounts()[FEE_RECIPIENT].address),
        fee_bps=0,
        fee_cap_bps=100,
        activation_delay=0,
        min_payout=0,
        genesis_root=tree.root,
        genesis_manifest_hash=manifest.hash(),
    )
    deploy(operator, load_artifact(find_project_root(), "NativeDistributor"), settings.as_tuple())
    return config


async def solve_one(port: int) -> dict[str, Any]:
    """Be a miner until a share that is also a block (half of all hashes are, on regtest) is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    requests = (("mining.subscribe", ["test"]), ("mining.authorize", [f"{ADDRESS}.rig", "x"]))
    for number, (method, params) in enumerate(requests):
        writer.write(json.dumps({"id": number, "method": method, "params": params}).encode() + b"\n")
    extranonce1, job = "", None
    while job is None:
        message = json.loads(await reader.readline())
        if message.get("id") == 0:
            extranonce1 = message["result"][1]
        elif message.get("method") == "mining.notify":
            job = message["params"]
    names = ("prevhash", "coinb1", "coinb2", "merkleBranch", "version", "nbits")
    stratum = StratumJob.from_wire(dict(zip(names, job[1:7], strict=True)))
    root = stratum.merkle_root(bytes.fromhex(extranonce1), bytes(8))
    target = (0xFFFF << 224) * 100_000
    nonce = 0
    while True:
        header = pack_header(stratum.version, stratum.prev_hash, root, int(job[7], 16), stratum.nbits, nonce)
        if hash_to_int(scrypt_pow(header)) <= min(target, 0x7FFFFF << 232):
            break
        nonce += 1
    share = [f"{ADDRESS}.rig", job[0], "00" * 8, job[7], f"{nonce:08x}"]
    writer.write(json.dumps({"id": 9, "method": "mining.submit", "params": share}).encode() + b"\n")
    while True:
        message: dict[str, Any] = json.loads(await reader.readline())
        if message.get("id") == 9:
            writer.close()
            return message


def test_every_check_passes_and_each_node_says_it_would_take_a_block_of_ours(configured: Config) -> None:
    checks = run_checks(configured)
    assert [check.name for check in checks if not check.ok] == []
    nodes = [check for check in checks if check.name.startswith("node ")]
    assert len(nodes) == 2
    assert all("a block of ours with 1 transactions would be taken" in check.detail for check in nodes)


def test_a_node_of_another_network_fails_its_check_and_no_other(configured: Config) -> None:
    wrong = msgspec.structs.replace(configured, pool=msgspec.structs.replace(configured.pool, network="litecoin-test"))
    failed = {check.name: check.detail for check in run_checks(wrong) if check.name.startswith("node ")}
    assert len(failed) == 2
    assert all("the pool mines litecoin-test" in detail for detail in failed.values())


@pytest.mark.parametrize("processes", [0, 2])
def test_a_share_over_stratum_becomes_a_block_on_both_nodes_and_is_paid_by_the_deposit(
    configured: Config, litecoin: LitecoinNetwork, processes: int
) -> None:
    config = msgspec.structs.replace(configured, stratum=msgspec.structs.replace(configured.stratum, workers=processes))

    async def work() -> None:
        app = PoolApp(config)
        await app.start()
        try:
            answer = await solve_one(app.stratum_port)
            assert answer["result"] is True, answer
            async with asyncio.timeout(60), httpx.AsyncClient(base_url=f"http://127.0.0.1:{app.api_port}") as client:
                while app.pool.blocks[-1].state is not BlockState.BEST:
                    await asyncio.sleep(0.05)
                (row,) = (await client.get("/api/v1/blocks")).json()
                assert (row["state"], row["depth"], row["worker"]) == ("best", 1, "rig")
            block = app.pool.blocks[-1]
            await asyncio.to_thread(litecoin.sync)
            for node in litecoin.nodes:
                assert node.tip == block.hash
            raw = parse_block(await app.node.block(block.height))
            assert raw.coinbase.outputs[0].script == config.deposit_script
            commitment = find_commitment([output.script for output in raw.coinbase.outputs])
            assert commitment == (2, app.keeper.epochs[0].commitment)
            epoch = await app.keeper.close()
            assert epoch is not None
            report = await asyncio.to_thread(BundleAudit(config.data / "bundles").run)
            assert (report.passed, report.shares, report.epochs[-1].epoch) == (True, 1, 1), report.findings
        finally:
            await app.stop()

    asyncio.run(work())
