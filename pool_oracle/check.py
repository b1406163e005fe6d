"""`pool-oracle check`: tries everything that a pool needs, and says in words what is wrong and what would help."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from pool_oracle.chain.client import host_of
from pool_oracle.chain.distributor import DistributorClient
from pool_oracle.chain.flyover import FlyoverRouteClient
from pool_oracle.config import Config
from pool_oracle.epoch.publishing import Publisher, open_publisher
from pool_oracle.errors import ConfigError, NodeError, PoolOracleError
from pool_oracle.node.opening import NodeSettings, open_core_node
from pool_oracle.opening import open_chain, operator_address
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
    """Try disk, nodes, key, chain, contracts, clock and publishers; every check runs, whatever the others say."""
    operator = cache(lambda: operator_address(config))
    checks: list[tuple[str, Callable[[Config], str]]] = [
        ("disk", _check_disk),
        *_node_checks(config),
        ("key", partial(_check_key, operator=operator)),
        ("chain", partial(_check_chain, operator=operator)),
        ("contracts", partial(_check_contracts, operator=operator)),
        ("clock", _check_clock),
        *_publisher_checks(config),
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


def _publisher_checks(config: Config) -> list[tuple[str, Callable[[Config], str]]]:
    publishers = [open_publisher(settings) for settings in config.publishers]
    return [(f"publish {each.name}", partial(_check_publisher, publisher=each)) for each in publishers]


def _check_publisher(_config: Config, publisher: Publisher) -> str:
    async def ask() -> str:
        try:
            return await publisher.probe()
        finally:
            await publisher.close()

    return asyncio.run(ask())


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


def _check_key(config: Config, operator: Callable[[], str]) -> str:
    if config.chain.safe:
        return f"commits are proposed to the owners of Safe {operator()}"
    is_bare = not config.chain.operator_keystore and not config.chain.remote_signer
    return f"operator {operator()}{'; its key lies bare in a file, and a keystore would be safer' if is_bare else ''}"


def _check_chain(config: Config, operator: Callable[[], str]) -> str:
    chain = open_chain(config)
    chain_id = chain.chain_id
    address = operator()
    balance = chain.balance(address)
    hosts = ", ".join(host_of(url) for url in config.rpc_urls)
    if balance == 0 and not config.chain.safe:
        raise ConfigError(f"the operator {address} has no money for gas on chain {chain_id}")
    return f"chain {chain_id} at {hosts}; operator holds {format_wei(Wei(balance))}"


def _check_contracts(config: Config, operator: Callable[[], str]) -> str:
    chain = open_chain(config)
    distributor = DistributorClient(chain, config.chain.distributor)
    if (wanted := distributor.operator()) != operator():
        raise ConfigError(f"the distributor's operator is {wanted}, and the key is that of {operator()}")
    if config.chain.route == "flyover":
        route = FlyoverRouteClient(chain, config.chain.flyover_route, nested=config.chain.nested_deposits)
        if route.distributor() != distributor.address:
            raise ConfigError(f"the route funds distributor {route.distributor()}, not {distributor.address}")
    fee = 0 if config.needs_treasury else config.policy.fee_bps  # a treasury's pool takes its fee off the weights
    if distributor.fee_bps() != fee:
        raise ConfigError(
            f"the distributor takes {distributor.fee_bps()}, and by policy.fee_bps and policy.scheme it should take "
            f"{fee}: the policy must tell miners the truth"
        )
    return f"distributor {distributor.address}, epoch {distributor.active_epoch().number}"


def _check_clock(config: Config) -> str:
    chain = open_chain(config)
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
