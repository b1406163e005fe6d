"""Who plays in the demo, with which settings, and how its contracts are deployed."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from eth_account import Account
from eth_account.signers.local import LocalAccount

from pool_oracle.bitcoin_wallet import BitcoinWallet
from pool_oracle.chain.anvil import TEST_MNEMONIC
from pool_oracle.chain.client import Chain, Sender
from pool_oracle.chain.deploy import DistributorSettings, deploy, load_artifact, next_contract_address, place_dev_bridge
from pool_oracle.chain.flyover import BRIDGE_ADDRESS
from pool_oracle.config import ApiSection, ChainSection, Config, PolicySection, PoolSection, StratumSection
from pool_oracle.epoch.keeper import Identity, genesis_manifest
from pool_oracle.hashes import hash160
from pool_oracle.networks import network_named
from pool_oracle.node.embedded import REGTEST_GENESIS_HASH, solve
from pool_oracle.payout.payee import payee_of_account
from pool_oracle.payout.schemes import SCHEMES, PaidBy
from pool_oracle.units import WEI_PER_COIN, Payee
from pool_oracle.work.scripts import OP_TRUE
from pool_oracle.work.share import pack_header
from pool_oracle.work.template import Template, assemble_block, make_job

HOST = "127.0.0.1"
NETWORK = "regtest"
EMULATED_TARGET = 1 << 236
"""About a million hashes a block."""
SHARE_DIFFICULTY = "65535/68719476736"
"""Target 2^244: about 4,096 hashes a share and 256 shares a block."""
DEMO_SCHEMES = tuple(name for name, scheme in SCHEMES.items() if scheme.paid_by is PaidBy.BLOCK)
"""Those that need no treasury."""
DEFAULT_SCHEME = "pplns"
EPOCH_SECONDS = 3
WINDOW = 2
FEE_BPS = 100
WANTED_BLOCKS = 2
MINING_TIMEOUT_SECONDS = 300
HASH_RATES = (160_000, 80_000, 48_000, 32_000, 16_000)
"""Hashes a second of each miner. The first three are paid to EVM accounts, the others to Bitcoin addresses."""

OPERATOR, FEE_RECIPIENT, STRANGER, GENESIS = 0, 1, 2, 3
"""Places of accounts in anvil's test mnemonic; the miners' begin at FIRST_MINER."""
FIRST_MINER = 10

# Test keys that anybody knows, for a PowPeg of two of three, and two refund addresses that nobody's operator holds.
POWPEG_KEYS = (
    "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
    "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5",
    "02f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9",
)
POWPEG_REDEEM_SCRIPT = b"\x52" + b"".join(b"\x21" + bytes.fromhex(key) for key in POWPEG_KEYS) + b"\x53\xae"
USER_REFUND = b"\x6f" + hash160(b"pool_oracle demo: refund to nobody, user")
PROVIDER_REFUND = b"\x6f" + hash160(b"pool_oracle demo: refund to nobody, provider")

STARTING_BALANCE = 10_000 * WEI_PER_COIN
"""What anvil gives each test account."""


@dataclass(slots=True)
class DemoMiner:
    """A simulated miner: a machine for each of its hash rates (hashes a second).

    `wallet` is its Bitcoin key, `account` its EVM account or the one it wants to be paid to.
    """

    name: str
    hash_rates: tuple[int, ...]
    account: LocalAccount
    wallet: BitcoinWallet | None
    payee: Payee
    address: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)


def demo_accounts(count: int = 20) -> list[LocalAccount]:
    """The accounts that anvil makes and funds."""
    Account.enable_unaudited_hdwallet_features()
    return [Account.from_mnemonic(TEST_MNEMONIC, account_path=f"m/44'/60'/0'/0/{i}") for i in range(count)]


def demo_miners(accounts: list[LocalAccount], scheme: str) -> list[DemoMiner]:
    """Three named by EVM addresses, one by a P2WPKH address, one by a P2SH-P2WPKH address.

    A SOLO pool mines for one: it has all machines.
    """
    network = network_named(NETWORK)
    if scheme == "solo":
        farm = accounts[FIRST_MINER]
        payee = payee_of_account(bytes.fromhex(farm.address[2:]))
        return [DemoMiner("farm", HASH_RATES, farm, None, payee, str(farm.address))]
    miners = []
    for i, rate in enumerate(HASH_RATES):
        account = accounts[FIRST_MINER + i]
        wallet = None
        if i < 3:
            payee, address = payee_of_account(bytes.fromhex(account.address[2:])), str(account.address)
        else:
            wallet = BitcoinWallet(hash160(f"demo miner {i}".encode()).rjust(32, b"\x01"), nested=i == 4)
            payee, address = wallet.payee, wallet.address(network)
        miners.append(DemoMiner(f"miner{i + 1}", (rate,), account, wallet, payee, address))
    return miners


def demo_config(
    folder: Path, accounts: list[LocalAccount], scheme: str, rpc: str, distributor: str, route: str, key_file: Path
) -> Config:
    """The pool's configuration: everything on loopback, ports chosen by the system."""
    policy = PolicySection(
        genesis_payee=str(accounts[GENESIS].address),
        scheme=scheme,
        solo_payee=str(accounts[FIRST_MINER].address) if scheme == "solo" else "",
        window=WINDOW,
        fee_bps=FEE_BPS,
        epoch_seconds=EPOCH_SECONDS,
    )
    return Config(
        pool=PoolSection(
            name="pool_oracle demo",
            network=NETWORK,
            data=str(folder / "pool"),
            emulated_network_target=f"0x{EMULATED_TARGET:064x}",
        ),
        stratum=StratumSection(share_difficulty=SHARE_DIFFICULTY, shares_per_minute=0, host=HOST, port=0),
        policy=policy,
        chain=ChainSection(
            rpc=rpc,
            distributor=distributor,
            flyover_route=route,
            operator_key_file=str(key_file),
            relay_headers=True,
        ),
        api=ApiSection(host=HOST, port=0),
    )


def deploy_demo(
    root: Path, folder: Path, chain: Chain, accounts: list[LocalAccount], scheme: str = DEFAULT_SCHEME
) -> Config:
    """Place the bridge, deploy distributor and route, write the operator's key; returns the pool's configuration."""
    operator = Sender(chain, accounts[OPERATOR])
    place_dev_bridge(chain, operator, root, POWPEG_REDEEM_SCRIPT, nested=True, anchor=REGTEST_GENESIS_HASH, height=0)
    planned = demo_config(folder, accounts, scheme, chain.url, "", "", Path())
    distributor = deploy_distributor(root, operator, str(accounts[FEE_RECIPIENT].address), planned, FEE_BPS)
    route_artifact = load_artifact(root, "FlyoverRoute")
    route = deploy(operator, route_artifact, BRIDGE_ADDRESS, distributor, USER_REFUND, PROVIDER_REFUND)
    key_file = folder / "operator.key"
    key_file.touch(mode=0o600)
    key_file.write_text(f"0x{bytes(accounts[OPERATOR].key).hex()}")
    return demo_config(folder, accounts, scheme, chain.url, distributor, route, key_file)


def deploy_distributor(root: Path, operator: Sender, fee_recipient: str, planned: Config, fee_bps: int) -> str:
    """Deploy a distributor for a pool of this configuration; returns its address.

    Epoch 0's manifest names the distributor, and the distributor is deployed with that manifest's root, so its address
    is computed before it is there.
    """
    chain = operator.chain
    address = next_contract_address(chain, operator.address)
    route = planned.chain.route
    identity = Identity(planned.pool.name, NETWORK, chain.chain_id, address, route, planned.manifest_policy)
    manifest, tree = genesis_manifest(identity, planned.genesis_payee)
    settings = DistributorSettings(
        operator=operator.address,
        fee_recipient=fee_recipient,
        fee_bps=fee_bps,
        fee_cap_bps=2 * FEE_BPS,
        activation_delay=0,
        min_payout=0,
        genesis_root=tree.root,
        genesis_manifest_hash=manifest.hash(),
    )
    return deploy(operator, load_artifact(root, "NativeDistributor"), settings.as_tuple())


def network_block(template: Template) -> bytes:
    """A block of somebody else: same rules, no commitment of ours, anybody may spend it."""
    job = make_job(
        0,
        template,
        reward_script=OP_TRUE,
        commitment_script=b"\x6a",
        commitment=b"",
        epoch=0,
        tag=b"/another miner/",
        extranonce_size=1,
    )
    coinbase = job.stratum.coinbase(b"", b"\x00")
    root = job.stratum.merkle_root(b"", b"\x00")
    header = pack_header(template.version, template.prev_hash, root, template.curtime, template.nbits, 0)
    return assemble_block(solve(header, template.network_target), coinbase, template)
