"""The state of the oracle in one view: epochs from close to finality, transactions, blocks and rewards, what lags.

It reads files, chain and the pool's API, each by itself: what does not answer is a problem in the view and hides
nothing else. It takes no lock, so it may look while the pool runs, and when it does not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
from web3.exceptions import BadFunctionCallOutput, Web3Exception

from pool_oracle.chain.client import Chain
from pool_oracle.chain.distributor import DistributorClient
from pool_oracle.chain.events import PayoutEvent
from pool_oracle.chain.flyover import FlyoverRouteClient
from pool_oracle.chain.intents import Intents
from pool_oracle.chain.journal import JOURNAL_NAME, Entry
from pool_oracle.claims.matching import MinedBlock, Standing, coinbase_value, match_registrations, match_roots
from pool_oracle.claims.reading import coin_of_chain
from pool_oracle.config import Config
from pool_oracle.errors import InputError, PoolOracleError
from pool_oracle.hashes import sha256, sha256d
from pool_oracle.ledger.bundle import MANIFEST_FILE, bundle_folders, read_manifest
from pool_oracle.ledger.glance import glance, newest_segments
from pool_oracle.logbook import BlockState
from pool_oracle.work.records import KIND_BLOCK, KIND_BLOCK_STATE, KIND_CLOSE
from pool_oracle.work.share import display

API_SECONDS = 5
SHOWN_BLOCKS = 20
LOOKED_AT_BYTES = 1 << 30
"""How much of the share log, from its end, is looked through for blocks: about sixteen million shares."""

Value = dict[str, Any]


def gather_status(config: Config) -> Value:
    """Everything, as JSON can say it. Big integers are decimal strings."""
    problems: list[str] = []

    def part(look: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return look()
        except (PoolOracleError, Web3Exception, OSError) as error:
            problems.append(" ".join(str(error).split())[:300])
            return otherwise

    now = int(time.time())
    status: Value = {"pool": config.pool.name, "network": config.pool.network, "time": now}
    status["running"] = part(lambda: _ask_pool(config), None)
    status["olderSegments"] = part(lambda: newest_segments(config.shares, LOOKED_AT_BYTES)[1], 0)
    status["closed"] = part(lambda: _closed(config), None)
    status["published"] = part(lambda: _published(config), None)
    chain = Chain(config.rpc_urls[0])
    client = part(lambda: DistributorClient(chain, config.chain.distributor), None)
    status |= {"committed": None, "finalized": None, "transactions": None, "wallet": None, "chain": None}
    status |= {"blocks": [], "unattributed": None, "payouts": None, "alarms": []}
    if client is not None:
        status["committed"] = part(lambda: _epoch_at(config, client, "latest"), None)
        status["finalized"] = part(lambda: _finalized(config, client), None)
        status["chain"] = part(lambda: _chain(client), None)
        operator = part(client.operator, None)
        if operator is not None:
            status["wallet"] = part(lambda: {"address": operator, "balance": str(chain.balance(operator))}, None)
            status["transactions"] = part(lambda: _transactions(config, chain, operator), None)
        status["unattributed"] = part(lambda: str(chain.balance(client.address) - client.total_accounted()), None)
        payouts = part(lambda: client.events().all()[0], [])
        status["payouts"] = len(payouts)
        standings = part(lambda: _standings(config, chain, payouts), [])
        status["blocks"] = [_block(standing) for standing in reversed(standings)]
        status["alarms"] = [f"block {display(s.block.hash)}: {s.alarm}" for s in standings if s.alarm]
    status["lag"] = _lag(status)
    status["problems"] = problems
    return status


# The parts


def _ask_pool(config: Config) -> Value | None:
    """What a running pool says of itself; None where none answers."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.api.host, config.api.host)  # noqa: S104 - not bound here
    url = f"http://{host}:{config.api.port}/api/v1"
    try:
        answer = httpx.get(f"{url}/pool", timeout=API_SECONDS, trust_env=False)
        value = answer.raise_for_status().json()
        index = httpx.get(f"{url}/index", timeout=API_SECONDS, trust_env=False)
        behind = index.json().get("behindShares") if index.is_success else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError):
        return None
    if not isinstance(value, dict) or value.get("name") != config.pool.name:
        raise InputError(f"what answers on {host}:{config.api.port} is not this pool's API")
    told = {name: value.get(name) for name in ("uptimeSeconds", "height", "jobEpoch", "accepted", "refused")}
    return told | {"indexBehindShares": behind}


def _closed(config: Config) -> Value | None:
    """The last close of the share log."""
    for segment, records in _by_segment(config, (KIND_CLOSE,)):
        payload = records[-1]
        return {
            "epoch": int(payload["epoch"]),
            "closingShare": int(payload["closingShare"]),
            "time": int(payload["time"]),
            "segment": segment,
        }
    return None


def _by_segment(config: Config, kinds: tuple[int, ...]) -> list[tuple[str, list[Value]]]:
    """Payloads by segment, newest segment first; up to the first segment that has any."""
    found: list[Value] = []
    name = ""
    for path, record in glance(newest_segments(config.shares, LOOKED_AT_BYTES)[0], kinds):
        if found and path.name != name:
            break
        name = path.name
        found.append(record.payload)
    return [(name, found)] if found else []


def _published(config: Config) -> Value | None:
    """The newest bundle."""
    folders = bundle_folders(config.bundles)
    if not folders:
        return None
    manifest, digest = read_manifest(folders[-1])
    return {"epoch": manifest.epoch, "manifestHash": f"0x{digest.hex()}", "root": manifest.root}


def _epoch_at(config: Config, client: DistributorClient, block: int | str) -> Value | None:
    """The epoch that the contract had last, at a block; `epoch` is the pool's own number of it.

    None where the contract is younger than the block.
    """
    functions = client.contract.functions
    try:
        root, manifest_hash, number, _ = functions.pendingEpoch().call(block_identifier=block)  # type: ignore[arg-type]
        if not any(root):
            root, manifest_hash, number, _ = functions.activeEpoch().call(block_identifier=block)  # type: ignore[arg-type]
    except BadFunctionCallOutput:
        return None
    return {
        "epoch": _number_of(config.bundles, manifest_hash),
        "commit": int(number),
        "manifestHash": f"0x{manifest_hash.hex()}",
    }


def _finalized(config: Config, client: DistributorClient) -> Value | None:
    """The epoch that no reorganisation takes back: by the chain's finality, else by `chain.final_depth`."""
    eth = client.chain.web3.eth
    try:
        block = int(eth.get_block("finalized")["number"])
        by = "the chain's finality"
    except (Web3Exception, ValueError):
        block = max(0, int(eth.block_number) - config.chain.final_depth)
        by = f"{config.chain.final_depth} blocks"
    epoch = _epoch_at(config, client, block)
    return None if epoch is None else epoch | {"by": by}


def _number_of(bundles: Path, manifest_hash: bytes) -> int | None:
    """The published epoch whose manifest has this hash."""
    for folder in reversed(bundle_folders(bundles)):
        if sha256((folder / MANIFEST_FILE).read_bytes()) == manifest_hash:
            return int(folder.name.rpartition("-")[2])
    return None


def _chain(client: DistributorClient) -> Value:
    block = client.chain.web3.eth.get_block("latest")
    return {"chainId": client.chain.chain_id, "block": int(block["number"]), "time": int(block["timestamp"])}


def _transactions(config: Config, chain: Chain, operator: str) -> Value:
    """What the operator has sent and is not mined: by the chain's count, and by the pool's own journal."""
    count = chain.web3.eth.get_transaction_count
    address = chain.web3.to_checksum_address(operator)
    return {
        "nonce": int(count(address)),
        "pending": max(0, int(count(address, "pending")) - int(count(address))),
        "outbox": _outbox(config.outbox / JOURNAL_NAME),
    }


def _outbox(path: Path) -> list[Value]:
    """Intents of the journal that were begun and are not mined. It may be growing just now."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    entries: list[Any] = []
    for line in lines:
        try:
            entries.append(msgspec.convert(json.loads(line)["entry"], type=Entry))
        except (ValueError, KeyError, TypeError, msgspec.ValidationError):
            break  # the line that is being written
    return [
        {
            "intent": intent.key,
            "what": intent.request.what,
            "attempts": [{"nonce": attempt.nonce, "transaction": attempt.hash} for attempt in intent.attempts],
        }
        for intent in Intents(entries[1:])
        if intent.mined is None
    ]


def _standings(config: Config, chain: Chain, payouts: list[PayoutEvent]) -> list[Standing]:
    """Where each block's reward stands, oldest block first."""
    blocks = _blocks(config)
    if config.chain.route != FlyoverRouteClient.name:
        return match_roots(blocks, payouts)
    route = FlyoverRouteClient(chain, config.chain.flyover_route, nested=config.chain.nested_deposits)
    return match_registrations(blocks, route.registrations(), payouts, route.bridge_height())


def _blocks(config: Config) -> list[MinedBlock]:
    """The blocks of the newest segments, oldest first, with what is known of them."""
    segments, _ = newest_segments(config.shares, LOOKED_AT_BYTES)
    records = [record for _, record in glance(reversed(segments), (KIND_BLOCK, KIND_BLOCK_STATE))]
    states: dict[str, str] = {}
    for record in records:
        if record.kind == KIND_BLOCK_STATE:
            states[str(record.payload["block"])] = str(record.payload["state"])
    dead = (BlockState.REJECTED.value, BlockState.ORPHANED.value)
    roots = {int(folder.name.rpartition("-")[2]): folder for folder in bundle_folders(config.bundles)}
    blocks = []
    for record in records:
        if record.kind != KIND_BLOCK:
            continue
        payload = record.payload
        coinbase = bytes.fromhex(str(payload["coinbase"]))
        epoch = int(payload["epoch"])
        manifest = read_manifest(roots[epoch])[0] if epoch in roots else None
        blocks.append(
            MinedBlock(
                hash=bytes.fromhex(str(payload["block"]))[::-1],
                txid=sha256d(coinbase),
                height=int(payload["height"]),
                epoch=epoch,
                root=None if manifest is None else bytes.fromhex(manifest.root[2:]),
                expected=coinbase_value(coinbase),
                is_alive=states.get(str(payload["block"]), "") not in dead,
            )
        )
    return sorted(blocks, key=lambda block: block.height)


def _block(standing: Standing) -> Value:
    block = standing.block
    return {
        "height": block.height,
        "hash": display(block.hash),
        "epoch": block.epoch,
        "paid": str(block.expected),
        "reward": standing.reward,
        "payouts": list(standing.payouts),
        "alarm": standing.alarm or None,
    }


def _lag(status: Value) -> Value:
    """Epochs and seconds that one step is behind the one before; None where a step is not known."""

    def behind(first: str, second: str) -> int | None:
        before, after = (status[name]["epoch"] if status[name] else None for name in (first, second))
        return None if before is None or after is None else int(before) - int(after)

    def age(name: str) -> int | None:
        return max(0, status["time"] - status[name]["time"]) if status[name] else None

    return {
        "unpublished": behind("closed", "published"),
        "uncommitted": behind("published", "committed"),
        "unfinalized": behind("committed", "finalized"),
        "closeSeconds": age("closed"),
        "chainSeconds": age("chain"),
    }


# For people


def status_text(status: Value) -> str:
    """The view as lines."""
    running, lag = status["running"], status["lag"]
    lines = [f"pool         {status['pool']}, {status['network']}"]
    if running is None:
        lines.append("process      no pool answers on its API's port")
    else:
        lines.append(
            f"process      runs for {running['uptimeSeconds']} s; jobs at height {running['height']} carry epoch "
            f"{running['jobEpoch']}; {running['accepted']} shares accepted, {running['refused']} refused"
        )
        if running["indexBehindShares"]:
            lines.append(f"index        {running['indexBehindShares']} shares behind the log")
    for name in ("closed", "published", "committed", "finalized"):
        lines.append(f"{name:12} {_epoch_text(status[name])}")
    waits = {"unpublished": "closed, not published", "uncommitted": "published, not committed"}
    waits["unfinalized"] = "committed, not final"
    late = ", ".join(f"{lag[name]} {words}" for name, words in waits.items() if lag[name])
    lines.append(f"lag          {late or 'no epoch waits'}; {_age(lag['closeSeconds'])} since the last close")
    lines += _chain_lines(status)
    lines += _block_lines(status["blocks"])
    if status["olderSegments"]:
        lines.append(f"             blocks of {status['olderSegments']} older segments of the log were not looked for")
    lines += [f"ALARM        {alarm}" for alarm in status["alarms"]]
    lines += [f"problem      {problem}" for problem in status["problems"]]
    return "\n".join(lines)


def _epoch_text(epoch: Value | None) -> str:
    if epoch is None:
        return "none, or not known"
    name = "one that is not published here" if epoch["epoch"] is None else f"epoch {epoch['epoch']}"
    return f"{name}, manifest {epoch['manifestHash']}" if "manifestHash" in epoch else name


def _chain_lines(status: Value) -> list[str]:
    chain, wallet, sent = status["chain"], status["wallet"], status["transactions"]
    lines = []
    if chain is not None:
        age = _age(status["lag"]["chainSeconds"])
        lines.append(f"chain        {chain['chainId']}, block {chain['block']}, {age} old")
    if wallet is not None:
        coin = coin_of_chain(chain["chainId"] if chain else 0)
        lines.append(f"wallet       {wallet['address']}: {coin.show(int(wallet['balance']))}")
    if sent is not None:
        names = "; ".join(
            f"{intent['what']} ({', '.join(attempt['transaction'] for attempt in intent['attempts']) or 'not signed'})"
            for intent in sent["outbox"]
        )
        lines.append(f"transactions {sent['pending']} pending{': ' if names else ''}{names}")
    if status["payouts"] is not None:
        lines.append(f"payouts      {status['payouts']}; {status['unattributed']} wei have arrived and are none yet")
    return lines


def _block_lines(blocks: list[Value]) -> list[str]:
    lines = [f"blocks       {len(blocks)}"]
    for block in blocks[:SHOWN_BLOCKS]:
        lines.append(
            f"             {block['height']:>9} {block['hash'][:24]}... epoch {block['epoch']}, {block['paid']} wei: "
            f"{block['reward']}{' ALARM' if block['alarm'] else ''}"
        )
    if len(blocks) > SHOWN_BLOCKS:
        lines.append(f"             and {len(blocks) - SHOWN_BLOCKS} older ones; --json has them all")
    return lines


def _age(seconds: int | None) -> str:
    return "not known" if seconds is None else f"{seconds} s"
