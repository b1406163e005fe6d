"""`pool-oracle check`: tries everything that a pool needs, and says in words what is wrong and what would help."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pool_oracle.chain.client import Chain, Sender, account_from_key_file, host_of
from pool_oracle.chain.distributor import DistributorClient
from pool_oracle.chain.flyover import FlyoverRouteClient
from pool_oracle.config import Config
from pool_oracle.errors import ConfigError, NodeError, PoolOracleError
from pool_oracle.node.opening import NodeSettings, open_core_node
from pool_oracle.payout.commitment import commitment_script
from pool_oracle.pool import COINBASE_TAG, EXTRANONCE1_SIZE, EXTRANONCE2_SIZES
from pool_oracle.units import Wei, format_wei
from pool_oracle.work.firmware import firmware_warning
from pool_oracle.work.scripts import p2wsh
from pool_oracle.work.share import pack_header
from pool_oracle.work.template import Job, Template, assemble_block, make_job

MIN_FREE_BYTES = 1 << 30
MAX_CLOCK_SKEW_SECONDS = 600
TRIAL_EXTRANONCES = EXTRANONCE1_SIZE + EXTRANONCE2_SIZES[-1]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried. `detail` says what was found, or what is wrong and what would be right."""

    name: str
    ok: bool
    detail: str


def run_checks(config: Config) -> list[Check]:
    """Try disk, node, key, chain, contracts and clock; every check runs, whatever the others say."""
    checks: list[tuple[str, Callable[[Config], str]]] = [
        ("disk", _check_disk),
        *_node_checks(config),
        ("key", _check_key),
        ("chain", _check_chain),
        ("contracts", _check_contracts),
        ("clock", _check_clock),
    ]
    results = []
    for name, check in checks:
        try:
            results.append(Check(name, True, check(config)))
        except PoolOracleError as error:
            results.append(Check(name, False, str(error)))
    return results


def _node_checks(config: Config) -> list[tuple[str, Callable[[Config], str]]]:
    """One check a node, so that each has its own line."""
    if not config.node:
        return [("node", _check_embedded)]
    return [(f"node {node.shown_name}", partial(_check_node, settings=node)) for node in config.nodes]


def _check_disk(config: Config) -> str:
    folder = _existing(config.data)
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} cannot be written; give the pool's user the right to")
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise ConfigError(f"{folder} has {free >> 20} MiB free; the share log wants at least {MIN_FREE_BYTES >> 20}")
    return f"{config.data}: {free >> 30} GiB free"


def _check_embedded(config: Config) -> str:
    from pool_oracle.node.embedded import EmbeddedRegtest

    folder = config.data / "node"
    if folder.exists():
        return f"embedded regtest node, chain in {folder}"
    try:
        with tempfile.TemporaryDirectory(prefix="pool-oracle-check-") as scratch:
            EmbeddedRegtest(Path(scratch)).unload()
    except OSError as error:
        raise NodeError(f"Bitcoin Core's kernel library cannot be loaded: {error}") from None
    return "embedded regtest node can start"


def _check_node(config: Config, settings: NodeSettings) -> str:
    """Network, sync, a template, and whether the node would take a block of ours if it had its proof of work."""

    async def ask() -> str:
        node = open_core_node(config.network, settings)
        try:
            found = await node.check()
            template = await node.template()
            job = _trial_job(template)
            blank = bytes(TRIAL_EXTRANONCES)
            root = job.stratum.merkle_root(b"", blank)
            header = pack_header(template.version, template.prev_hash, root, template.curtime, template.nbits, 0)
            coinbase = job.stratum.coinbase(b"", blank)
            await node.propose(assemble_block(header, coinbase, template))
        finally:
            await node.close()
        warning = firmware_warning(len(coinbase))
        if warning is not None:
            raise ConfigError(warning)
        return f"{found}; a block of ours with {1 + len(template.txids)} transactions would be taken"

    return asyncio.run(ask())


def _trial_job(template: Template) -> Job:
    """A job as the pool makes them, with a commitment of zeros, and a reward script as long as the routes'."""
    return make_job(
        0,
        template,
        reward_script=p2wsh(bytes(32)),
        commitment_script=commitment_script(bytes(32)),
        commitment=bytes(32),
        epoch=0,
        tag=COINBASE_TAG,
        extranonce_size=TRIAL_EXTRANONCES,
    )


def _check_key(config: Config) -> str:
    path = config.key_file
    account = account_from_key_file(path)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path} can be read by others; run 'chmod 600 {path}'")
    return f"operator {account.address}"


def _check_chain(config: Config) -> str:
    chain = Chain(config.chain.rpc)
    chain_id = chain.chain_id
    sender = Sender(chain, account_from_key_file(config.key_file))
    balance = chain.balance(sender.address)
    if balance == 0:
        raise ConfigError(f"the operator {sender.address} has no money for gas on chain {chain_id}")
    return f"chain {chain_id} at {host_of(chain.url)}; operator holds {format_wei(Wei(balance))}"


def _check_contracts(config: Config) -> str:
    chain = Chain(config.chain.rpc)
    distributor = DistributorClient(chain, config.chain.distributor)
    operator = account_from_key_file(config.key_file).address
    if distributor.operator() != operator:
        raise ConfigError(f"the distributor's operator is {distributor.operator()}, and the key is that of {operator}")
    if config.chain.route == "flyover":
        route = FlyoverRouteClient(chain, config.chain.flyover_route, nested=config.chain.nested_deposits)
        if route.distributor() != distributor.address:
            raise ConfigError(f"the route funds distributor {route.distributor()}, not {distributor.address}")
    if distributor.fee_bps() != config.policy.fee_bps:
        raise ConfigError(
            f"policy.fee_bps is {config.policy.fee_bps}, and the distributor takes {distributor.fee_bps()}: "
            "the policy must tell miners the truth"
        )
    return f"distributor {distributor.address}, epoch {distributor.active_epoch().number}"


def _check_clock(config: Config) -> str:
    chain = Chain(config.chain.rpc)
    skew = int(time.time()) - chain.time()
    if abs(skew) > MAX_CLOCK_SKEW_SECONDS:
        raise ConfigError(
            f"this clock is {skew} s off the chain's last block; set it by NTP, or the chain stands still"
        )
    return f"{skew} s from the chain's last block"


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
