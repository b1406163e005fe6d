"""Deploy a pool's contracts: `brownie run deploy --network pool-oracle`, set up by deploy.toml (docs/deploy.md).

POOL_ORACLE_DEPLOY names another settings file. What is deployed is written to `deployments/CHAIN-ID.json`, with epoch
0's manifest and the compiler's input beside it; a second run compares all that with the chain and changes nothing.

One source of truth: the code that is deployed is that of build/artifacts, made by scripts/compile.py, whose input hash
is published. brownie's own build differs in the metadata hash (other source paths), so brownie gives the account, the
connection, the sending and the console (`-I`), and its compiler's output is not used.

Exit codes are those of pool-oracle: 0 done, 2 wrong settings, 3 something that is needed failed or is missing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from eth_account import Account
from web3 import Web3
from web3.exceptions import Web3Exception

from pool_oracle.chain.client import Chain, Sender, load_abi
from pool_oracle.chain.deploy import DistributorSettings, place_dev_bridge
from pool_oracle.chain.flyover import BRIDGE_ADDRESS
from pool_oracle.demo.scenario import POWPEG_REDEEM_SCRIPT
from pool_oracle.epoch.keeper import Identity, genesis_manifest
from pool_oracle.errors import ChainError, ConfigError, InputError, PoolOracleError
from pool_oracle.node.embedded import REGTEST_GENESIS_HASH
from pool_oracle.payout.manifest import Manifest
from pool_oracle.units import Wei, format_wei

from .deployment.connection import connect, load_deployer
from .deployment.contracts import (
    Creation,
    creation,
    find_creation,
    has_landed,
    load_build,
    next_place,
    send,
    verify,
    wait_mined,
)
from .deployment.record import Record
from .deployment.settings import DEFAULT_NAME, PATH_VARIABLE, Settings, evm_address, load_settings

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTOR, ROUTE = "distributor", "flyover_route"
EXIT_INPUT, EXIT_FAILED, EXIT_INTERRUPTED = 2, 3, 130


def main() -> None:
    """Deploy what is not deployed yet, and check what is."""
    _guarded(lambda settings: _Deployment(settings).run())


def dev_bridge() -> None:
    """Place the development bridge on a local chain (anvil): `brownie run deploy dev_bridge --network pool-oracle`."""
    _guarded(_place_bridge)


class _Deployment:
    """One run of `main`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.build = load_build(ROOT)
        self.chain = connect(settings)
        self.record = Record(settings.path(settings.output), self.chain.chain_id)
        self._account: Any = None

    def run(self) -> None:
        """Everything, in order; each step that is done already is checked and left alone."""
        self._settle()
        self.record.begin(self.settings.described(), self.build.compiler)
        missing = [name for name in self._wanted() if name not in self.record.contracts]
        if missing:
            self.record.refuse_other_compiler(self.build.compiler)
            self._check_before_sending()
        for name in self._wanted():
            if name in missing:
                self._deploy(name)
            self._verify(name)
        if self.record.data["compiler"] == self.build.compiler:
            self.record.save_compiler_input(self.build.source)
        self._say_what_stands(missing)

    def _wanted(self) -> list[str]:
        return [DISTRIBUTOR, ROUTE] if self.settings.flyover else [DISTRIBUTOR]

    @property
    def account(self) -> Any:
        """The deployer, opened when something has to be sent."""
        if self._account is None:
            self._account = load_deployer(self.settings)
            balance = self.chain.balance(self._account.address)
            if balance == 0:
                raise ChainError(f"the deployer {self._account.address} has no money on chain {self.chain.chain_id}")
            amount = format_wei(Wei(balance), "coins")
            print(f"chain {self.chain.chain_id}: deployer {self._account.address} holds {amount}")
        return self._account

    def _settle(self) -> None:
        """Find out what became of a contract that an interrupted run had planned."""
        for name, entry in list(self.record.contracts.items()):
            if "block" in entry:
                continue
            if has_landed(self.chain, entry):
                self._complete(name, *find_creation(self.chain, entry))
            else:
                self.record.drop(name)

    def _check_before_sending(self) -> None:
        """What the chain must have before the first transaction. Raises ChainError."""
        token = self.settings.distributor.token
        if token is not None and not self.chain.web3.eth.get_code(Web3.to_checksum_address(token)):
            raise ChainError(f"distributor.token: there is no contract at {token} on chain {self.chain.chain_id}")
        if self.settings.flyover is not None and not _powpeg_script(self.chain, self.settings.flyover.bridge):
            raise ChainError(
                f"flyover.bridge: no bridge answers at {self.settings.flyover.bridge} on chain {self.chain.chain_id}; "
                "on a local chain 'brownie run deploy dev_bridge --network pool-oracle' places one"
            )

    def _deploy(self, name: str) -> None:
        """Write down what will be, send it, and write down what is."""
        nonce, address = next_place(self.chain, self.account.address)
        plan = self._creation(name, address)
        self.record.contracts[name] = plan.entry(self.account.address, nonce, address, self.chain.web3.eth.block_number)
        if name == DISTRIBUTOR:
            manifest = self._genesis(address)[0]
            self.record.data["genesis"] = {"manifest_hash": f"0x{manifest.hash().hex()}", "root": manifest.root}
        self.record.save()
        transaction = send(self.chain, self.account, plan, nonce)
        self._complete(name, transaction, wait_mined(self.chain, transaction))
        print(f"{name}: {plan.contract} {address}, block {self.record.contracts[name]['block']}")

    def _complete(self, name: str, transaction: str, block: int) -> None:
        entry = self.record.contracts[name]
        del entry["since_block"]
        entry |= {"transaction": transaction, "block": block}
        self.record.save()

    def _verify(self, name: str) -> None:
        """Hold chain and record against what the settings give."""
        entry = self.record.contracts[name]
        verify(self.chain, self.build, entry, self._creation(name, entry["address"]).code)
        if name == DISTRIBUTOR:
            self.record.save_manifest(self._genesis(entry["address"])[0].to_bytes())

    def _creation(self, name: str, address: str) -> Creation:
        """The contract as it is at `address`, which the distributor's first manifest names."""
        if name == ROUTE and self.settings.flyover is not None:
            bridge = evm_address(self.settings.flyover.bridge)
            distributor = self.record.contracts[DISTRIBUTOR]["address"]
            return creation(self.build, "FlyoverRoute", bridge, distributor, *self.settings.flyover.refunds.values())
        manifest, root = self._genesis(address)
        part = self.settings.distributor
        arguments = DistributorSettings(
            operator=evm_address(part.operator),
            fee_recipient=evm_address(part.fee_recipient),
            fee_bps=self.settings.policy.fee_bps,
            fee_cap_bps=part.fee_cap_bps,
            activation_delay=part.activation_delay,
            min_payout=part.min_payout,
            genesis_root=root,
            genesis_manifest_hash=manifest.hash(),
        ).as_tuple()
        if part.token is not None:
            return creation(self.build, "TokenDistributor", arguments, evm_address(part.token))
        return creation(self.build, "NativeDistributor", arguments)

    def _genesis(self, address: str) -> tuple[Manifest, bytes]:
        """Epoch 0's manifest and root for a distributor at `address`, as the pool will compute them."""
        config = self.settings.pool_config
        identity = Identity(
            pool=config.pool.name,
            network=config.pool.network,
            chain_id=self.chain.chain_id,
            distributor=bytes.fromhex(address[2:]),
            route=self.settings.route,
            policy=config.manifest_policy,
        )
        manifest, tree = genesis_manifest(identity, config.genesis_payee)
        return manifest, tree.root

    def _say_what_stands(self, missing: list[str]) -> None:
        if not missing:
            print(f"nothing to do: {self.record.path} and chain {self.chain.chain_id} agree")
            return
        print(f"written: {self.record.path}; for pool-oracle.toml:")
        for name, entry in self.record.contracts.items():
            print(f'{name} = "{entry["address"]}"')


def _powpeg_script(chain: Chain, bridge: str) -> bytes:
    """The redeem script that the bridge names; nothing where no bridge answers."""
    contract = chain.web3.eth.contract(address=Web3.to_checksum_address(bridge), abi=load_abi("IBridge"))
    try:
        return bytes(contract.functions.getActivePowpegRedeemScript().call())
    except (Web3Exception, ValueError):
        return b""


def _place_bridge(settings: Settings) -> None:
    chain = connect(settings)
    client = str(chain.web3.client_version)
    if "anvil" not in client.lower():
        raise ConfigError(f"the development bridge is for a local chain (anvil), and the node is {client}")
    if settings.flyover is None or settings.flyover.bridge != BRIDGE_ADDRESS:
        raise ConfigError(f"the development bridge stands at {BRIDGE_ADDRESS}; set flyover.bridge to that")
    if _powpeg_script(chain, BRIDGE_ADDRESS):
        print(f"nothing to do: a bridge answers at {BRIDGE_ADDRESS}")
        return
    sender = Sender(chain, Account.from_key(load_deployer(settings).private_key))
    place_dev_bridge(chain, sender, ROOT, POWPEG_REDEEM_SCRIPT, nested=True, anchor=REGTEST_GENESIS_HASH, height=0)
    print(f"development bridge placed at {BRIDGE_ADDRESS}; it knows Bitcoin's regtest from its genesis block on")


def _guarded(work: Callable[[Settings], None]) -> None:
    """Do the work; an error that is not ours to mend becomes one line and an exit code."""
    settings = None
    try:
        settings = load_settings(Path(os.environ.get(PATH_VARIABLE) or ROOT / DEFAULT_NAME))
        work(settings)
    except InputError as error:
        _fail(str(error), EXIT_INPUT, settings)
    except (PoolOracleError, Web3Exception) as error:
        _fail(str(error), EXIT_FAILED, settings)
    except KeyboardInterrupt:
        _fail("interrupted; run again to go on", EXIT_INTERRUPTED, settings)


def _fail(message: str, code: int, settings: Settings | None) -> NoReturn:
    if settings is not None:
        message = message.replace(settings.rpc, settings.chain.rpc)  # what the environment put in may be secret
    print(f"deploy: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
