"""Several nodes of one EVM chain as one: preference, fail-over, and what only a majority is believed.

A node that fails is left aside for a while; so is one that lags, and one that is on another chain. With three nodes or
more, a head, a block's hash and an account's nonce count only when a majority of all says the same. Messages and log
lines name hosts, never whole URLs: those may hold a provider's key.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import requests
import stamina
import structlog
from hexbytes import HexBytes
from web3 import Web3
from web3.providers.base import JSONBaseProvider
from web3.types import RPCEndpoint, RPCError, RPCResponse, TxReceipt

from pool_oracle.chain.client import Chain, host_of
from pool_oracle.chain.refusals import refusal
from pool_oracle.errors import AlreadyKnown, ChainError, ChainUnreachable, ConfigError, NonceTooLow

TIMEOUT_SECONDS = 10
MAX_REPLY_BYTES = 64 << 20
SURVEY_SECONDS = 5
"""How long what was found about heads and chain ids is relied on."""
MAX_LAG_BLOCKS = 3
"""A node that is further behind the best is left aside."""
ASIDE_SECONDS = (1, 5, 15, 60)
"""For how long a node is left aside after its first, second, ... failure in a row."""
MAJORITY_NEEDS = 3
ROUNDS = 3
"""How often all nodes are tried before a call is given up."""
FORK_DEPTH = 16
"""How far below the heads a block that a majority has is looked for."""

_BUSY = (-32005, 429)
"""JSON-RPC codes by which a node says that it has too much to do (EIP-1474: limit exceeded)."""

_HASH = re.compile("0x[0-9a-fA-F]{64}")

log = structlog.get_logger("rpc")

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Head:
    """A block that is believed to be the newest. `is_majority` says whether more than one node was asked for that."""

    number: int
    hash: str
    is_majority: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt, compared by what nodes have to agree on. Hashes are hex in lower case."""

    transaction: str
    block: int
    block_hash: str
    succeeded: bool
    logs: tuple[tuple[str, ...], ...]
    """Of each its address, data and topics."""
    raw: dict[str, Any] = field(compare=False)
    """As a node told it."""

    def for_web3(self) -> TxReceipt:
        """As web3 gives receipts."""
        return Web3(_Given(self.raw)).eth.get_transaction_receipt(HexBytes(self.transaction))


class _Given(JSONBaseProvider):
    """Answers whatever is asked with one result."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self._result = result

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:  # noqa: ARG002 - as web3 calls it
        return RPCResponse(jsonrpc="2.0", id=1, result=self._result)


class _Failed(Exception):
    """A node did not answer a call, or not by JSON-RPC."""


class Endpoint:
    """One node, and what is known of it."""

    def __init__(self, url: str, timeout: float) -> None:
        self.host = host_of(url)
        self.head: int | None = None
        self.is_lagging = False
        self.wrong_chain: int | None = None
        self.is_checked = False
        self._url = url
        self._timeout = timeout
        self._session = requests.Session()
        self._failures = 0
        self._aside_until = 0.0

    @property
    def is_aside(self) -> bool:
        """Whether it failed a moment ago."""
        return time.monotonic() < self._aside_until

    def ask(self, method: str, params: Any) -> RPCResponse:
        """The node's answer, be it a result or an error. Raises _Failed, and then leaves the node aside."""
        try:
            answer = self._post(method, params)
        except _Failed as failure:
            self._leave_aside(str(failure))
            raise
        if self._failures:
            log.info("chain node answers again", node=self.host)
        self._failures = 0
        self._aside_until = 0.0
        return answer

    def result(self, method: str, *params: Any) -> Any:
        """A call's result. Raises _Failed also where the node answers with an error."""
        answer = self.ask(method, list(params))
        if "error" in answer:
            raise _Failed(str(refusal(method, answer["error"])))
        return answer["result"]

    def _leave_aside(self, reason: str) -> None:
        if not self._failures:
            log.warning("chain node fails", node=self.host, problem=reason)
        self._aside_until = time.monotonic() + ASIDE_SECONDS[min(self._failures, len(ASIDE_SECONDS) - 1)]
        self._failures += 1
        self.is_checked = False  # it may come back as another one

    def _post(self, method: str, params: Any) -> RPCResponse:
        request = msgspec.json.encode(
            {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params or [])}, enc_hook=_encode
        )
        try:
            with self._session.post(
                self._url,
                data=request,
                headers={"Content-Type": "application/json"},
                timeout=self._timeout,
                stream=True,
                allow_redirects=False,
            ) as reply:
                status, body = reply.status_code, self._body(reply)
        except requests.Timeout:
            raise _Failed(f"no answer within {self._timeout:g} s") from None
        except requests.ConnectionError:
            raise _Failed("no connection; is it running, and is the URL right?") from None
        except requests.RequestException as error:
            raise _Failed(f"{type(error).__name__}") from None
        return _read_answer(status, body)

    def _body(self, reply: requests.Response) -> bytes:
        """The whole reply, within the time and the size that a reply may have."""
        body = bytearray()
        deadline = time.monotonic() + self._timeout
        for piece in reply.iter_content(1 << 16):
            body += piece
            if len(body) > MAX_REPLY_BYTES:
                raise _Failed(f"the reply is longer than {MAX_REPLY_BYTES >> 20} MiB")
            if time.monotonic() > deadline:
                raise _Failed(f"no whole answer within {self._timeout:g} s")
        return bytes(body)


def _read_answer(status: int, body: bytes) -> RPCResponse:
    """A JSON-RPC answer, which may come with any HTTP status. Raises _Failed for what is none."""
    try:
        answer: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        answer = None
    told = answer.get("error") if isinstance(answer, dict) else None
    if status == 429 or (isinstance(told, dict) and told.get("code") in _BUSY):
        raise _Failed(f"too many requests (HTTP {status})")
    if status >= 500:
        raise _Failed(f"HTTP {status}")
    if told is not None:
        return RPCResponse(jsonrpc="2.0", id=1, error=_told(told))
    if not isinstance(answer, dict) or "result" not in answer:
        raise _Failed(f"the reply is no JSON-RPC answer (HTTP {status})")
    return RPCResponse(jsonrpc="2.0", id=1, result=answer["result"])


def _told(error: Any) -> RPCError:
    """An error as web3 wants it: with a number and a text, whatever the node has sent."""
    fields = error if isinstance(error, dict) else {"message": error}
    code = fields.get("code")
    told = RPCError(code=code if isinstance(code, int) else -32603, message=str(fields.get("message") or "no reason"))
    if "data" in fields:
        told["data"] = fields["data"]
    return told


def _encode(value: Any) -> Any:
    """web3 hands bytes over as they are."""
    if isinstance(value, bytes | bytearray):
        return f"0x{bytes(value).hex()}"
    raise NotImplementedError(f"{type(value).__name__} in a JSON-RPC call")


class Endpoints(JSONBaseProvider):
    """The nodes as a provider of web3: a call goes to the first that is fit for it."""

    def __init__(self, urls: Sequence[str], *, chain_id: int | None, timeout: float) -> None:
        """Does not connect yet. Raises ConfigError without URLs, or with the same twice."""
        super().__init__()
        if not urls or len(set(urls)) != len(urls):
            raise ConfigError("at least one chain node is needed, each of them once")
        self.all = [Endpoint(url, timeout) for url in urls]
        self.chain_id = chain_id
        self._surveyed: float | None = None
        self._lock = threading.Lock()
        self._has_told = False

    @property
    def majority(self) -> int:
        """How many nodes have to agree; 1 where there are too few for a majority."""
        return len(self.all) // 2 + 1 if len(self.all) >= MAJORITY_NEEDS else 1

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """The first fit node's answer. Raises ChainUnreachable when all fail, several times over."""
        for attempt in stamina.retry_context(
            on=ChainUnreachable, attempts=ROUNDS, timeout=None, wait_initial=0.1, wait_max=1.0, wait_jitter=0.1
        ):
            with attempt:
                return self._request(method, params)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _request(self, method: str, params: Any) -> RPCResponse:
        problems = []
        for endpoint in self.usable():
            try:
                return endpoint.ask(method, params)
            except _Failed as failure:
                problems.append(f"{endpoint.host}: {failure}")
        raise ChainUnreachable(f"{method}: no chain node answers ({'; '.join(problems) or self._why_none()})")

    def usable(self) -> list[Endpoint]:
        """The nodes that are fit for a call, in order of preference; where none is, those that failed a moment ago."""
        self.survey()
        sound = [endpoint for endpoint in self.all if not endpoint.is_lagging]
        for endpoint in sound:
            if not endpoint.is_checked and not endpoint.is_aside and endpoint.wrong_chain is None:
                self._check(endpoint)
        fit = [endpoint for endpoint in sound if endpoint.is_checked and not endpoint.is_aside]
        return fit or [endpoint for endpoint in sound if self._check(endpoint)]

    def _why_none(self) -> str:
        wrong = [
            f"{e.host} is on chain {e.wrong_chain}, not {self.chain_id}" for e in self.all if e.wrong_chain is not None
        ]
        return "; ".join(wrong) or f"none of {', '.join(e.host for e in self.all)} is reachable"

    def survey(self) -> None:
        """Look at every node's chain id and head, where that was not done a moment ago."""
        with self._lock:
            now = time.monotonic()
            if self._surveyed is not None and now - self._surveyed < SURVEY_SECONDS:
                return
            self._surveyed = now
            self._tell_once()
            candidates = [endpoint for endpoint in self.all if not endpoint.is_aside]
            if len(self.all) == 1:
                for endpoint in candidates:
                    self._check(endpoint)
                return
            self.each(candidates, self._look)
            self._compare()

    def _look(self, endpoint: Endpoint) -> None:
        endpoint.head = None
        if self._check(endpoint):
            endpoint.head = int(endpoint.result("eth_blockNumber"), 16)

    def _compare(self) -> None:
        """Find those that lag. What a majority has is the measure; where there is none, the best."""
        heads = sorted((e.head for e in self.all if e.head is not None), reverse=True)
        if not heads:
            return
        best = heads[min(self.majority, len(heads)) - 1]
        for endpoint in self.all:
            lags = endpoint.head is not None and endpoint.head < best - MAX_LAG_BLOCKS
            if lags and not endpoint.is_lagging:
                log.warning("chain node lags and is left aside", node=endpoint.host, head=endpoint.head, best=best)
            endpoint.is_lagging = lags

    def _check(self, endpoint: Endpoint) -> bool:
        """Whether a node is on the right chain: the one that is wanted, else the first node's that answers."""
        try:
            found = int(endpoint.result("eth_chainId"), 16)
        except (_Failed, ValueError, TypeError):
            endpoint.is_checked = False
            return False
        if self.chain_id is None:
            self.chain_id = found
        endpoint.is_checked = found == self.chain_id
        if not endpoint.is_checked and endpoint.wrong_chain != found:
            log.error("chain node is on another chain", node=endpoint.host, chain=found, wanted=self.chain_id)
        endpoint.wrong_chain = None if endpoint.is_checked else found
        return endpoint.is_checked

    def _tell_once(self) -> None:
        if not self._has_told and len(self.all) < MAJORITY_NEEDS:
            log.warning(
                "too few chain nodes for a majority: heads, receipts and nonces are believed as one node tells them",
                nodes=[endpoint.host for endpoint in self.all],
                needed=MAJORITY_NEEDS,
            )
        self._has_told = True

    def each(self, endpoints: Sequence[Endpoint], ask: Callable[[Endpoint], Any]) -> list[Any]:
        """What the nodes that answer say, asked all at once."""

        def one(endpoint: Endpoint) -> tuple[Any, ...]:
            try:
                return (ask(endpoint),)
            except (_Failed, ChainError, ValueError, TypeError, KeyError):
                return ()

        if len(endpoints) < 2:
            answers = [one(endpoint) for endpoint in endpoints]
        else:
            with ThreadPoolExecutor(len(endpoints)) as pool:
                answers = list(pool.map(one, endpoints))
        return [answer[0] for answer in answers if answer]


class QuorumChain(Chain):
    """A chain behind several nodes: a Chain for those who read, and what a sender of transactions has to know."""

    def __init__(self, urls: Sequence[str], *, chain_id: int | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        """`urls` in order of preference; without `chain_id` the first node's that answers is right."""
        super().__init__(urls[0] if urls else "", timeout=timeout)
        self._nodes = Endpoints(urls, chain_id=chain_id, timeout=timeout)
        self.web3 = Web3(self._nodes)

    def ask(self, method: str, *params: Any) -> Any:
        """Any JSON-RPC call. Raises the kind of ChainRefused that the node means, TransactionReverted, ChainError."""
        answer = self.web3.provider.make_request(RPCEndpoint(method), list(params))
        if "error" in answer:
            raise refusal(method, answer["error"])
        return answer["result"]

    def ask_number(self, method: str, *params: Any) -> int:
        """A JSON-RPC call whose result is a quantity. Raises like `ask`."""
        answer = self.ask(method, *params)
        try:
            return int(answer, 16)
        except (TypeError, ValueError):
            raise ChainError(f"{method}: the node answers {str(answer)[:40]!r}, which is no number") from None

    def head(self) -> Head:
        """The newest block, or the newest that a majority has. Raises ChainUnreachable where there is no such."""
        needed = self._nodes.majority
        if needed == 1:
            block = self.ask("eth_getBlockByNumber", "latest", False)
            return Head(_number(block, "number"), _hash(block), False)
        blocks = self._nodes.each(self._sound(), lambda e: e.result("eth_getBlockByNumber", "latest", False))
        heads = sorted((_number(block, "number") for block in blocks), reverse=True)
        if len(heads) >= needed:
            top = heads[needed - 1]
            for number in range(top, max(-1, top - FORK_DEPTH), -1):
                found = self.block_hash(number)
                if found is not None:
                    return Head(number, found, True)
        raise ChainUnreachable(f"no majority of chain nodes has the same head ({len(heads)} of {self._count} answer)")

    def block_hash(self, number: int) -> str | None:
        """The hash of a block; None where the chain, or a majority, has no block of this number, or no common one."""
        if self._nodes.majority == 1:
            block = self.ask("eth_getBlockByNumber", hex(number), False)
            return None if block is None else _hash(block)

        def one(endpoint: Endpoint) -> str | None:
            block = endpoint.result("eth_getBlockByNumber", hex(number), False)
            return None if block is None else _hash(block)

        return self._most(self._nodes.each(self._sound(), one))

    def nonce(self, address: str, expected: int | None) -> int:
        """How many transactions of the account are in blocks, by a majority.

        Two nodes that differ are believed where one says what is `expected`. Raises ChainUnreachable where there is no
        telling.
        """
        if self._count == 1:
            return self.ask_number("eth_getTransactionCount", address, "latest")
        counts: list[int] = self._nodes.each(
            [endpoint for endpoint in self._sound() if not endpoint.is_lagging],
            lambda e: int(e.result("eth_getTransactionCount", address, "latest"), 16),
        )
        agreed = self._most(counts)
        if agreed is not None and (self._nodes.majority > 1 or len(set(counts)) == 1):
            return agreed
        if expected is not None and expected in counts:
            return expected
        raise ChainUnreachable(f"the chain nodes do not agree on the nonce of {address}: {sorted(counts)}")

    def everywhere(self, method: str, *params: Any) -> list[Any]:
        """What the nodes answer, all that is not null; a majority may say something else. Raises ChainUnreachable."""
        nodes = self._sound()
        if len(nodes) < 2:
            answers = [self.ask(method, *params)]
        else:
            answers = self._nodes.each(nodes, lambda e: e.result(method, *params))
        if not answers:
            raise ChainUnreachable(f"{method}: no chain node answers")
        return [answer for answer in answers if answer is not None]

    def receipt(self, transaction: str) -> Receipt | None:
        """The receipt of a transaction, by a majority; None where it is in no block of the believed chain.

        `transaction` is its hash in lower case. Raises ChainUnreachable.
        """
        receipts = [_receipt(answer) for answer in self.everywhere("eth_getTransactionReceipt", transaction)]
        found = self._most([r for r in receipts if r is not None and r.transaction == transaction])
        return found if found is not None and self.block_hash(found.block) == found.block_hash else None

    def broadcast(self, raw: bytes) -> None:
        """Give a signed transaction to every node. Raises what the first said where none took it."""
        text = f"0x{raw.hex()}"
        nodes = self._nodes.usable()
        if len(nodes) < 2:
            self.ask("eth_sendRawTransaction", text)
            return
        answers = self._nodes.each(nodes, lambda e: e.ask("eth_sendRawTransaction", [text]))
        if not answers:
            raise ChainUnreachable("eth_sendRawTransaction: no chain node answers")
        if any("error" not in answer for answer in answers):
            return
        refusals = [refusal("eth_sendRawTransaction", answer["error"]) for answer in answers]
        for kind in (AlreadyKnown, NonceTooLow):
            for told in refusals:
                if isinstance(told, kind):
                    raise told
        raise refusals[0]

    @property
    def _count(self) -> int:
        return len(self._nodes.all)

    def _sound(self) -> list[Endpoint]:
        """The nodes that may have a say: on the right chain, and not failing just now."""
        self._nodes.survey()
        return [endpoint for endpoint in self._nodes.all if endpoint.is_checked and not endpoint.is_aside]

    def _most(self, answers: Sequence[T | None]) -> T | None:
        """What a majority of all nodes says; None where there is none."""
        counted = Counter(answer for answer in answers if answer is not None).most_common(1)
        return counted[0][0] if counted and counted[0][1] >= self._nodes.majority else None


def _number(block: Any, field: str) -> int:
    try:
        return int(block[field], 16)
    except (KeyError, TypeError, ValueError):
        raise ChainError(f"the node's block has no {field}") from None


def _hash(block: Any) -> str:
    """A block's hash, in lower case."""
    found = block.get("hash") if isinstance(block, dict) else None
    if not isinstance(found, str) or not _HASH.fullmatch(found):
        raise ChainError("the node's block has no hash")
    return found.lower()


def _receipt(answer: Any) -> Receipt | None:
    """A node's receipt; None for what is none."""
    try:
        return Receipt(
            transaction=answer["transactionHash"].lower(),
            block=int(answer["blockNumber"], 16),
            block_hash=answer["blockHash"].lower(),
            succeeded=int(answer["status"], 16) == 1,
            logs=tuple((log["address"].lower(), log["data"], *log["topics"]) for log in answer["logs"]),
            raw=answer,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
