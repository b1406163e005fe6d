"""Several nodes of one chain: who is asked, who is left aside, and what only a majority is believed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pool_oracle.chain import endpoint, rpc
from pool_oracle.chain.anvil import Anvil, find_project_root, free_port
from pool_oracle.chain.client import host_of
from pool_oracle.chain.quorum import QuorumChain
from pool_oracle.errors import ChainError, ChainRefused, ChainUnreachable, ConfigError, NonceTooLow
from tests.integration.chain_relay import ANY, ChainRelay, Rule, fails, hangs, lags, refuses, says, times, utters
from tests.integration.outbox_rig import OutboxRig, close

OTHER_HASH = f"0x{'ab' * 32}"
PROVIDER_KEY = "/v3/0123456789abcdef"

FAULTS: dict[str, tuple[Rule, str]] = {
    "too many requests": (fails(429), "too many requests (HTTP 429)"),
    "too many requests, in JSON": (refuses(-32005, "limit exceeded"), "too many requests (HTTP 200)"),
    "bad gateway": (fails(502), "HTTP 502"),
    "unavailable": (fails(503), "HTTP 503"),
    "silence": (hangs(3), "no answer within 1 s"),
    "a web page": (utters(b"<html>It works!</html>"), "the reply is no JSON-RPC answer (HTTP 200)"),
    "nothing": (utters(b""), "the reply is no JSON-RPC answer"),
    "half of a JSON text": (utters(b'{"jsonrpc": "2.0", "resul'), "the reply is no JSON-RPC answer"),
    "a list": (utters(b"[]"), "the reply is no JSON-RPC answer"),
    "JSON nested 100,000 deep": (utters(b'{"result":' * 100_000), "the reply is no JSON-RPC answer"),
    "forbidden": (fails(403), "the reply is no JSON-RPC answer (HTTP 403)"),
    "a redirect": (fails(302), "the reply is no JSON-RPC answer (HTTP 302)"),
}


@pytest.fixture
def rig(anvil: Anvil, tmp_path: Path) -> OutboxRig:
    return OutboxRig(anvil.url, tmp_path)


@pytest.fixture
def relays(anvil: Anvil) -> Iterator[list[ChainRelay]]:
    """Three nodes of the chain."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ChainRelay(anvil.url)) for _ in range(3)]


def urls(relays: list[ChainRelay]) -> list[str]:
    return [relay.url for relay in relays]


def chain_over(*nodes: ChainRelay, **settings: Any) -> QuorumChain:
    return QuorumChain([node.url for node in nodes], timeout=1, **settings)


# Fail-over


@pytest.mark.parametrize("name", FAULTS)
def test_a_node_that_fails_is_left_aside_and_the_next_one_does_its_work(
    rig: OutboxRig, relays: list[ChainRelay], name: str
) -> None:
    rule, problem = FAULTS[name]
    bad, good, _ = relays
    sender = rig.open(bad.url + PROVIDER_KEY, good.url)
    rig.commit(sender, 1)
    bad.rules[ANY] = rule
    with capture_logs() as logs:
        rig.commit(sender, 2)
    close(sender)
    rig.expect(2)
    (told,) = [entry for entry in logs if entry["event"] == "chain node fails"]
    assert told["node"] == bad.url
    assert problem in told["problem"]
    assert PROVIDER_KEY not in str(logs)


def test_a_node_where_nobody_listens_is_passed_over(rig: OutboxRig) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    sender = rig.open(nowhere, rig.url)
    rig.commit(sender, 1)
    close(sender)
    rig.expect(1)


@pytest.mark.parametrize("name", ["too many requests", "bad gateway", "silence", "a web page"])
def test_the_only_node_may_fail_for_a_while(rig: OutboxRig, relays: list[ChainRelay], name: str) -> None:
    """In every step of a commit."""
    rule, _ = FAULTS[name]
    relay = relays[0]
    sender = rig.open(relay.url)
    for number, method in enumerate(
        ("eth_call", "eth_getTransactionCount", "eth_sendRawTransaction", "eth_getTransactionReceipt"), 1
    ):
        relay.rules[method] = times(2, rule)
        rig.commit(sender, number)
        relay.rules.clear()
    close(sender)
    rig.expect(4)


def test_when_all_nodes_fail_each_is_named_with_its_reason_and_work_goes_on_later(
    rig: OutboxRig, relays: list[ChainRelay]
) -> None:
    first, second, _ = relays
    sender = rig.open(first.url + PROVIDER_KEY, second.url, patience_seconds=3)
    first.rules[ANY], second.rules[ANY] = fails(429), fails(502)
    with pytest.raises(ChainError) as refusal:
        rig.commit(sender, 1)
    text = str(refusal.value)
    assert f"{first.url}: too many requests (HTTP 429); {second.url}: HTTP 502" in text or "is reachable" in text
    assert PROVIDER_KEY not in text
    first.rules.clear()
    rig.commit(sender, 1)
    close(sender)
    rig.expect(1)


def test_a_node_that_came_back_is_preferred_again(relays: list[ChainRelay], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "SURVEY_SECONDS", 0.1)
    first, second, _ = relays
    chain = chain_over(first, second)
    first.rules[ANY] = fails(502)
    chain.ask("eth_gasPrice")
    assert second.asked("eth_gasPrice") == 1
    first.rules.clear()
    with capture_logs() as logs:
        time.sleep(endpoint.ASIDE_SECONDS[0] + 0.1)
        chain.ask("eth_gasPrice")
    assert first.asked("eth_gasPrice") == 1
    assert "chain node answers again" in [entry["event"] for entry in logs]


def test_an_error_of_the_chain_is_an_answer_and_asks_no_other_node(rig: OutboxRig, relays: list[ChainRelay]) -> None:
    chain = chain_over(*relays[:2])
    with pytest.raises(ChainRefused, match="Method not found"):
        chain.ask("eth_nonsense")
    assert relays[1].asked("eth_nonsense") == 0
    sender = rig.open(*urls(relays[:2]))
    rig.commit(sender, 1)
    (raw,) = relays[0].calls[-1:] and [
        c["params"][0] for c in relays[0].calls if c["method"] == "eth_sendRawTransaction"
    ]
    with pytest.raises(NonceTooLow):
        chain.broadcast(bytes.fromhex(raw[2:]))
    close(sender)


def test_no_url_and_one_url_twice_are_refused() -> None:
    for wrong in ([], ["http://127.0.0.1:1", "http://127.0.0.1:1"]):
        with pytest.raises(ConfigError, match="at least one chain node is needed, each of them once"):
            QuorumChain(wrong)


# Wrong chains and old heads


def test_a_node_on_another_chain_is_never_used(rig: OutboxRig, relays: list[ChainRelay]) -> None:
    with Anvil(find_project_root(), chain_id=31338) as other, ChainRelay(other.url) as stray:
        relays[0].rules["eth_chainId"] = hangs(0.3)  # the first in order tells the chain, not the fastest
        with capture_logs() as logs:
            sender = rig.open(relays[0].url, stray.url)
            rig.commit(sender, 1)
            close(sender)
        rig.expect(1)
        assert {call["method"] for call in stray.calls} == {"eth_chainId"}
        assert {"node": stray.url, "chain": 31338, "wanted": 31337} in [
            {name: entry[name] for name in ("node", "chain", "wanted")}
            for entry in logs
            if entry["event"] == "chain node is on another chain"
        ]
        with pytest.raises(ChainUnreachable, match=f"{stray.url} is on chain 31338, not 31337"):
            QuorumChain([stray.url], chain_id=31337).head()


def test_a_node_that_comes_back_on_another_chain_is_found_out(relays: list[ChainRelay]) -> None:
    first, second, _ = relays
    chain = chain_over(first, second)
    chain.ask("eth_gasPrice")
    first.rules[ANY] = fails(502)
    chain.ask("eth_gasPrice")
    first.rules = {"eth_chainId": says("0x1")}
    time.sleep(endpoint.ASIDE_SECONDS[0] + 0.1)
    count = first.asked("eth_gasPrice")
    chain.ask("eth_gasPrice")
    assert first.asked("eth_gasPrice") == count


def test_a_node_that_is_20_blocks_behind_is_left_aside(rig: OutboxRig, relays: list[ChainRelay]) -> None:
    rig.mine(30)
    behind, good, _ = relays
    behind.rules[ANY] = lags(20)
    with capture_logs() as logs:
        sender = rig.open(behind.url, good.url)
        rig.commit(sender, 1)
        rig.commit(sender, 2)
        close(sender)
    rig.expect(2)
    assert behind.asked("eth_call") == 0
    (told,) = [entry for entry in logs if entry["event"] == "chain node lags and is left aside"]
    assert (told["node"], told["best"] - told["head"]) == (behind.url, 20)


def test_a_node_two_blocks_behind_is_good_enough(rig: OutboxRig, relays: list[ChainRelay]) -> None:
    rig.mine(30)
    relays[0].rules[ANY] = lags(2)
    chain_over(*relays).ask("eth_gasPrice")
    assert relays[0].asked("eth_gasPrice") == 1


# Majorities


def higher(call: dict[str, Any], forward: Callable[[Any], Any]) -> dict[str, Any]:
    """A head 100 blocks above the true one."""
    if call["method"] == "eth_blockNumber":
        return {"result": hex(int(forward(call), 16) + 100)}
    if call["method"] == "eth_getBlockByNumber" and call["params"][0] == "latest":
        block = forward(call)
        return {"result": block | {"number": hex(int(block["number"], 16) + 100), "hash": OTHER_HASH}}
    return {"result": forward(call)}


def forked(call: dict[str, Any], forward: Callable[[Any], Any]) -> dict[str, Any]:
    """Another block at each height from 5 on."""
    result = forward(call)
    if call["method"] == "eth_getBlockByNumber" and result is not None and int(result["number"], 16) >= 5:
        result |= {"hash": OTHER_HASH}
    return {"result": result}


def test_a_head_counts_only_when_a_majority_has_it(rig: OutboxRig, relays: list[ChainRelay]) -> None:
    rig.mine(6)
    true = chain_over(relays[0]).head()
    assert not true.is_majority
    for rule in (higher, forked, lags(3), fails(502)):
        for liar in relays:
            liar.rules[ANY] = rule
            head = chain_over(*relays).head()
            assert (head.number, head.hash, head.is_majority) == (true.number, true.hash, True)
            liar.rules.clear()


def test_a_liar_with_a_high_head_does_not_make_the_others_laggards(rig: OutboxRig, relays: list[ChainRelay]) -> None:
    relays[2].rules[ANY] = higher
    chain = chain_over(*relays)
    chain.ask("eth_gasPrice")
    assert relays[0].asked("eth_gasPrice") == 1


def test_the_newest_common_block_is_the_head_where_nodes_disagree(rig: OutboxRig, relays: list[ChainRelay]) -> None:
    rig.mine(8)
    relays[0].rules[ANY] = forked
    relays[1].rules[ANY] = lags(2)
    head = chain_over(*relays).head()
    assert head.number == int(rig.chain.ask("eth_blockNumber"), 16) - 2
    relays[2].rules["eth_getBlockByNumber"] = fails(502)
    assert chain_over(*relays).head().number == 4


def test_without_a_majority_there_is_no_head(relays: list[ChainRelay]) -> None:
    relays[0].rules[ANY] = relays[1].rules[ANY] = fails(502)
    with pytest.raises(ChainUnreachable, match=r"no majority of chain nodes has the same head \(1 of 3 answer\)"):
        chain_over(*relays).head()


def test_one_liar_of_three_about_nonces_is_outvoted(rig: OutboxRig, relays: list[ChainRelay]) -> None:
    true = rig.nonce()
    relays[0].rules["eth_getTransactionCount"] = says(hex(true + 3))
    sender = rig.open(*urls(relays))
    rig.commit(sender, 1)
    rig.commit(sender, 2)
    close(sender)
    rig.expect(2)
    assert rig.nonce() == true + 2


def test_of_two_nodes_that_differ_the_one_that_fits_the_journal_is_believed(
    rig: OutboxRig, relays: list[ChainRelay]
) -> None:
    sender = rig.open(*urls(relays[:2]), patience_seconds=2)
    rig.commit(sender, 1)
    true = rig.nonce()
    relays[0].rules["eth_getTransactionCount"] = says(hex(true + 3))
    rig.commit(sender, 2)
    close(sender)
    rig.expect(2)
    assert rig.nonce() == true + 1
    with pytest.raises(ChainUnreachable, match=rf"do not agree on the nonce of .*: \[{true + 1}, {true + 3}\]"):
        chain_over(*relays[:2]).nonce(sender.address, None)


def test_a_receipt_in_a_block_that_the_majority_has_not_is_not_believed(
    rig: OutboxRig, relays: list[ChainRelay]
) -> None:
    rig.hold()
    liar = relays[0]
    receipt = {"blockNumber": "0x1", "blockHash": OTHER_HASH, "status": "0x1", "logs": []}
    liar.rules["eth_getTransactionReceipt"] = lambda call, _: {
        "result": receipt | {"transactionHash": call["params"][0]}
    }
    sender = rig.open(*urls(relays), patience_seconds=1)
    with pytest.raises(ChainError, match="not mined yet"):
        rig.commit(sender, 1)
    rig.mine()
    assert rig.commit(sender, 1)["blockHash"].to_0x_hex() != OTHER_HASH
    close(sender)
    rig.expect(1)


def test_a_node_that_swallows_transactions_does_not_keep_them_from_the_others(
    rig: OutboxRig, relays: list[ChainRelay]
) -> None:
    relays[0].rules["eth_sendRawTransaction"] = says(OTHER_HASH)
    sender = rig.open(*urls(relays))
    rig.commit(sender, 1)
    close(sender)
    rig.expect(1)


def test_what_is_not_checked_is_said_once(relays: list[ChainRelay]) -> None:
    for count, expected in ((1, 1), (2, 1), (3, 0)):
        with capture_logs() as logs:
            chain = chain_over(*relays[:count])
            chain.head()
            chain.ask("eth_gasPrice")
        told = [entry for entry in logs if entry["event"].startswith("too few chain nodes for a majority")]
        assert len(told) == expected
        for entry in told:
            assert entry["nodes"] == [host_of(url) for url in urls(relays[:count])]
