"""`reward register`, `fund` and `sync`: how a block's reward becomes a payout, by anybody who wants it to; `status`."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pool_oracle.claim_commands import (
    Bundle,
    ConfigFile,
    DistributorAddress,
    From,
    Json,
    KeyFile,
    Keystore,
    NetworkName,
    PasswordFile,
    Pool,
    Rpc,
    Unsigned,
    Yes,
    ask,
    check_address,
    coin_of,
    connect,
    open_wallet,
    tell,
    write_unsigned,
)
from pool_oracle.errors import InputError

if TYPE_CHECKING:
    from pool_oracle.chain.calls import Request
    from pool_oracle.chain.distributor import DistributorClient
    from pool_oracle.claims.proofs import BundleProofs
    from pool_oracle.claims.registering import BlockReward
    from pool_oracle.claims.sending import Wallet
    from pool_oracle.config import Config
    from pool_oracle.work.block import Block

BlockName = Annotated[str, typer.Argument(metavar="BLOCK", help="Its height, its hash, or a file with the raw block.")]
Node = Annotated[str | None, typer.Option("--node", help="A node of the mined network, http://HOST:PORT.")]
CookieFile = Annotated[Path | None, typer.Option(help="The node's cookie file.")]
NodeUser = Annotated[str | None, typer.Option(help="The node's RPC user.")]
NodePasswordFile = Annotated[Path | None, typer.Option(help="The file with the RPC user's password.")]

reward_app = typer.Typer(help="From a block to a payout.", no_args_is_help=True, rich_markup_mode=None)


@reward_app.command("register")
def register(
    block: BlockName,
    *,
    route: Annotated[str | None, typer.Option("--route", help="The flyover route's contract.")] = None,
    p2sh: Annotated[bool, typer.Option("--p2sh", help="The bridge's own deposit address is plain P2SH.")] = False,
    node: Node = None,
    cookie_file: CookieFile = None,
    node_user: NodeUser = None,
    node_password_file: NodePasswordFile = None,
    pool: Pool = None,
    bundle: Bundle = None,
    rpc: Rpc = None,
    config: ConfigFile = None,
    key_file: KeyFile = None,
    keystore: Keystore = None,
    password_file: PasswordFile = None,
    unsigned: Unsigned = None,
    sender: From = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Register a block's reward through the flyover route, from public data alone.

    Shows what the block paid and what it has become; with a key or --unsigned, registers it. A reward that came with
    another amount than the coinbase paid is an alarm: exit code 1.
    """
    from pool_oracle.claims.reading import open_route
    from pool_oracle.claims.registering import FlyoverRegistration, find_reward
    from pool_oracle.work.share import display

    settings = _settings(config)
    rpc = rpc or (settings.rpc_urls[0] if settings else None)
    address = route or (settings.chain.flyover_route if settings else None)
    if not rpc or not address:
        raise InputError("--rpc URL and --route 0x... are needed, or --config FILE that has both")
    nested = settings.chain.nested_deposits if settings else not p2sh
    client = open_route(rpc, check_address(address, "--route"), nested=nested)
    distributor, _ = connect(None, rpc, client.distributor(), None)
    wallet = open_wallet(client.chain, key_file, keystore, password_file, unsigned, sender)
    raw = _read_block(block, node, cookie_file, node_user, node_password_file, settings)
    with _open_epochs(pool, bundle, settings, distributor) as epochs:
        reward = find_reward(raw, epochs)
    registration = FlyoverRegistration(client, reward)
    tell(_reward_text(reward), as_json)
    value: dict[str, Any] = _reward_json(reward)
    done = registration.done()
    if done is None:
        tell(f"it pays {registration.expected} wei to the route, and is not registered yet", as_json)
        value |= {"expected": str(registration.expected), "payout": None}
        registration.require_depth()
        receipt = _act(registration.call(), wallet, unsigned, sender, distributor, yes=yes, as_json=as_json)
        done = registration.done() if receipt else None
    if done is not None:
        registration.check(done)
        tell(
            f"registered: payout {done.payout_id}, {done.amount} wei, as the coinbase paid; {done.transaction}", as_json
        )
        value |= {
            "expected": str(done.amount),
            "payout": done.payout_id,
            "amount": str(done.amount),
            "transaction": done.transaction,
        }
    if as_json:
        typer.echo(json.dumps(value | {"txid": display(reward.proof.txid)}))


@reward_app.command("fund")
def fund(
    block: BlockName,
    *,
    deposit_address: Annotated[
        str | None, typer.Option(help="The address that the block paid; that of --config, if left out.")
    ] = None,
    node: Node = None,
    cookie_file: CookieFile = None,
    node_user: NodeUser = None,
    node_password_file: NodePasswordFile = None,
    pool: Pool = None,
    bundle: Bundle = None,
    rpc: Rpc = None,
    distributor: DistributorAddress = None,
    config: ConfigFile = None,
    network: NetworkName = None,
    key_file: KeyFile = None,
    keystore: Keystore = None,
    password_file: PasswordFile = None,
    unsigned: Unsigned = None,
    sender: From = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also where this root was funded: another block had it.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Bring a block's reward from its deposit address to the distributor, with the block's own root.

    For whoever holds the address, in a distributor of the chain's own coin. Shows what the block owes and what was
    funded with its root; with a key or --unsigned, pays it.
    """
    from pool_oracle.claims.registering import find_deposit, find_reward
    from pool_oracle.payout.addresses import script_of_address

    settings = _settings(config)
    client, chosen = connect(config, rpc, distributor, network)
    address = deposit_address or (settings.chain.deposit_address if settings else "")
    if not address or chosen is None:
        raise InputError("--deposit-address and --network are needed, or --config FILE that has both")
    wallet = open_wallet(client.chain, key_file, keystore, password_file, unsigned, sender)
    raw = _read_block(block, node, cookie_file, node_user, node_password_file, settings)
    with _open_epochs(pool, bundle, settings, client) as epochs:
        reward = find_reward(raw, epochs)
    deposit = find_deposit(client, reward, script_of_address(address, chosen))
    tell(_reward_text(reward), as_json)
    tell(f"it owes {deposit.expected} wei; {deposit.funded} wei were funded with its root so far", as_json)
    value = _reward_json(reward) | {"expected": str(deposit.expected), "funded": str(deposit.funded)}
    if deposit.funded and not again and (wallet is not None or unsigned is not None):
        raise InputError(
            f"{deposit.funded} wei were funded with this root already; --again funds it once more, for another block "
            "with the same root"
        )
    receipt = _act(deposit.call(client), wallet, unsigned, sender, client, yes=yes, as_json=as_json)
    if as_json:
        typer.echo(json.dumps(value | {"transaction": receipt}))


@reward_app.command("sync")
def sync(
    *,
    rpc: Rpc = None,
    distributor: DistributorAddress = None,
    config: ConfigFile = None,
    key_file: KeyFile = None,
    keystore: Keystore = None,
    password_file: PasswordFile = None,
    unsigned: Unsigned = None,
    sender: From = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Make a payout of what has arrived at the distributor: coinbase rewards of a native chain, plain transfers."""
    from pool_oracle.claims.reading import asset_of
    from pool_oracle.claims.registering import unattributed

    client, _ = connect(config, rpc, distributor, None)
    wallet = open_wallet(client.chain, key_file, keystore, password_file, unsigned, sender)
    waiting = unattributed(client)
    tell(f"{asset_of(client).show(waiting)} wait to become a payout of epoch {client.active_epoch().number}", as_json)
    transaction = None
    if waiting and (wallet is not None or unsigned is not None):
        from pool_oracle.claims.sending import call_of

        call = call_of(client.contract, "sync")
        transaction = _act(call, wallet, unsigned, sender, client, yes=yes, as_json=as_json)
        if transaction:
            tell(f"{asset_of(client).show(unattributed(client))} wait now", as_json)
    if as_json:
        typer.echo(json.dumps({"waiting": str(waiting), "transaction": transaction}))


def _settings(config: Path | None) -> Config | None:
    if config is None:
        return None
    from pool_oracle.config import load_config

    return load_config(config)


def _read_block(
    block: str, node: str | None, cookie: Path | None, user: str | None, password: Path | None, settings: Config | None
) -> Block:
    """The block from wherever the options say. Raises InputError, NodeError."""
    from pool_oracle.claims.registering import read_block
    from pool_oracle.node.jsonrpc import Login

    if (user is None) != (password is None):
        raise InputError("--node-user and --node-password-file belong together")
    if node is None and settings is not None and settings.nodes:
        return read_block(block, settings.nodes[0].url, settings.nodes[0].login)
    return read_block(block, node, Login(cookie_file=cookie, user=user, password_file=password))


@contextlib.contextmanager
def _open_epochs(
    pool: str | None, bundle: Path | None, settings: Config | None, distributor: DistributorClient
) -> Iterator[BundleProofs]:
    """The published epochs: bundles in a folder, or manifests from the pool's API."""
    from pool_oracle.claims.proofs import BundleProofs, download_bundles
    from pool_oracle.terminal import progress

    if pool is not None and bundle is not None:
        raise InputError("manifests come from --pool URL or from --bundle FOLDER, not from both")
    chain_id, address = distributor.chain.chain_id, distributor.address_bytes
    folder = bundle or (settings.bundles if settings is not None and pool is None else None)
    if folder is not None:
        yield BundleProofs(folder, chain_id, address, progress)
        return
    if pool is None:
        raise InputError("manifests come from --pool URL or from --bundle FOLDER; give one of them")
    with tempfile.TemporaryDirectory(prefix="pool-oracle-epochs-") as scratch:
        download_bundles(pool, Path(scratch), None, progress)
        yield BundleProofs(Path(scratch), chain_id, address, progress)


def _act(
    call: Request,
    wallet: Wallet | None,
    unsigned: Path | None,
    sender: str | None,
    client: DistributorClient,
    *,
    yes: bool,
    as_json: bool,
) -> str | None:
    """Show the gas; then write the call down, send it, or leave it at that. Returns the transaction's hash if sent."""
    from pool_oracle.claims.sending import estimate_gas, gas_price

    account = wallet.address if wallet is not None else sender
    if call.value and account is None:
        return None  # nobody is there whose money an estimate could try
    gas = estimate_gas(client.chain, call, account)
    tell(f"gas: {gas}, {coin_of(client).show(gas * gas_price(client.chain))}", as_json)
    if unsigned is not None:
        write_unsigned(unsigned, client.chain, [(call, gas)], sender, as_json)
        return None
    if wallet is None:
        return None
    ask(f"Send {call.what} as {wallet.address}?", yes=yes)
    transaction = str(wallet.send(call)["transactionHash"].to_0x_hex())
    tell(f"sent: {transaction}", as_json)
    return transaction


def _reward_text(reward: BlockReward) -> str:
    return f"{reward.name} commits to epoch {reward.epoch.number}, root 0x{reward.epoch.root.hex()}"


def _reward_json(reward: BlockReward) -> dict[str, Any]:
    from pool_oracle.work.share import display

    return {
        "block": display(reward.block.hash),
        "height": reward.proof.height,
        "epoch": reward.epoch.number,
        "root": f"0x{reward.epoch.root.hex()}",
        "manifestHash": f"0x{reward.epoch.manifest_hash.hex()}",
    }


def status(
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")] = Path("pool-oracle.toml"),
    as_json: Json = False,
) -> None:
    """Show where the oracle stands: epochs, transactions, blocks and their rewards, what lags.

    Reads files, chain and API without a lock, while the pool runs or not. Exit code 1 where a reward's amount is not
    what its block paid.
    """
    from pool_oracle.config import load_config
    from pool_oracle.status import gather_status, status_text

    value = gather_status(load_config(config))
    typer.echo(json.dumps(value) if as_json else status_text(value))
    if value["alarms"]:
        raise typer.Exit(1)
